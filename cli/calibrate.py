"""Measure what the mark costs in each tensor, on a scratch copy, and choose the strength of each by it.

The trials use the mark's own arithmetic with a key that anyone can derive: the same grid, the same exact zeros, no
secret. A group of tensors is moved one way and the other, so that what is linear in the change cancels, and the
user's measure is asked each time. Every number is noted as soon as it is known: a run that was cut goes on. Knows no
records, no signatures and no log.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cli.callables import load_measure
from cli.mark_record import Calibration
from cli.written import shipped_path, write_copies
from registry.signing.small_files import replace_file
from watermark.errors import InputError
from watermark.marks.geometry import OWNER_ENERGY, ppm_of
from watermark.marks.plan import plan_mark
from watermark.marks.secret import ReleaseKey
from watermark.marks.shaping import CAP, Sensitivity, group_tensors, shape_strengths
from watermark.marks.survey import Survey, TensorSurvey, read_base
from watermark.marks.weights import Embedder
from watermark.model.digest import Span
from watermark.model.directory import Model
from watermark.model.rewrite import NewBytes, rewrite_shard

#: Told how many trials are done, and of about how many.
Telling: TypeAlias = Callable[[int, int], None]
#: What stands in for an owner's secret: trials must be the same for everybody, and hide nothing.
_PUBLIC = b"weightmark calibration, public.."
#: Groups are first moved by this many times the uniform strength, then by the cap.
_TIMES_UNIFORM = 2.0
#: Resolution of a mean of some hundred numbers that were computed in float32, as a share of it.
_RESOLUTION = 2.0**-26
#: A cost under so many times the measure's own noise is not seen.
_CLEARLY = 3.0
_HINT_FINE = (
    "calibration needs a number that moves with every small change of the weights: minus a mean loss, not an accuracy"
)


@dataclass(frozen=True)
class Subject:
    """What is calibrated: the unmarked model and its survey, and the declared base with its names and digest."""

    model: Model
    found: Survey
    base: Model | None = None
    base_names: Mapping[str, str] | None = None
    base_digest: str | None = None


def calibrate(
    subject: Subject, uniform: float, measure: str, notes: Path | None, telling: Telling | None = None
) -> tuple[dict[str, int], Calibration]:
    """Choose the strength of each tensor (digest to millionths), no weaker in bits than `uniform` everywhere.

    Where the shaped mark does not cost less by the measure itself, the strengths stay uniform.

    Args:
        subject: the unmarked model.
        uniform: the strength that one for all would have.
        measure: `python:MODULE:FUNCTION`, called with a model folder; a number, higher for better.
        notes: where numbers are kept until the release is made; None keeps none.
        telling: told how many trials are done.

    Raises:
        InputError: the measure cannot be used, or does not see what a mark changes.
        CapacityError: as `plan_mark`.
    """
    asked = load_measure(measure)
    key = ReleaseKey.of(_PUBLIC, subject.found.reference_digest)
    plan = plan_mark(key, subject.found, base=subject.base_digest, strength=uniform)
    carrying = [plan.surveys[tensor.digest] for tensor in plan.geometry.marked]
    groups = group_tensors(carrying)
    with tempfile.TemporaryDirectory(prefix="weightmark-calibrate-") as folder:
        scratch = _Scratch(subject, Embedder(plan, [None], bytes(32)), Path(folder) / "model")
        about = 2 * len(groups) + 6
        trials = _Trials(scratch, asked, _Notes(notes, f"{measure} {ppm_of(uniform)}"), telling, about)
        costs = _costs_of_groups(trials, groups, uniform, measure)
        tensors = [
            Sensitivity(survey, None if cost is None else cost * survey.carriers / _carriers(group))
            for group, cost in zip(groups, costs, strict=True)
            for survey in group
        ]
        everywhere = {survey.digest.hex(): ppm_of(uniform) for survey in carrying}
        strengths = shape_strengths(tensors, uniform)
        shaped = {one.survey.digest.hex(): ppm for one, ppm in zip(tensors, strengths, strict=True)}
        cost_uniform, cost_shaped = trials.cost(everywhere), trials.cost(shaped)
        if telling is not None:
            telling(about, about)
    if cost_shaped >= cost_uniform:
        shaped, cost_shaped = everywhere, cost_uniform
    unseen = sum(one.cost is None for one in tensors)
    return shaped, Calibration(measure, ppm_of(uniform), trials.count, cost_uniform, cost_shaped, unseen)


def _carriers(group: Sequence[TensorSurvey]) -> int:
    return sum(survey.carriers for survey in group)


def _costs_of_groups(
    trials: _Trials, groups: Sequence[Sequence[TensorSurvey]], uniform: float, measure: str
) -> list[float | None]:
    """C of each group: what moving it costs, over the square of how far; None where the measure does not see it.

    What is not seen may matter on other data, so it is not raised: an expert that no text was routed to, for one.
    """

    def moved(group: Sequence[TensorSurvey], alpha: float) -> float:
        return trials.cost({survey.digest.hex(): ppm_of(alpha) for survey in group})

    alpha, farther = min(CAP, _TIMES_UNIFORM * uniform), max(CAP, uniform)
    found = [(moved(group, alpha), alpha) for group in groups]
    noise = max(trials.noise, *(-cost for cost, _ in found))  # no change of a finished model makes it better both ways
    for number, group in enumerate(groups):
        if found[number][0] <= _CLEARLY * noise and farther > alpha:
            found[number] = moved(group, farther), farther
    noise = max(noise, *(-cost for cost, _ in found))
    seen = [cost / (far * far) if cost > _CLEARLY * noise else None for cost, far in found]
    carriers = sum(map(_carriers, groups))
    of_seen = sum(_carriers(group) for group, cost in zip(groups, seen, strict=True) if cost is not None)
    if 2 * of_seen < carriers:
        raise InputError(
            f"the measure of quality {measure!r} does not see what a mark costs: for {carriers - of_seen:,} of "
            f"{carriers:,} weights its answer shows nothing above its own noise ({noise:.2g})",
            hint=_HINT_FINE,
        )
    return seen


class _Trials:
    """Asks the measure about moved weights; every question once, and what was noted before not again."""

    def __init__(
        self,
        scratch: _Scratch,
        measure: Callable[[Path], float],
        notes: _Notes,
        telling: Telling | None,
        about: int,
    ) -> None:
        self._scratch, self._measure, self._telling, self._about = scratch, measure, telling, about
        self._notes = notes
        self.count = 2
        self._untouched = measure(scratch.put({}))
        self.noise = max(abs(measure(scratch.put({})) - self._untouched), _RESOLUTION * abs(self._untouched))
        notes.begin(self._untouched, self.noise)

    def cost(self, strengths: Mapping[str, int]) -> float:
        """What the measure loses, on average of both ways, when the tensors are moved by these strengths."""
        there, back = (self._quality({d: sign * ppm for d, ppm in strengths.items()}) for sign in (1, -1))
        return self._untouched - (there + back) / 2

    def _quality(self, strengths: Mapping[str, int]) -> float:
        name = hashlib.sha256(json.dumps(sorted(strengths.items())).encode()).hexdigest()
        found = self._notes.known.get(name)
        if found is None:
            found = self._measure(self._scratch.put(strengths))
            self._notes.add(name, found)
        self.count += 1
        if self._telling is not None:
            self._telling(min(self.count, self._about), self._about)
        return found


class _Scratch:
    """A copy of the unmarked model in which some tensors are moved; only the files that hold them are written anew."""

    def __init__(self, subject: Subject, embedder: Embedder, folder: Path) -> None:
        self._subject, self._embedder, self._folder = subject, embedder, folder
        self._moved: set[str] = set()
        folder.mkdir()
        untouched = self._change({})
        write_copies(subject.model, lambda path, to: rewrite_shard(subject.model, path, to, untouched), [folder])

    def put(self, strengths: Mapping[str, int]) -> Path:
        """The folder, with these tensors moved so far and all others as they were."""
        model = self._subject.model
        names = [name for digest in strengths for name in self._embedder.plan.surveys[digest].names]
        shards = {model.tensors[name].shard for name in names}
        for shard in sorted(shards | self._moved):
            target = self._folder / shipped_path(model, shard)
            draft = target.with_name(f".{target.name}.trial")
            rewrite_shard(model, shard, [draft], self._change(strengths))
            os.replace(draft, target)
        self._moved = shards
        return self._folder

    def _change(self, strengths: Mapping[str, int]) -> Callable[[Span, bytes], NewBytes]:
        # Without a recipient the owner's layer is alone: it stands for the energy of both.
        both = {digest: ppm / 1e6 / OWNER_ENERGY**0.5 for digest, ppm in strengths.items()}
        embedder, subject = self._embedder.at(both), self._subject
        return lambda span, raw: embedder.mark(span, raw, read_base(subject.base, subject.base_names, span))


class _Notes:
    """What was measured so far, in a file whose first line says of what: another measure or model begins anew."""

    def __init__(self, path: Path | None, title: str) -> None:
        self._path, self._title = path, title
        self.known: dict[str, float] = {}

    def begin(self, untouched: float, noise: float) -> None:
        """Take up what is noted, where the untouched model is still worth what it was."""
        if self._path is None:
            return
        lines = self._path.read_text("utf-8").split("\n")[:-1] if self._path.exists() else []
        try:
            head, *rest = [json.loads(line) for line in lines]
            if head["of"] == self._title and abs(float(head["untouched"]) - untouched) <= noise:
                self.known = {str(one["trial"]): float(one["quality"]) for one in rest}
        except (ValueError, KeyError, TypeError):
            self.known = {}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        documents = [{"of": self._title, "untouched": untouched}]
        documents += [{"trial": name, "quality": quality} for name, quality in self.known.items()]
        replace_file(self._path, "".join(json.dumps(one) + "\n" for one in documents).encode("utf-8"))

    def add(self, name: str, quality: float) -> None:
        """Note one answer."""
        self.known[name] = quality
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps({"trial": name, "quality": quality}) + "\n")
