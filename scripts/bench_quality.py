"""What the mark costs a model, beside rounding it to 8 bits: one strength for all, and shaped by calibration data.

    python -m scripts.bench_quality --folder DIR [--subject minilm --subject gpt] [--trained DIR] [--keys 5]

Marks each model for one recipient (both layers) under several keys, at the strength that `release` chooses and shaped
by `release --calibrate`, and prints what that costs on data that the calibration never saw, beside int8 rounding with
one scale a row. The copies of the first key are then attacked and checked as `weightmark check` does it: bits of the
owner's layer, blind and against the reference. One attack is a thief's who knows the map: noise shaped by it, at the
cost of noise of 0.4 deviations. The null beside them is another owner's check of the same suspect. Exits 1 when a bar
is missed.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from cli.check import CheckRequest, check
from cli.demo_subject import SentenceEncoder, load_encoder, mean_cosine, minilm_folder, retrieval_score
from cli.demo_texts import sentences, training_pairs
from cli.home import Home
from cli.mark_record import MarkRecord
from cli.release import ReleaseRequest, ReleaseResult, release
from cli.verdict import OURS
from tests import byte_gpt
from tests.attacks.trained_subjects import GPT, Trained
from tests.watermark.marks.models import mark_model
from watermark.attacks import noise, precision
from watermark.attacks.catalogue import ATTACKS
from watermark.attacks.interface import State, each_target
from watermark.marks.detect import BLIND
from watermark.marks.trace import RECIPIENT
from watermark.model.torch_state import load_state, save_state

LEAKED = "globex"
DEFAULT_BAR, SHAPED_BAR = 1.1, 0.5
CHECKED = ("none", "int4-g128", "noise-40", "prune-50")
BY_THE_MAP = "noise by the map"
WITH_NULL = ("none",)
#: Chance shows this much in one of a million tests; `check` runs 18 of them.
NULL_BITS = 20
SEED = 20_261_125
CALIBRATION_TEXTS, CALIBRATION_WINDOWS = 48, 128
#: Blind bits are a squared normal number: their root varies by this much from key to key.
_ROOT_DEVIATION = math.sqrt(1 / (2 * math.log(2)))


@cache
def _encoder() -> SentenceEncoder:
    return load_encoder(minilm_folder())


@cache
def _embedded(*, held_out: bool) -> tuple[tuple[str, ...], torch.Tensor]:
    texts = sentences() if held_out else tuple(p.docstring for p in training_pairs()[:: len(training_pairs()) // 48])
    texts = texts if held_out else texts[:CALIBRATION_TEXTS]
    return texts, _encoder().embed(texts)


def minilm_calibration(folder: Path) -> float:
    """How near the embeddings of some training docstrings stay to the original's: 1 where nothing changed."""
    texts, original = _embedded(held_out=False)
    return mean_cosine(original, _encoder().with_state(load_state(folder)).embed(texts))


def _minilm_costs(state: State) -> dict[str, float]:
    texts, original = _embedded(held_out=True)
    return {"1 - cosine": 1 - mean_cosine(original, _encoder().with_state(state).embed(texts))}


def _minilm_quality(state: State) -> str:
    return f"retrieval {retrieval_score(_encoder().with_state(state)):.4f}"


@cache
def _windows(*, held_out: bool) -> torch.Tensor:
    text = byte_gpt.library_bytes(held_out=held_out)
    count = byte_gpt.HELD_OUT_WINDOWS if held_out else CALIBRATION_WINDOWS
    starts = torch.linspace(0, len(text) - byte_gpt.CONTEXT, count).long()
    return text[starts[:, None] + torch.arange(byte_gpt.CONTEXT)]


def _predictions(state: State, windows: torch.Tensor) -> torch.Tensor:
    """Log probabilities of each next byte, (windows, places, 256), double."""
    module = byte_gpt.byte_gpt()
    module.load_state_dict(state)
    with torch.inference_mode():
        return torch.cat([module(piece).logits[:, :-1] for piece in windows.split(64)]).double().log_softmax(dim=-1)


def _loss(predicted: torch.Tensor, windows: torch.Tensor) -> float:
    return -float(predicted.gather(2, windows[:, 1:, None]).mean())


def gpt_calibration(folder: Path) -> float:
    """Minus the mean loss on windows of the training modules."""
    windows = _windows(held_out=False)
    return -_loss(_predictions(load_state(folder), windows), windows)


class _Gpt:
    """Held-out loss, and how far the predictions move: the divergence has no linear part, so luck counts for little."""

    def __init__(self, original: State) -> None:
        self._before = _predictions(original, _windows(held_out=True))

    def costs(self, state: State) -> dict[str, float]:
        windows = _windows(held_out=True)
        after = _predictions(state, windows)
        divergence = float((self._before.exp() * (self._before - after)).sum(dim=-1).mean())
        return {"KL, nats": divergence, "loss, nats": _loss(after, windows) - _loss(self._before, windows)}

    def quality(self, state: State) -> str:
        windows = _windows(held_out=True)
        return f"loss {_loss(_predictions(state, windows), windows):.4f}"


@dataclass(frozen=True)
class Subject:
    """A model, how its owner calibrates, and what it costs to change it on data of other kinds or places."""

    name: str
    reference: Path
    calibration: str
    costs: Callable[[State], dict[str, float]]
    quality: Callable[[State], str]


def subject_of(name: str, trained: Path) -> Subject:
    """MiniLM, or the byte GPT that lies in `trained` or is trained there."""
    own = "python:scripts.bench_quality:"
    if name == "minilm":
        return Subject(name, minilm_folder(), own + "minilm_calibration", _minilm_costs, _minilm_quality)
    kept = Trained(GPT, trained / GPT.name)
    kept.folder.mkdir(parents=True, exist_ok=True)
    gpt = _Gpt(kept.child(0))
    return Subject(name, kept.folder / "child-1-0", own + "gpt_calibration", gpt.costs, gpt.quality)


class Mark:
    """One way to mark a subject: released by an owner of its own, and made again under other keys."""

    def __init__(self, subject: Subject, folder: Path, *, shaped: bool) -> None:
        self.subject, self.folder = subject, folder
        self.name = "shaped" if shaped else "default"
        self.home = folder / f"{self.name} owner"
        Home.create(self.home, self.name, _phrase())
        request = ReleaseRequest(
            self.home,
            subject.reference,
            folder / self.name,
            subject.name,
            "1",
            (LEAKED,),
            calibrate=subject.calibration if shaped else None,
        )
        self.released: ReleaseResult = release(request, _phrase, None, _tell)
        self.copy = load_state(folder / self.name)
        with Home.open(self.home).registry() as registry:
            record = MarkRecord.from_document(registry.records.list_releases()[0].mark_document)
        self.map = {record.names[tensor.digest]: tensor.strength_ppm for tensor in record.geometry.marked}

    def under_key(self, number: int) -> State:
        """The copy that another owner would have made with the same strengths."""
        out = self.folder / f"{self.name} {number}"
        secret = number.to_bytes(32, "big")
        mark_model(self.subject.reference, out, (LEAKED,), None, shape=self.map, secret=secret)
        state = load_state(out / "0")
        shutil.rmtree(out)
        return state

    def check(self, state: State, home: Path | None = None) -> tuple[float, float, str, str | None]:
        """Blind and non-blind bits of the owner's layer, verdict and recipient, as an owner's `check` finds them."""
        suspect = self.folder / "suspect"
        shutil.rmtree(suspect, ignore_errors=True)
        save_state(suspect, state)
        found = check(CheckRequest(home or self.home, str(suspect)), _phrase)
        shutil.rmtree(suspect)
        owner = [test for test in found.tests if test.name != RECIPIENT and test.log2_p is not None]
        blind, other = (
            max((-(test.log2_p or 0.0) for test in owner if (test.name == BLIND) == is_blind), default=0.0)
            for is_blind in (True, False)
        )
        return blind, other, found.verdict, found.recipient


def noise_by_map(state: State, strengths: Mapping[str, int], times: float) -> State:
    """Normal noise of so many times a tensor's own strength of the mark: what a thief who knows the map would add."""

    def change(name: str, rows: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn(rows.shape, generator=torch.Generator().manual_seed(SEED), dtype=rows.dtype)
        return rows + times * strengths.get(name, 0) / 1e6 * rows.std(dim=1, keepdim=True, correction=0) * drawn

    return each_target(state, change)


def times_at_cost_of_noise(subject: Subject, reference: State, strengths: Mapping[str, int]) -> float:
    """How strong noise by the map is that costs as much as plain noise of 0.4 deviations, within 10 per cent."""
    wanted = subject.costs(noise.gaussian(reference, 0.4, SEED))
    measure = next(iter(wanted))
    low, high = 4.0, 400.0
    for _ in range(6):
        middle = math.sqrt(low * high)
        is_less = subject.costs(noise_by_map(reference, strengths, middle))[measure] < wanted
        low, high = (middle, high) if is_less else (low, middle)
        if high < 1.1 * low:
            break
    return math.sqrt(low * high)


def run(subject: Subject, folder: Path, keys: int, show: Callable[[str], None]) -> list[str]:
    """Both tables of one subject; gives the bars that were missed, in words."""
    folder.mkdir(parents=True)
    reference = load_state(subject.reference)
    marks = [Mark(subject, folder, shaped=shaped) for shaped in (False, True)]
    show(f"\n{subject.name}: {marks[0].released.carriers:,} carriers; unmarked {subject.quality(reference)}\n")
    missed = []
    rounded = precision.int8_per_channel(reference)
    int8 = subject.costs(rounded)
    measures = list(int8)
    show("| | strength | " + " | ".join(f"{name} | of int8" for name in measures) + " | quality |")
    show("|---|---|" + "---:|---:|" * len(measures) + "---|")
    show(
        "| int8, one scale a row | | "
        + " | ".join(f"{int8[name]:.3g} | 1" for name in measures)
        + f" | {subject.quality(rounded)} |"
    )
    for mark, bar in zip(marks, (DEFAULT_BAR, SHAPED_BAR), strict=True):
        found = [subject.costs(mark.copy), *(subject.costs(mark.under_key(number)) for number in range(1, keys))]
        cells, ratios = [], []
        for name in measures:
            values = [one[name] for one in found]
            ratios.append(statistics.mean(values) / int8[name])
            cells.append(f"{statistics.mean(values):.3g} ± {statistics.stdev(values):.1g} | {ratios[-1]:.2f}")
        least, most = min(mark.map.values()) / 1e6, max(mark.map.values()) / 1e6
        strength = f"{least:.2%}" if least == most else f"{least:.2%} to {most:.2%}"
        show(f"| {mark.name}, {keys} keys | {strength} | " + " | ".join(cells) + f" | {subject.quality(mark.copy)} |")
        missed += [
            f"{subject.name}, {mark.name}: {ratio:.2f} times the {name} of int8, not {bar}; it would hold at "
            f"{math.sqrt(bar / ratio):.2f} times the strength ({mark.released.strength:.2%})"
            for name, ratio in zip(measures, ratios, strict=True)
            if ratio > bar
        ]
    calibration = marks[1].released.calibration
    if calibration is not None:
        show(
            f"\ncalibration: {calibration.trials} trials, cost {calibration.cost:.3g} against "
            f"{calibration.cost_uniform:.3g} by its own data, {calibration.unseen} tensors not seen; by tensor:"
        )
        for name, ppm in sorted(marks[1].map.items(), key=lambda item: item[1]):
            show(f"    {ppm / 1e6:.3%}  {name}")
    return missed + _checks(subject, marks, reference, show)


def _checks(subject: Subject, marks: Sequence[Mark], reference: State, show: Callable[[str], None]) -> list[str]:
    """What `check` finds in the first key's copies, whole and attacked, and what another owner's key finds there."""
    times = times_at_cost_of_noise(subject, reference, marks[1].map)
    show(f"\nnoise by the map: {times:.3g} times the strength of the shaped mark\n")
    measure = next(iter(subject.costs(reference)))
    show(f"| attack | mark | {measure} | blind bits | against the reference | verdict | another owner: most bits |")
    show("|---|---|---:|---:|---:|---|---:|")
    missed = []
    for name in (*CHECKED, BY_THE_MAP):
        bits = []
        for mark, other in zip(marks, reversed(marks), strict=True):
            by_map = name == BY_THE_MAP
            attacked = noise_by_map(mark.copy, marks[1].map, times) if by_map else ATTACKS[name](mark.copy)
            blind, against, verdict, recipient = mark.check(attacked)
            bits.append((blind, against))
            wrong = max(mark.check(attacked, other.home)[:2]) if name in WITH_NULL else None
            cells = [name, mark.name, f"{subject.costs(attacked)[measure]:.3g}", f"{blind:,.0f}", f"{against:,.0f}"]
            cells += [f"{verdict}, {recipient or 'copy not named'}", "-" if wrong is None else f"{wrong:.0f}"]
            show("| " + " | ".join(cells) + " |")
            if verdict != OURS:
                missed.append(f"{subject.name}, {mark.name}, {name}: {verdict}")
            if wrong is not None and wrong > NULL_BITS:
                missed.append(f"{subject.name}, {mark.name}, {name}: another owner's key shows {wrong:.0f} bits")
        (blind, against), (shaped_blind, shaped_against) = bits
        chance = 3 * _ROOT_DEVIATION * math.sqrt(2)
        if math.sqrt(shaped_blind) < math.sqrt(blind) - chance:
            missed.append(f"{subject.name}, {name}: {shaped_blind:,.0f} blind bits shaped, {blind:,.0f} without")
        if name != BY_THE_MAP and math.sqrt(shaped_against) < 0.985 * math.sqrt(against) - chance:
            missed.append(f"{subject.name}, {name}: {shaped_against:,.0f} bits shaped, {against:,.0f} without")
    return missed


def _tell(done: int, total: int) -> None:
    print(f"calibration: {done} of {total}", file=sys.stderr, flush=True)


def _print(line: str) -> None:
    print(line, flush=True)


def _phrase() -> bytes:
    return b"a bench has no secrets"


def main(argv: Sequence[str] | None = None, show: Callable[[str], None] = _print) -> int:
    """Print the tables; 0 when every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="new or empty; about 500 MB")
    parser.add_argument("--subject", action="append", choices=("minilm", "gpt"))
    parser.add_argument("--trained", type=Path, help="where bench_forensics trained the GPT; else it is trained here")
    parser.add_argument("--keys", type=int, default=5)
    arguments = parser.parse_args(argv)
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        show(f"{arguments.folder} is not empty: name a new folder")
        return 2
    missed = []
    for name in arguments.subject or ("minilm", "gpt"):
        subject = subject_of(name, arguments.trained or arguments.folder / "trained")
        missed += run(subject, arguments.folder / name, arguments.keys, show)
    for line in missed:
        show(f"MISSED {line}")
    show("all bars met" if not missed else f"{len(missed)} bars missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
