"""The answer of `rehearse`: what is left of the mark beside what is left of the model, as text, JSON and page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cli.answer import escaped, table
from cli.page import INK, LIMIT, SERIES, literal, plot, write_page
from cli.rehearse import USEFUL
from cli.rehearse_sweep import BASELINE

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from cli.rehearse import Rehearsed, RehearseResult

_MARKERS = "os^Dvp*XP<>"
_TICKS = (0, 50, 80, 90, 95, 98, 99, 100, 101, 102, 105, 110, 120, 150, 200, 300)


def json_of_rehearsal(result: RehearseResult) -> dict[str, Any]:
    """The document of `rehearse --json`; `utility` is null where the measure has no meaning as a share."""
    return {
        "strength": result.strength,
        "expected_log2_p": result.expected_log2_p,
        "measure": result.measure,
        "threshold": result.threshold,
        "points": [
            {
                "family": point.family,
                "strength": point.strength,
                "verdict": point.verdict,
                "recipient_found": point.recipient,
                "log2_p_adjusted": -point.bits,
                "quality": None if math.isnan(point.quality) else point.quality,
                "utility": None if math.isnan(point.utility) else point.utility,
            }
            for point in result.points
        ],
        "weakest_useful": result.weakest.key if result.weakest else None,
    }


def text_of_rehearsal(result: RehearseResult) -> tuple[str, ...]:
    """The lines of `rehearse`: the weakest place first, then every point."""
    rows: list[tuple[object, ...]] = [("attack", "bits", "verdict", "copy", "quality kept")]
    for point in result.points:
        found = "named" if point.recipient else "-"
        rows.append((point.key, f"{point.bits:,.0f}", point.verdict, found, _share(point)))
    return (
        _headline(result),
        *table(rows, right=(1, 4)),
        f"  quality: {escaped(result.measure)}; strength {result.strength:.4%} of each row's deviation",
        f"  kept in {escaped(result.work)}: the same command goes on there; delete it when you are done",
    )


def _headline(result: RehearseResult) -> str:
    weakest = result.weakest
    if weakest is None:
        return "UNDECIDED   no attack left 95 % of the quality: nothing useful was left to test"
    if result.erased:
        first = result.erased[0]
        return f"ERASED   {escaped(first.key)} leaves {_share(first)} of the quality and too little of the mark"
    least = f"weakest: {escaped(weakest.key)}, {weakest.bits:,.0f} bits"
    return f"HOLDS   every attack that leaves 95 % of the quality is found; {least}"


def _share(point: Rehearsed) -> str:
    return "-" if math.isnan(point.utility) else f"{point.utility:.1%}"


def exit_code_of_rehearsal(result: RehearseResult) -> int:
    """0 when every useful attack was found, 1 when one was not, 3 when none was useful."""
    if result.weakest is None:
        return 3
    return int(bool(result.erased))


def write_rehearsal_page(path: Path, result: RehearseResult, model: Path) -> None:
    """Write the page of `rehearse --report`, in one step."""
    head, _, sentence = _headline(result).partition("   ")
    write_page(
        path,
        "rehearse.html.j2",
        title=f"{head}: rehearsal of {model}",
        result=result,
        model=model,
        verdict=head,
        sentence=f"{sentence[:1].upper()}{sentence[1:]}.",
        tone={"HOLDS": "not-shown", "ERASED": "ours"}.get(head, "no-power"),
        chart=_chart(result),
        rows=[(point, _share(point)) for point in result.points],
    )


def _chart(result: RehearseResult) -> Markup | None:
    """Evidence against quality as a plot of the page."""
    if all(math.isnan(point.utility) for point in result.points):
        return None
    says = "Bits of evidence against quality kept, one line for each family of attacks"
    return plot(lambda axes: draw_evidence(axes, result.points, result.threshold, useful=USEFUL), height=5.2, says=says)


def draw_evidence(
    axes: Axes,
    points: Sequence[Rehearsed],
    threshold: float,
    *,
    useful: float,
    colours: Sequence[str] = SERIES,
    ink: str = INK,
    limit: str = LIMIT,
) -> None:
    """Evidence against quality, a line a family; the corner at the upper left is where a thief ends."""
    shown = [point for point in points if not math.isnan(point.utility)]
    families: dict[str, list[Rehearsed]] = {}
    for point in shown:
        families.setdefault(point.family, []).append(point)
    for number, (family, members) in enumerate(families.items()):
        line = sorted(members, key=lambda point: point.utility)
        is_baseline = family == BASELINE
        axes.plot(
            [point.utility * 100 for point in line],
            [point.bits for point in line],
            color=ink if is_baseline else colours[number % len(colours)],
            linewidth=3 if is_baseline else 1.5,
            marker=_MARKERS[number % len(_MARKERS)],
            linestyle="--" if number >= len(colours) else "-",
            label=f"{family}: knows no mark" if is_baseline else literal(family),
        )
    axes.set_xscale("function", functions=(_stretched, _back))
    axes.set_xticks([share for share in _TICKS if axes.get_xlim()[0] <= share <= axes.get_xlim()[1]], minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, max(point.bits for point in shown) * 3 + 10)
    axes.axhline(-threshold, color=limit, linestyle=":", linewidth=1.5)
    axes.annotate(
        f"needed: {-threshold:,.0f}", (0, -threshold), xycoords=("axes fraction", "data"), color=limit, va="bottom"
    )
    axes.axvline(useful * 100, color=ink, linestyle=":", linewidth=1)
    axes.annotate("useful from here", (useful * 100, 1), xycoords=("data", "axes fraction"), color=ink, va="bottom")
    axes.set_xlabel("quality kept, %")
    axes.set_ylabel("bits of evidence")
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _ink(legend.get_texts(), ink)


def _stretched(quality: Any) -> Any:
    """Where a quality in per cent stands on its axis: what costs a thief next to nothing is told apart."""
    lost = np.asarray(quality, np.float64) - 100
    return np.sign(lost) * np.log1p(np.abs(lost))


def _back(place: Any) -> Any:
    """The quality that stands at this place."""
    place = np.asarray(place, np.float64)
    return 100 + np.sign(place) * np.expm1(np.abs(place))


def _ink(texts: Sequence[Any], ink: str) -> None:
    for text in texts:
        text.set_color(ink)
