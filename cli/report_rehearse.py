"""The answer of `rehearse`: what is left of the mark beside what is left of the model, as text, JSON and page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cli.answer import escaped, table
from cli.page import INK, LIMIT, SERIES, literal, plot, write_page
from cli.rehearse import BY_DISTANCE, USEFUL
from cli.rehearse_sweep import BASELINE
from cli.verdict import OURS
from watermark.evidence import THRESHOLD_RECIPIENT_LOG2_P

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from cli.rehearse import Rehearsed, RehearseResult

    _Row: TypeAlias = tuple[Rehearsed, str, str, str]

#: A quality this near to the whole is drawn nowhere.
_WHOLE = 0.001
_MARKERS = "os^Dvp*XP<>"
#: For each class its title and what it takes; noise and the untouched copy have none.
CLASSES = {
    "A": (
        "A. Disguises",
        "The function is what it was: costs the thief nothing, and must not cost the mark much.",
    ),
    "B": (
        "B. Edits of structure",
        "Units, blocks and shapes changed; lost blocks cost quality until they are relearned.",
    ),
    "C": ("C. Lossy", "Rounding, pruning, sharing, clipping, truncation: minutes, no data."),
    "D": ("D. Training", "Your own loop, with data: quality returns after damage, the mark does not."),
    "E": ("E. Merging", "With the public base and with fine-tunes of it by others."),
    "F": (
        "F. Collusion",
        "Recipients put their copies together. One of them should be named, and nobody else.",
    ),
    "": ("Your own attacks", "Functions that you named with --attack."),
}
PLAIN = ("The yardstick", "The untouched copy, and plain noise: degradation that knows nothing of marks.")
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
                "quality": _number(point.quality),
                "utility": _number(point.utility),
                "class": point.letter or None,
                "colluders": point.colluders,
                "log2_p_copy": None if point.copy_bits is None else -point.copy_bits,
                "accused": point.accused,
                "moved": point.moved,
            }
            for point in result.points
        ],
        "weakest_useful": result.weakest.key if result.weakest else None,
        "unnamed_coalitions": [point.key for point in result.unnamed],
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def text_of_rehearsal(result: RehearseResult) -> tuple[str, ...]:
    """The lines of `rehearse`: the weakest place first, then every point."""
    rows: list[tuple[object, ...]] = [("", "attack", "bits", "verdict", "copy", "quality kept")]
    for point in result.points:
        copy = named_copy(point)
        rows.append((point.letter, point.key, f"{point.bits:,.0f}", point.verdict, copy, _share(point)))
    return (
        _headline(result),
        *(f"  {line}" for line in notes_of_rehearsal(result)),
        *table(rows, right=(2, 5)),
        f"  quality: {escaped(result.measure)}; strength {result.strength:.4%} of each row's deviation",
        f"  kept in {escaped(result.work)}: the same command goes on there; delete it when you are done",
    )


def named_copy(point: Rehearsed) -> str:
    """Whether the code names who had the copy, or one of those who put theirs together, and with how many bits."""
    if point.accused is not None:
        return f"WRONGLY: {point.accused}"
    if not point.recipient:
        return "-"
    who = "a colluder" if point.colluders else "named"
    return who if point.copy_bits is None else f"{who}, {point.copy_bits:,.0f} bits"


def notes_of_rehearsal(result: RehearseResult) -> list[str]:
    """What the headline leaves out: coalitions of which nobody is named, and what could not be measured."""
    notes = [
        f"nobody is named of a useful coalition: {escaped(point.key)} ({point.bits:,.0f} bits that it is ours)"
        for point in result.unnamed
    ]
    silent = [point for point in result.points if math.isnan(point.utility)]
    if silent:
        why = "no distance between other shapes" if result.measure == BY_DISTANCE else "the measure could not tell"
        notes.append(f"quality unknown and not counted ({why}): {', '.join(escaped(point.key) for point in silent)}")
    return notes


def _headline(result: RehearseResult) -> str:
    weakest = result.weakest
    if result.accused:
        wrong = result.accused[0]
        return f"ACCUSES AN INNOCENT   {escaped(wrong.key)} names {escaped(str(wrong.accused))}; please report this"
    if weakest is None:
        return "UNDECIDED   no attack left 95 % of the quality: nothing useful was left to test"
    if result.erased:
        least = min(result.erased, key=lambda point: point.bits)
        more = f" (and {len(result.erased) - 1} more)" if len(result.erased) > 1 else ""
        return f"ERASED   {escaped(least.key)} leaves {_share(least)} of the quality and too little of the mark{more}"
    least_bits = f"weakest: {escaped(weakest.key)}, {weakest.bits:,.0f} bits"
    return f"HOLDS   every attack that leaves 95 % of the quality is found; {least_bits}"


def _share(point: Rehearsed) -> str:
    return "-" if math.isnan(point.utility) else f"{point.utility:.1%}"


def exit_code_of_rehearsal(result: RehearseResult) -> int:
    """0: every useful attack was found; 1: one was not, or somebody was wrongly named; 3: none was useful."""
    if result.weakest is None and not result.accused:
        return 3
    return int(bool(result.erased or result.accused))


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
        tone={"HOLDS": "not-shown", "UNDECIDED": "no-power"}.get(head, "ours"),
        notes=notes_of_rehearsal(result),
        sections=list(_sections(result)),
        needed_to_name=-THRESHOLD_RECIPIENT_LOG2_P,
        trained=any(point.letter == "D" for point in result.points),
        by_distance=result.measure == BY_DISTANCE,
    )


def _sections(result: RehearseResult) -> Iterator[tuple[str, str, Markup | None, list[_Row]]]:
    """For each class that was tried: its title, what it costs the thief, a plot, and the rows."""
    plain = [point for point in result.points if point.family in ("untouched", BASELINE)]
    letters = dict.fromkeys(point.letter for point in result.points if point not in plain)
    for letter in letters:
        points = [point for point in result.points if point.letter == letter and point not in plain]
        title, says = CLASSES[letter]
        drawn = _coalitions(points) if letter == "F" else _chart(points, plain, result, title)
        yield title, says, drawn, _rows(points)
    if plain:
        yield *PLAIN, None, _rows(plain)


def _rows(points: Sequence[Rehearsed]) -> list[_Row]:
    return [(point, named_copy(point), _share(point), _tone(point)) for point in points]


def _tone(point: Rehearsed) -> str:
    """How a row looks: a ruined model hardly matters, a useful one that is not found does."""
    if point.accused is not None or (point.utility >= USEFUL and point.verdict != OURS):
        return "lost"
    return "soft" if point.utility < USEFUL else ""


def _chart(
    members: Sequence[Rehearsed], plain: Sequence[Rehearsed], result: RehearseResult, title: str
) -> Markup | None:
    """Evidence against quality as a plot of the page; None where no quality is known, or all of it is kept."""
    known = [point.utility for point in members if not math.isnan(point.utility)]
    if all(abs(utility - 1) < _WHOLE for utility in known):
        return None
    points = [*plain, *members]
    says = f"{title}: bits of evidence against quality kept, one line for each family of attacks"
    return plot(lambda axes: draw_evidence(axes, points, result.threshold, useful=USEFUL), height=4.6, says=says)


def _coalitions(points: Sequence[Rehearsed]) -> Markup:
    """Bits that name a colluder against the size of the coalition, a line a rule."""

    def draw(axes: Axes) -> None:
        families: dict[str, list[Rehearsed]] = {}
        for point in points:
            families.setdefault(point.family, []).append(point)
        for number, (family, members) in enumerate(families.items()):
            line = sorted(members, key=lambda point: point.colluders)
            axes.plot(
                [point.colluders for point in line],
                [point.copy_bits or 0.0 for point in line],
                color=SERIES[number % len(SERIES)],
                marker=_MARKERS[number % len(_MARKERS)],
                label=literal(family.removeprefix("collusion, ")),
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({point.colluders for point in points}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yscale("symlog", linthresh=10)
        axes.set_ylim(0, max(point.copy_bits or 0.0 for point in points) * 3 + 100)
        axes.axhline(-THRESHOLD_RECIPIENT_LOG2_P, color=LIMIT, linestyle=":", linewidth=1.5)
        needed = f"needed to name one: {-THRESHOLD_RECIPIENT_LOG2_P:.0f}"
        place = (0, -THRESHOLD_RECIPIENT_LOG2_P)
        axes.annotate(needed, place, xycoords=("axes fraction", "data"), color=LIMIT, va="bottom")
        axes.set_xlabel("copies put together")
        axes.set_ylabel("bits that name a colluder")
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        _ink(legend.get_texts(), INK)

    return plot(draw, height=4.0, says="Bits that name a colluder against the number of copies, one line for each rule")


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
