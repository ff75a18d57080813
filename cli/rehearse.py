"""The job of `weightmark rehearse`: attack a marked copy of one's own model before a thief does.

A throw-away owner releases the model inside the work folder, so nothing of the real home is touched or spent. The copy
is attacked at rising strength and checked as `check` does it, and each result stands beside what the attack costs the
thief in quality, by the user's own measure or else by distance in weights. Noise is the yardstick: degradation that
knows nothing of marks. Every point is noted as soon as it is known: the same command goes on where it stopped, with as
many processes as are wanted.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cli.callables import load_callable, load_measure
from cli.check import CheckRequest, check_unlocked
from cli.examine import TRACE_LOOKS
from cli.home import Home
from cli.owner_secrets import OwnerSecrets
from cli.rehearse_coalition import COLLUDERS, coalition_points, colluder, require_colluders
from cli.rehearse_layout import config_of, layout_points
from cli.rehearse_sweep import BASELINE, Point, chosen, sweep
from cli.rehearse_training import SHARES, in_folders, require_shares, training_points
from cli.rehearse_workers import spread
from cli.release import ReleaseRequest, ReleaseResult, release
from cli.verdict import OURS, CheckResult
from registry.signing.small_files import replace_file
from watermark.errors import DocumentError, InputError
from watermark.evidence import THRESHOLD_LOG2_P, add_multiplicity
from watermark.marks.trace import RECIPIENT as RECIPIENT_TEST

if TYPE_CHECKING:
    import torch

    State: TypeAlias = dict[str, torch.Tensor]

#: Told how many points are done, of how many, and what comes next.
Telling: TypeAlias = Callable[[int, int, str], None]
OWNER, RECIPIENT = "rehearsal", "the recipient"
#: What stands in for a passphrase: nothing of the throw-away owner is worth one.
_PHRASE = b"a rehearsal keeps no secret"
_NOTES, _PLAN, _COALITION = "points.jsonl", "rehearsal.json", "coalition.json"
BY_DISTANCE = "distance in weights"
#: The literature counts an attack only while the model keeps this share of its quality.
USEFUL = 0.95


@dataclass(frozen=True)
class RehearseRequest:
    """Which model to rehearse with, where, and how its quality is measured.

    `quality` is `python:MODULE:FUNCTION`, called with the folder of a model and giving a number, higher for better;
    `attacks` are such functions too, called with a state dict and giving another; `train` is one that trains a model
    (`rehearse_training`), for each of `shares`. `families` and `classes` limit the sweep. `siblings` are fine-tunes of
    the same base by others; `colluders` how many copies are put together at most; `jobs` how many points are tried at
    a time. `calibrate` is the measure by which `release` would choose the strengths of the mark.
    """

    model: Path
    work: Path
    base: str | None = None
    strength: float | None = None
    quality: str | None = None
    attacks: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    train: str | None = None
    shares: tuple[float, ...] = SHARES
    siblings: tuple[str, ...] = ()
    colluders: int = COLLUDERS
    jobs: int = 1
    calibrate: str | None = None


@dataclass(frozen=True)
class Rehearsed:
    """One attack and what it left: bits of evidence after everything tried, and the share of quality.

    Attributes:
        recipient: a copy that was attacked is named: the one there is, or one of the colluders'.
        bits: of the owner's mark.
        quality: what the measure said; NaN where it cannot say.
        utility: its share of the untouched copy's, NaN where that has no meaning.
        letter: the class of the attack; empty for noise and the caller's own.
        colluders: how many put their copies together; 0 for one thief.
        copy_bits: of the recipient's code that shows most; None where none was looked for.
        accused: a recipient who is named and whose copy was not attacked; None as it should be.
        moved: how far the weights moved, as a share of their size; None where tensors changed their shape or name.
    """

    family: str
    strength: str
    verdict: str
    recipient: bool
    bits: float
    quality: float
    utility: float
    letter: str = ""
    colluders: int = 0
    copy_bits: float | None = None
    accused: str | None = None
    moved: float | None = None

    @property
    def key(self) -> str:
        """Family and strength, as the sweep names it."""
        return f"{self.family} {self.strength}".strip()


@dataclass(frozen=True)
class RehearseResult:
    """All points, how quality was measured, the strength of the mark and its prediction for an untouched copy."""

    points: tuple[Rehearsed, ...]
    measure: str
    strength: float
    expected_log2_p: float
    threshold: float
    work: Path

    @property
    def useful(self) -> list[Rehearsed]:
        """The points that leave a model worth stealing."""
        return [point for point in self.points if point.utility >= USEFUL]

    @property
    def weakest(self) -> Rehearsed | None:
        """The useful point with the least evidence; None without any."""
        return min(self.useful, key=lambda point: point.bits, default=None)

    @property
    def erased(self) -> list[Rehearsed]:
        """The useful points at which the mark no longer proves anything."""
        return [point for point in self.useful if point.verdict != OURS]

    @property
    def accused(self) -> list[Rehearsed]:
        """The points at which somebody is named whose copy was not attacked."""
        return [point for point in self.points if point.accused is not None]

    @property
    def unnamed(self) -> list[Rehearsed]:
        """The useful models of coalitions of which nobody is named."""
        return [point for point in self.useful if point.colluders and not point.recipient]


def rehearse(request: RehearseRequest, progress: Telling | None = None) -> RehearseResult:
    """Mark, attack, check, measure; the points already noted in the work folder are not run again.

    `progress` is told how many points are done, of how many, and what comes next.

    Raises:
        InputError: the work folder belongs to another rehearsal, or a function of the user cannot be used.
        MarkError: the model cannot carry a mark.
    """
    require_colluders(request.colluders)
    require_shares(request.shares)
    measure = load_measure(request.quality) if request.quality else None
    rehearsal = Rehearsal(request, progress)
    return rehearsal.run(planned(rehearsal), measure, progress)


def planned(rehearsal: Rehearsal) -> tuple[Point, ...]:
    """The points that a request asks for.

    Raises:
        InputError: a function of the user cannot be used, or nothing has the name of a family or class.
    """
    from watermark.attacks.recognise import recognise
    from watermark.model.torch_state import load_state

    request, work = rehearsal.request, rehearsal.request.work
    custom = {name.removeprefix("python:"): load_callable(name) for name in request.attacks}
    base = load_state(Path(request.base), allow_torch=True) if request.base else None
    siblings = [load_state(Path(one), allow_torch=True) for one in request.siblings]
    points = [
        *sweep(base, custom, siblings),
        *layout_points(recognise(rehearsal.state, config_of(rehearsal.copy))),
        *coalition_points(rehearsal.copies_of, request.colluders),
    ]
    if request.train is not None:
        folder = work / f"training-{os.getpid()}"
        train = in_folders(load_callable(request.train), request.train, folder, rehearsal.write)
        points += training_points(train, request.shares)
    return chosen(sorted(points, key=_place), request.families, request.classes)


def _place(point: Point) -> str:
    """Where a point stands in tables: untouched and noise, the classes in order, the caller's own."""
    return point.letter or ("" if point.family in ("untouched", BASELINE) else "Z")


class Rehearsal:
    """A marked copy in a work folder and what was tried on it, for whoever brings points and a measure of his own.

    `state` are the weights of the copy that a throw-away owner released, made once and found again later.
    """

    def __init__(self, request: RehearseRequest, progress: Telling | None = None) -> None:
        """Release the copy, or find it in a folder that holds this very rehearsal."""
        from watermark.model.torch_state import load_state

        self.request = request
        self.copy, self.expected_log2_p, self.strength = _marked_copy(request, progress)
        self.state: dict[str, torch.Tensor] = load_state(self.copy)
        self._secrets = OwnerSecrets(Home.open(request.work / "owner"), _PHRASE)

    def run(
        self, points: Sequence[Point], measure: Callable[[Path], float] | None, progress: Telling | None = None
    ) -> RehearseResult:
        """Every point in order, the untouched copy first: what `rehearse` does once it knows the points."""
        path = self.request.work / _NOTES
        notes = dict(_read_notes(path))
        if measure is not None and points and points[0].key not in notes:
            measure(self.copy)  # fails before the first attack, not after
        waiting = [point for point in points if point.key not in notes]
        if progress is not None:
            progress(len(points) - len(waiting), len(points), waiting[0].key if waiting else "")
        for number, found in enumerate(self._tried(waiting, points, notes, measure), start=1):
            notes[found.key] = found
            with open(path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(found)) + "\n")
            if progress is not None:
                following = waiting[number].key if number < len(waiting) else ""
                progress(len(points) - len(waiting) + number, len(points), following)
        name = self.request.quality or BY_DISTANCE
        done = tuple(notes[point.key] for point in points)
        return RehearseResult(done, name, self.strength, self.expected_log2_p, THRESHOLD_LOG2_P, self.request.work)

    def _tried(
        self,
        waiting: Sequence[Point],
        points: Sequence[Point],
        notes: Mapping[str, Rehearsed],
        measure: Callable[[Path], float] | None,
    ) -> Iterator[Rehearsed]:
        """What is not known yet, as it becomes known; `notes` grow meanwhile, the untouched copy's first."""
        if self.request.jobs > 1 and len(waiting) > 1:
            if waiting[0] is points[0]:
                yield self.attempt(waiting[0], measure, None)
                waiting = waiting[1:]
            self._coalition(max(point.colluders for point in waiting))
            yield from spread(self.request, [point.key for point in waiting], notes[points[0].key])
            return
        for point in waiting:
            yield self.attempt(point, measure, notes[points[0].key] if point is not points[0] else None)

    def attempt(self, point: Point, measure: Callable[[Path], float] | None, untouched: Rehearsed | None) -> Rehearsed:
        """One point: attack, check, measure. `untouched` is the copy's own result, None for that itself."""
        from watermark.model.torch_state import save_state

        attacked = point.attack(self.state)
        suspect = self.request.work / f"suspect-{os.getpid()}"
        shutil.rmtree(suspect, ignore_errors=True)
        save_state(suspect, attacked)
        home = self._secrets.home
        answer = check_unlocked(CheckRequest(home.path, str(suspect)), home, _PHRASE, self._secrets)
        moved = _movement(self.state, attacked)
        if measure is None:
            quality = utility = 1.0 if point.is_whole else math.nan if moved is None else max(0.0, 1.0 - moved)
        else:
            quality = self._measured(point, attacked, measure, suspect)
            whole = untouched.quality if untouched is not None else quality
            utility = quality / whole if whole > 0 else math.nan
        shutil.rmtree(suspect, ignore_errors=True)
        attackers = [colluder(number + 1) for number in range(point.colluders)] or [RECIPIENT]
        return Rehearsed(
            point.family,
            point.strength,
            answer.verdict,
            answer.recipient in attackers,
            max(0.0, -(answer.log2_p_adjusted or 0.0)),
            quality,
            utility,
            point.letter,
            point.colluders,
            self._copy_bits(answer),
            answer.recipient if answer.recipient not in attackers else None,
            moved,
        )

    def _measured(self, point: Point, attacked: State, measure: Callable[[Path], float], suspect: Path) -> float:
        """What the measure says; NaN where it cannot load a model of another shape."""
        shutil.rmtree(suspect)
        self.write(suspect, self.state if point.renames else attacked, {} if point.renames else point.config)
        try:
            return measure(suspect)
        except InputError:
            if point.config and not point.renames:
                return math.nan
            raise

    def write(self, folder: Path, state: State, config: Mapping[str, int | bool] | None = None) -> None:
        """Write weights with what else belongs to the model; `config` are fields of config.json that changed."""
        from watermark.model.torch_state import save_state

        save_state(folder, state)
        _copy_companions(self.copy, folder)
        if config and (folder / "config.json").exists():
            fields = {**config_of(folder), **config}
            (folder / "config.json").write_text(json.dumps(fields, indent=2), "utf-8")

    def copies_of(self, count: int) -> list[State]:
        """The weights of so many invented recipients' copies."""
        from watermark.model.torch_state import load_state

        return [load_state(Path(place)) for place in self._coalition(count)[:count]]

    def _coalition(self, count: int = 0) -> list[str]:
        """Where the invented recipients' copies lie; so many at least, released when they are first wanted."""
        noted = self.request.work / _COALITION
        places = list(_object(noted.read_text("utf-8"), noted)["copies"]) if noted.exists() else []
        if len(places) < count:
            folder = self.request.work / "coalition"
            shutil.rmtree(folder, ignore_errors=True)
            names = tuple(colluder(number + 1) for number in range(count))
            result = release(replace(_release_request(self.request), out=folder, recipients=names), lambda: _PHRASE)
            places = [copy.out for copy in result.copies]
            replace_file(noted, json.dumps({"copies": places}).encode("utf-8"))
        return places

    def _copy_bits(self, answer: CheckResult) -> float | None:
        """Bits that name the copy whose code shows most, after all copies were paid for."""
        shown = next((test.log2_p for test in answer.tests if test.name == RECIPIENT_TEST), None)
        if shown is None:
            return None
        return max(0.0, -add_multiplicity(shown, [1 + len(self._coalition()), TRACE_LOOKS]))


def _movement(before: State, after: State) -> float | None:
    from watermark.attacks.finetune import movement

    if before.keys() != after.keys() or any(after[name].shape != before[name].shape for name in before):
        return None
    return movement(before, after)


def _marked_copy(request: RehearseRequest, progress: Telling | None) -> tuple[Path, float, float]:
    """The copy to attack, released by a throw-away owner: made once, found again later."""
    plan = {"model": str(request.model.absolute()), "base": request.base, "strength": request.strength}
    plan |= {"quality": request.quality, "calibrate": request.calibrate}
    noted = request.work / _PLAN
    if noted.exists():
        known = _object(noted.read_text("utf-8"), noted)
        if {name: known.get(name) for name in plan} != plan:
            raise InputError(f"{request.work} holds a rehearsal of another kind", hint="name another --work folder")
        return Path(str(known["copy"])), float(known["expected_log2_p"]), float(known["chosen_strength"])
    if request.work.exists() and any(request.work.iterdir()):
        raise InputError(f"{request.work} is not empty, and holds no rehearsal", hint="name another --work folder")
    request.work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(request.work / "owner", ignore_errors=True)
    Home.create(request.work / "owner", OWNER, _PHRASE)
    result: ReleaseResult = release(
        _release_request(request),
        lambda: _PHRASE,
        telling=None if progress is None else lambda done, total: progress(done, total, "trials of the calibration"),
    )
    copy = Path(result.copies[0].out)
    facts = {"copy": str(copy), "expected_log2_p": result.expected_log2_p, "chosen_strength": result.strength}
    replace_file(noted, json.dumps(plan | facts, indent=2).encode("utf-8"))
    return copy, result.expected_log2_p, result.strength


def _release_request(request: RehearseRequest) -> ReleaseRequest:
    """The copy that is attacked."""
    return ReleaseRequest(
        request.work / "owner",
        request.model,
        request.work / "copy",
        "rehearsal",
        "1",
        (RECIPIENT,),
        base=request.base,
        strength=request.strength,
        calibrate=request.calibrate,
    )


def _copy_companions(copy: Path, suspect: Path) -> None:
    """Put beside attacked weights what else belongs to the model, so that the user's measure can load it."""
    for source in copy.rglob("*"):
        target = suspect / source.relative_to(copy)
        if source.is_file() and not target.exists() and source.suffix not in {".safetensors", ".sig", ".tlog-proof"}:
            if source.name.endswith(".safetensors.index.json"):
                continue  # the attacked weights are in one file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _read_notes(path: Path) -> Mapping[str, Rehearsed]:
    """The points noted so far by name; a last line that a kill cut short does not count."""
    return {point.key: point for point in _noted(path)} if path.exists() else {}


def _noted(path: Path) -> Iterator[Rehearsed]:
    lines = path.read_text("utf-8").split("\n")
    if lines[-1]:
        replace_file(path, "\n".join([*lines[:-1], ""]).encode("utf-8"))
    for line in lines[:-1]:
        try:
            yield Rehearsed(**_object(line, path))
        except TypeError as error:
            raise DocumentError(f"{path} is not a rehearsal's", hint="name another --work folder") from error


def _object(text: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DocumentError(f"{path} is damaged: {error}", hint="name another --work folder") from error
    if not isinstance(found, dict):
        raise DocumentError(f"{path} is not a rehearsal's", hint="name another --work folder")
    return found
