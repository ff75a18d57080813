"""Classes B to E and the strongest removal known, on the models that are trained here: run, tables and plots.

Each point is attacked, checked as `weightmark check` does it and noted by the product's own rehearsal. Two nulls go the
same way: the same suspects against an owner who marked the same reference with another secret, and an innocent model
under the same attack: an independent one, or for trainings (class D) the unmarked reference itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cli.rehearse import Rehearsal, Rehearsed, RehearseRequest, RehearseResult
from cli.rehearse_sweep import BASELINE, Point
from cli.report_rehearse import draw_evidence
from cli.verdict import OURS
from scripts.forensics_points import Thief, has_null, points_of
from scripts.forensics_training import ALWAYS_WITH_NULLS, OTHER_TASK
from tests.attacks.trained_subjects import Subject, Trained
from watermark.attacks.finetune import movement
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
    """One point, the bits that another owner's key shows in the same suspect, and those of an innocent model.

    None where that null was not run. For trainings: how far the weights moved, and the loss before and after.
    """

    point: Rehearsed
    wrong_key: float | None
    innocent: float | None
    moved: float | None = None
    losses: tuple[float, float] | None = None

    @property
    def null(self) -> float:
        """The most that a null shows."""
        return max(self.wrong_key or 0.0, self.innocent or 0.0)

    def is_useful(self, subject: Subject) -> bool:
        """Worth stealing: enough of the quality, or a better loss where the model is for another task now."""
        if self.losses is not None and self.point.family in OTHER_TASK:
            return self.losses[1] < self.losses[0]
        return self.point.utility >= subject.useful


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
        thief = Thief(self.trained, self.whose, self.longest)
        points = points_of(which, thief)
        result = self.ours.run(points, self.measure, self._tell)
        null, stranger = ("unmarked", self.trained.child(0)) if which == "D" else ("independent", None)
        # The innocent's trainings must be kept apart from those of our copy.
        theirs = points_of(which, Thief(self.trained, null, self.longest))
        stranger = stranger or self.trained.independent()
        chosen = [n for n, point in enumerate(points) if n and (n % nulls_every == 1 % nulls_every or _is_new(point))]
        others = [self._instead(points[n], "wrong key", self.ours.state) for n in chosen]
        innocents = [self._instead(theirs[n], null, stranger) for n in chosen if has_null(theirs[n])]
        found = [
            *self.other.run([points[0], *others], None, self._tell).points,
            *self.ours.run([points[0], *innocents], self.measure, self._tell).points,
        ]
        bits = {point.key: point.bits for point in found}
        names = [(f"wrong key, {known.key}", f"{null}, {known.key}") for known in result.points]
        rows = [
            Row(known, bits.get(wrong_key), bits.get(innocent), *self._learned(point, thief))
            for point, known, (wrong_key, innocent) in zip(points, result.points, names, strict=True)
        ]
        return result, rows

    def _learned(self, point: Point, thief: Thief) -> tuple[float | None, tuple[float, float] | None]:
        """How far a training moved the weights, and the loss before and after; nothing for what is no training."""
        thief.learned = None
        state = self.ours.state
        if point.family == "untouched" or point.family == BASELINE:
            return None, None
        attacked = point.attack(state)
        if thief.learned is None:
            return None, None
        alike = {name: values for name, values in attacked.items() if values.shape == state[name].shape}
        return movement(state, alike), thief.learned()

    def _instead(self, point: Point, null: str, state: State) -> Point:
        """The same attack on these weights, whatever the copy is."""
        return replace(point, family=f"{null}, {point.family}", attack=lambda _: point.attack(state))

    def _tell(self, done: int, total: int, following: str) -> None:
        print(f"{self.subject.name}: {done} of {total}  {following}", file=sys.stderr, flush=True)


def _is_new(point: Point) -> bool:
    return point.family in ALWAYS_WITH_NULLS


def table(bench: Bench, result: RehearseResult, rows: list[Row]) -> Iterator[str]:
    """The lines of a Markdown table."""
    subject = bench.subject
    yield f"{bench.carriers:,} carriers at {result.strength:.1%}; quality: {subject.measure}\n"
    is_trained = any(row.losses for row in rows)
    more = ("weights moved", "own loss") if is_trained else ()
    heads = ("attack", "quality kept", "bits", "verdict", "copy", "wrong key", "innocent", *more)
    yield "| " + " | ".join(heads) + " |"
    yield "|---|---:|---:|---|---|---:|---:|" + "---:|" * len(more)
    for row in rows:
        point = row.point
        cells = (
            point.key,
            f"{point.utility:.1%}" + ("" if row.is_useful(subject) else " (ruined)"),
            f"{point.bits:,.0f}",
            point.verdict,
            "named" if point.recipient else "-",
            *("-" if bits is None else f"{bits:.0f}" for bits in (row.wrong_key, row.innocent)),
            *([_moved(row), _loss(row)] if is_trained else []),
        )
        yield "| " + " | ".join(cells) + " |"


def _moved(row: Row) -> str:
    return "-" if row.moved is None else f"{row.moved:.1%}"


def _loss(row: Row) -> str:
    return "-" if row.losses is None else " > ".join(f"{value:.3f}" for value in row.losses)


def lost(bench: Bench, rows: list[Row]) -> list[str]:
    """The useful models that are not found any more: where the mark ends."""
    useful = [row.point for row in rows if row.is_useful(bench.subject)]
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
        for bits in (row.wrong_key, row.innocent)
        if bits is not None and row.point.utility >= 0.5
    ]
    axes.scatter(*zip(*nulls, strict=True), s=14, color="#999999", clip_on=False, label="wrong keys, innocent models")
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
