"""The answer of `check` as a page: for people who would rather look than read, on a screen or on paper.

Judges nothing: the job's result has the verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.answer import counted
from cli.page import INK, LIMIT, SERIES, literal, plot, write_page
from cli.report_time import row_of_order
from cli.report_verdicts import OURS, next_of_check, verdict_line

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from cli.check import CheckRequest
    from cli.verdict import CheckResult, TestResult

_LINEAR_BITS = 10


def write_check_page(path: Path, request: CheckRequest, result: CheckResult) -> None:
    """Write the page of `check --report`, in one step; a page of that name is replaced."""
    head, _, sentence = verdict_line(result).partition("   ")
    sentence = f"the suspect {sentence}" if result.verdict == OURS else sentence
    write_page(
        path,
        "check.html.j2",
        title=f"{head}: {request.suspect}",
        result=result,
        verdict=head,
        sentence=f"{sentence[:1].upper()}{sentence[1:]}.",
        suspect=request.suspect,
        model=" ".join(part for part in (result.name, result.version) if part),
        adjusted="none" if result.log2_p_adjusted is None else f"log2 p = {result.log2_p_adjusted:,.1f}",
        order=row_of_order(result.order, result.ordered_at, result.order_source)[1],
        chart=_bars(result.tests, result.threshold),
        left_out=Counter(reason for _, reason in result.excluded).most_common(),
        paid=[counted(count, what.removesuffix("s")) for what, count in result.multiplicity],
        steps=[step.strip().removeprefix("next: ") for step in next_of_check(request, result)],
    )


def _bars(tests: Sequence[TestResult], threshold: float) -> Markup | None:
    """Bits of each test as bars beside the threshold; None where no test was run."""
    shown = [(test.name, max(0.0, -test.log2_p)) for test in tests if test.log2_p is not None]
    if not shown:
        return None

    def draw(axes: Axes) -> None:
        places = range(len(shown))
        axes.barh(places, [bits for _, bits in shown], color=SERIES[0], height=0.62)
        axes.set_yticks(places, [literal(name) for name, _ in shown])
        axes.invert_yaxis()
        axes.set_xscale("symlog", linthresh=_LINEAR_BITS)
        axes.set_xlim(0, max(-threshold, *(bits for _, bits in shown)) * 4)
        axes.axvline(-threshold, color=LIMIT, linestyle="--", linewidth=1.5)

        def beside(text: str, place: tuple[float, float], color: str, vertical: str) -> None:
            axes.annotate(text, place, (4, 0), textcoords="offset points", color=color, va=vertical)

        beside(f"needed: {-threshold:,.0f}", (-threshold, -0.6), LIMIT, "bottom")
        for place, (_, bits) in zip(places, shown, strict=True):
            beside(f"{bits:,.0f}", (bits, place), INK, "center")
        axes.set_xlabel("bits of evidence")

    return plot(draw, height=0.9 + 0.38 * len(shown), says="Bits of evidence of each test")
