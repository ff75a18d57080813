"""Classes B to E and the strongest removal known, on the models that are trained here: run, tables and plots.

Each point is attacked, checked as `weightmark check` does it and noted by the product's own rehearsal. Two nulls go the
same way: the same suspects against an owner who marked the same reference with another secret, and an independent model
under the same attack.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cli.rehearse import Rehearsal, Rehearsed, RehearseRequest, RehearseResult
from cli.rehearse_sweep import Point
from cli.report_rehearse import draw_evidence
from cli.verdict import OURS
from scripts.forensics_points import Thief, has_null, points_of
from tests.attacks.trained_subjects import Subject, Trained
from watermark.attacks.interface import State
from watermark.evidence import THRESHOLD_LOG2_P
from watermark.model.torch_state import load_state

COLOURS = ("#1f5fa8", "#b3541e", "#2f7d4f", "#7b4fa3", "#9c2f55", "#4d6b00", "#00707a", "#6b5b45")
#: A mark must hold everywhere from this many carriers on; below, the table says where it ends.
PROMISED_CARRIERS = 1_000_000
#: More than this, after everything that was tried is paid for, chance shows once in 65,000 nulls.
NULL_BITS = 16.0
TITLES = {
    "B": "class B, structure edits",
    "C": "class C, lossy",
    "D": "class D, training",
    "E": "class E, merging",
    "E, base declared": "class E, merging, with the base declared at release",
    "strongest": "the strongest removal known",
}


@dataclass(frozen=True)
class Row:
    """One point, the bits that another owner's key shows in the same suspect, and those of an independent model.

    None where that null was not run.
    """

    point: Rehearsed
    wrong_key: float | None
    independent: float | None

    @property
    def null(self) -> float:
        """The most that a null shows."""
        return max(self.wrong_key or 0.0, self.independent or 0.0)


class Bench:
    """One subject: the marked model, an owner with another secret, and an independent model."""

    def __init__(self, subject: Subject, folder: Path, longest: int, *, is_based: bool = False) -> None:
        self.subject, self.trained, self.longest = subject, Trained(subject, folder / subject.name), longest
        self.trained.folder.mkdir(parents=True, exist_ok=True)
        self.trained.child(0)
        base = str(self.trained.folder / "base-1") if is_based else None
        if is_based:
            self.trained.base()
        self.whose = "based copy" if is_based else "copy"
        self.ours, self.other = (
            Rehearsal(
                RehearseRequest(
                    self.trained.folder / "child-1-0", self.trained.folder / f"{name}{' based' * is_based}", base
                )
            )
            for name in ("ours", "other owner")
        )
        self.carriers = sum(weight.numel() for weight in self.ours.state.values() if weight.dim() > 1)

    def measure(self, folder: Path) -> float:
        """The subject's own quality of a model on disk."""
        return self.subject.quality(load_state(folder))

    def run(self, which: str, nulls_every: int) -> tuple[RehearseResult, list[Row]]:
        """All points of a class, and the nulls beside one point in so many."""
        points = points_of(which, Thief(self.trained, self.whose, self.longest))
        result = self.ours.run(points, self.measure, self._tell)
        # The stranger's trainings must be kept apart from those of our copy.
        theirs = points_of(which, Thief(self.trained, "independent", self.longest))
        stranger = self.trained.independent()
        wrong = [self._instead(point, "wrong key", self.ours.state) for point in points[1::nulls_every]]
        innocent = [
            self._instead(point, "independent", stranger) for point in theirs[1::nulls_every] if has_null(point)
        ]
        found = [
            *self.other.run([points[0], *wrong], self.measure, self._tell).points,
            *self.ours.run([points[0], *innocent], self.measure, self._tell).points,
        ]
        bits = {point.key: point.bits for point in found}
        rows = [
            Row(point, bits.get(f"wrong key, {point.key}"), bits.get(f"independent, {point.key}"))
            for point in result.points
        ]
        return result, rows

    def _instead(self, point: Point, null: str, state: State) -> Point:
        """The same attack on these weights, whatever the copy is."""
        return replace(point, family=f"{null}, {point.family}", attack=lambda _: point.attack(state))

    def _tell(self, done: int, total: int, following: str) -> None:
        print(f"{self.subject.name}: {done} of {total}  {following}", file=sys.stderr, flush=True)


def table(bench: Bench, result: RehearseResult, rows: list[Row]) -> Iterator[str]:
    """The lines of a Markdown table."""
    subject = bench.subject
    yield f"{bench.carriers:,} carriers at {result.strength:.1%}; quality: {subject.measure}\n"
    yield "| attack | quality kept | bits | verdict | copy | wrong key | independent |"
    yield "|---|---:|---:|---|---|---:|---:|"
    for row in rows:
        point = row.point
        is_useful = point.utility >= subject.useful
        cells = (
            point.key,
            f"{point.utility:.1%}" + ("" if is_useful else " (ruined)"),
            f"{point.bits:,.0f}",
            point.verdict,
            "named" if point.recipient else "-",
            *("-" if bits is None else f"{bits:.0f}" for bits in (row.wrong_key, row.independent)),
        )
        yield "| " + " | ".join(cells) + " |"


def lost(bench: Bench, rows: list[Row]) -> list[str]:
    """The useful models that are not found any more: where the mark ends."""
    useful = [row.point for row in rows if row.point.utility >= bench.subject.useful]
    return [f"{one.key}: {one.bits:.0f} bits, quality {one.utility:.1%}" for one in useful if one.verdict != OURS]


def shortfalls(bench: Bench, rows: list[Row]) -> list[str]:
    """What is less than promised, in words: useful large models that are lost, and nulls that speak, for any model."""
    speaking = [f"{row.point.key}: a null shows {row.null:.0f} bits" for row in rows if row.null > NULL_BITS]
    return speaking + (lost(bench, rows) if bench.carriers >= PROMISED_CARRIERS else [])


def draw(bench: Bench, rows: list[Row], title: str, path: Path) -> None:
    """Evidence against quality as an SVG; ruined models below half of the quality are left out."""
    from matplotlib.figure import Figure

    points = [row.point for row in rows if row.point.utility >= 0.5]
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    axes = figure.subplots()
    draw_evidence(
        axes, points, THRESHOLD_LOG2_P, useful=bench.subject.useful, colours=COLOURS, ink="#222222", limit="#a00000"
    )
    nulls = [
        (row.point.utility * 100, bits)
        for row in rows
        for bits in (row.wrong_key, row.independent)
        if bits is not None and row.point.utility >= 0.5
    ]
    axes.scatter(
        *zip(*nulls, strict=True), s=14, color="#999999", clip_on=False, label="wrong keys, independent models"
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.set_title(f"{bench.subject.name}, {bench.carriers:,} carriers: {title}\n", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def run_class(which: str, subject: Subject, folder: Path, nulls_every: int, longest: int) -> list[str]:
    """Run a class on one subject, print its tables, write its plots; what falls short."""
    short: list[str] = []
    for is_based in (False, True) if which == "E" else (False,):
        bench = Bench(subject, folder, longest, is_based=is_based)
        name = f"{which}, base declared" if is_based else which
        result, rows = bench.run(which, nulls_every)
        print(f"\n### {subject.name}: {TITLES[name]}\n")
        print("\n".join(table(bench, result, rows)), flush=True)
        draw(bench, rows, TITLES[name], folder / f"{subject.name}-{name.replace(', ', '-').replace(' ', '-')}.svg")
        print("\nends at: " + ("; ".join(lost(bench, rows)) or "none of these"), flush=True)
        short += [f"{subject.name}, {line}" for line in shortfalls(bench, rows)]
    return short
