"""The job of `weightmark rehearse`: attack a marked copy of one's own model before a thief does.

A throw-away owner releases the model inside the work folder, so nothing of the real home is touched or spent. The copy
is attacked at rising strength and checked as `check` does it, and each result stands beside what the attack costs the
thief in quality, by the user's own measure or else by distance in weights. Noise is the yardstick: degradation that
knows nothing of marks. Every point is noted as soon as it is known: the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cli.callables import load_callable, load_measure
from cli.check import CheckRequest, check_unlocked
from cli.home import Home
from cli.owner_secrets import OwnerSecrets
from cli.rehearse_sweep import Point, chosen, sweep
from cli.release import ReleaseRequest, ReleaseResult, release
from cli.verdict import OURS
from registry.signing.small_files import replace_file
from watermark.errors import DocumentError, InputError
from watermark.evidence import THRESHOLD_LOG2_P

if TYPE_CHECKING:
    import torch

#: Told how many points are done, of how many, and what comes next.
Telling: TypeAlias = Callable[[int, int, str], None]
OWNER, RECIPIENT = "rehearsal", "the recipient"
#: What stands in for a passphrase: nothing of the throw-away owner is worth one.
_PHRASE = b"a rehearsal keeps no secret"
_NOTES, _PLAN = "points.jsonl", "rehearsal.json"
BY_DISTANCE = "distance in weights"
#: The literature counts an attack only while the model keeps this share of its quality.
USEFUL = 0.95


@dataclass(frozen=True)
class RehearseRequest:
    """Which model to rehearse with, where, and how its quality is measured.

    `quality` is `python:MODULE:FUNCTION`, called with the folder of a model and giving a number, higher for better;
    `attacks` are such functions too, called with a state dict and giving another. `families` limits the sweep.
    `calibrate` is the measure by which `release` would choose the strengths of the mark.
    """

    model: Path
    work: Path
    base: str | None = None
    strength: float | None = None
    quality: str | None = None
    attacks: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    calibrate: str | None = None


@dataclass(frozen=True)
class Rehearsed:
    """One attack and what it left: bits of evidence after everything tried, and the share of quality.

    `quality` is what the measure said; `utility` its share of the untouched copy's, NaN where that has no meaning.
    """

    family: str
    strength: str
    verdict: str
    recipient: bool
    bits: float
    quality: float
    utility: float

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


def rehearse(request: RehearseRequest, progress: Telling | None = None) -> RehearseResult:
    """Mark, attack, check, measure; the points already noted in the work folder are not run again.

    `progress` is told how many points are done, of how many, and what comes next.

    Raises:
        InputError: the work folder belongs to another rehearsal, or a function of the user cannot be used.
        MarkError: the model cannot carry a mark.
    """
    from watermark.model.torch_state import load_state

    measure = load_measure(request.quality) if request.quality else None
    custom = {name.removeprefix("python:"): load_callable(name) for name in request.attacks}
    rehearsal = Rehearsal(request, progress)
    base = load_state(Path(request.base), allow_torch=True) if request.base else None
    return rehearsal.run(chosen(sweep(base, custom), request.families), measure, progress)


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
        notes = _read_notes(path)
        if measure is not None and points and points[0].key not in notes:
            measure(self.copy)  # fails before the first attack, not after
        done: list[Rehearsed] = []
        for number, point in enumerate(points):
            if progress is not None:
                progress(number, len(points), point.key)
            found = notes.get(point.key)
            if found is None:
                found = self._try(point, measure, done[0] if done else None)
                with open(path, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(found)) + "\n")
            done.append(found)
        if progress is not None:
            progress(len(points), len(points), "")
        name = self.request.quality or BY_DISTANCE
        return RehearseResult(
            tuple(done), name, self.strength, self.expected_log2_p, THRESHOLD_LOG2_P, self.request.work
        )

    def _try(self, point: Point, measure: Callable[[Path], float] | None, untouched: Rehearsed | None) -> Rehearsed:
        from watermark.attacks.finetune import movement
        from watermark.model.torch_state import save_state

        attacked = point.attack(self.state)
        suspect = self.request.work / "suspect"
        shutil.rmtree(suspect, ignore_errors=True)
        save_state(suspect, attacked)
        home = self._secrets.home
        answer = check_unlocked(CheckRequest(home.path, str(suspect)), home, _PHRASE, self._secrets)
        usable = self.state if point.renames else attacked
        if measure is None:
            quality = utility = max(0.0, 1.0 - movement(self.state, usable))
        else:
            if point.renames:
                shutil.rmtree(suspect)
                save_state(suspect, usable)
            _copy_companions(self.copy, suspect)
            quality = measure(suspect)
            whole = untouched.quality if untouched is not None else quality
            utility = quality / whole if whole > 0 else math.nan
        shutil.rmtree(suspect)
        return Rehearsed(
            point.family,
            point.strength,
            answer.verdict,
            answer.recipient == RECIPIENT,
            max(0.0, -(answer.log2_p_adjusted or 0.0)),
            quality,
            utility,
        )


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
        ReleaseRequest(
            request.work / "owner",
            request.model,
            request.work / "copy",
            "rehearsal",
            "1",
            (RECIPIENT,),
            base=request.base,
            strength=request.strength,
            calibrate=request.calibrate,
        ),
        lambda: _PHRASE,
        telling=None if progress is None else lambda done, total: progress(done, total, "trials of the calibration"),
    )
    copy = Path(result.copies[0].out)
    facts = {"copy": str(copy), "expected_log2_p": result.expected_log2_p, "chosen_strength": result.strength}
    replace_file(noted, json.dumps(plan | facts, indent=2).encode("utf-8"))
    return copy, result.expected_log2_p, result.strength


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
