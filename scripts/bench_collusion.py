"""Coalitions of recipients against a real sentence encoder: how many of them are named, and is ever anyone else.

    python -m scripts.bench_collusion --folder /tmp/collusion [--rules mean mosaic] [--trials 20] [--recipients 1000000]
                                      [--simulated 10000] [--scored N]

Marks MiniLM for a pool of recipients, lets coalitions of 8 and 16 drawn from it combine their copies by each rule of
`watermark.attacks.collusion`, with and without rounding to int4 afterwards, folds each result as `weightmark check`
does, and scores the codes of all recipients. Beside it the same coalitions as codes alone, by the law of the fold: y is
N/B times the mean of the codes and normal noise of variance N/B (E + (beta/alpha)^2), with E the rule's mean square on
normal chips. Prints, for each rule: trials in which a colluder was named at 64 bits beyond the number of recipients,
bits of the strongest and the weakest colluder (medians; simulated in brackets), and the best innocent of all trials.
Exits 1 when an innocent is named or a cell of the bar (c = 16; c = 8 and 16 with int4) names nobody in over 1 % of its
trials; zeroing the weights that differ ruins the model and is shown, not asked. Each folded trial is kept in the
folder: a run that was cut goes on. 3 to 5 s a trial on two cores, and 0.2 ms a recipient at the end; 3 GB of disk.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray

from cli.demo_subject import minilm_folder
from tests.watermark.marks.models import MarkedModel, mark_model
from watermark.attacks import precision
from watermark.attacks.collusion import COLLUSIONS, Collusion
from watermark.attacks.interface import State, each_target
from watermark.evidence import THRESHOLD_RECIPIENT_LOG2_P, default_strength
from watermark.marks.chips import CODE_UNIT, CODE_VALUES, code_table
from watermark.marks.geometry import OWNER_ENERGY
from watermark.model.torch_state import load_state, save_state

POOL = 24
COUNTS = (8, 16)
BAR = {(8, True), (16, False), (16, True)}
# Keeps 36 % of MiniLM's retrieval score (0.186 of 0.510): the loot is ruined, and an attack must keep 95 %.
RUINOUS = {"zero-differing-20"}
CODES_AT_ONCE = 512
INNOCENTS_A_SIMULATION = 2_048
_TWO_LN2 = 2 * math.log(2)


@dataclass(frozen=True)
class Trial:
    """One coalition: who, by which rule, and the folded result."""

    rule: str
    colluders: tuple[int, ...]
    rounded: bool
    y: NDArray[np.float64]


def name_of(number: int) -> str:
    """The name of a recipient of the bench."""
    return f"recipient {number}"


class Bench:
    """A marked pool of copies on disk, and what is known of the mark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.marked: MarkedModel = self._mark()
        geometry = self.marked.plan.geometry
        self.tensor_sizes = [tensor.layout.count for tensor in geometry.marked]
        self.carriers = sum(self.tensor_sizes)
        self.alpha = geometry.marked[0].alpha * math.sqrt(1 - OWNER_ENERGY)

    def _mark(self) -> MarkedModel:
        copies = self.folder / "copies"
        shutil.rmtree(copies, ignore_errors=True)
        strength = default_strength(22_500_000)
        return mark_model(minilm_folder(), copies, tuple(name_of(number) for number in range(POOL)), strength)

    def trials(self, rule: str, count: int, number: int) -> Iterator[Trial]:
        """Combine once, fold as it is and rounded; or read what an earlier run folded."""
        draw = np.random.default_rng([count, number])
        colluders = tuple(sorted(int(one) for one in draw.choice(POOL, count, replace=False)))
        combined: State = {}
        for rounded in (False, True):
            kept = self.folder / f"{rule}-{count}-{'int4' if rounded else 'float'}-{number}.npy"
            if not kept.exists():
                combined = combined or COLLUSIONS[rule](
                    [_load(self.marked.copies[one]) for one in colluders], seed=number
                )
                np.save(kept, self._fold(precision.int4_groups(combined) if rounded else combined))
            yield Trial(rule, colluders, rounded, np.load(kept).astype(np.float64))

    def _fold(self, state: State) -> NDArray[np.int64]:
        suspect = self.folder / "suspect"
        shutil.rmtree(suspect, ignore_errors=True)
        save_state(suspect, state)
        return self.marked.folded(suspect).y

    def codes(self, first: int, last: int) -> NDArray[np.float32]:
        """Codes of recipients, (recipients, 32768), exact."""
        return np.stack([self.marked.code(name_of(number)) for number in range(first, last)]).astype(np.float32)

    def rounding_noise(self) -> float:
        """(beta / alpha_r)^2 of int4: the carriers' harmonic mean, since the test weights rows by 1/variance."""
        state = _load(self.marked.copies[0])
        rounded, shares, sizes = precision.int4_groups(state), [], []

        def look(name: str, rows: torch.Tensor) -> torch.Tensor:
            moved = (rounded[name].reshape(rows.shape).float() - rows).square().mean(dim=1)
            spread = rows.var(dim=1, correction=0)
            live = spread > 0
            shares.append((spread[live] / moved[live].clamp_min(1e-30)).clamp_max(1e12))
            sizes.append(torch.full_like(shares[-1], rows.shape[1]))
            return rows

        each_target(state, look)
        weight = torch.cat(sizes)
        precision_mean = float((torch.cat(shares) * weight).sum() / weight.sum())
        return 1 / (precision_mean * self.alpha * self.alpha)


def _load(folder: Path) -> State:
    return load_state(folder / "model.safetensors")


def bits_of(totals: NDArray[np.float64], energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """-log2 p of totals under the sub-Gaussian bound; energies broadcast."""
    return np.where(totals > 0, totals * totals / (_TWO_LN2 * energy), 0.0)


def score_all(bench: Bench, trials: Sequence[Trial], recipients: int) -> NDArray[np.float64]:
    """Bits of every recipient in every trial: of the pool, (POOL, trials), then of the best innocent beyond it."""
    scaled = np.stack([trial.y / np.abs(trial.y).max() for trial in trials], axis=1)
    energy = (scaled * scaled).sum(axis=0)[None]
    ys = (scaled / CODE_UNIT).astype(np.float32)  # seven digits of a score are enough here; `check` has them all
    pool = bits_of((bench.codes(0, POOL) @ ys).astype(np.float64), energy)
    best = np.zeros((1, len(trials)))
    for first in range(POOL, recipients, CODES_AT_ONCE):
        codes = bench.codes(first, min(recipients, first + CODES_AT_ONCE))
        totals = (codes @ ys).astype(np.float64)
        best = np.maximum(best, bits_of(totals, energy).max(axis=0, keepdims=True))
    return np.concatenate([pool, best])


def mean_square(rule: Collusion, count: int) -> float:
    """E: the mean square of a rule's output on normal chips, in chip units."""
    chips = torch.randn((count, 400, 1_000), generator=torch.Generator().manual_seed(count))
    return float(rule([{"w": one} for one in chips], seed=1)["w"].square().mean())


def simulate(
    bench: Bench, rule: str, count: int, noise: float, trials: int, seed: int
) -> tuple[NDArray[np.float64], float]:
    """Coalitions as codes alone: bits of the colluders, (trials, count), and those of the best innocent.

    A mosaic's colluders have the tensors they gave. A weight that was zeroed is no carrier any more; which ones are is
    taken to be independent of the codes.
    """
    draw = np.random.default_rng(seed)
    table = code_table().astype(np.float32) / np.float32(CODE_UNIT)
    carriers = bench.carriers * (0.8 if rule.startswith("zero-differing") else 1.0)
    spread = 1.0 / count if rule.startswith("zero-differing") else mean_square(COLLUSIONS[rule], count)
    sizes = np.array(bench.tensor_sizes) / bench.carriers
    innocents = table[draw.integers(0, 256, (INNOCENTS_A_SIMULATION, CODE_VALUES), np.uint8)]
    found, best = np.empty((trials, count)), 0.0
    batch = 40
    for first in range(0, trials, batch):
        size = min(batch, trials - first)
        codes = table[draw.integers(0, 256, (size, count, CODE_VALUES), np.uint8)]
        shares = np.full((size, count), 1.0 / count)
        if rule == "mosaic":
            givers = draw.integers(0, count, (size, len(sizes)))
            shares = np.stack([np.bincount(row, sizes, count) for row in givers])
        gain = carriers / CODE_VALUES
        y = gain * np.einsum("tc,tcb->tb", shares.astype(np.float32), codes)
        deviation = np.float32(math.sqrt(gain * (spread + noise)))
        y += deviation * draw.standard_normal((size, CODE_VALUES), np.float32)
        energy = (y.astype(np.float64) ** 2).sum(axis=1)
        totals = np.matmul(codes, y[:, :, None])[:, :, 0].astype(np.float64)
        found[first : first + size] = bits_of(totals, energy[:, None])
        best = max(best, float(bits_of((innocents @ y.T).astype(np.float64), energy[None]).max()))
    return found, best


def report(
    bench: Bench, trials: Sequence[Trial], recipients: int, scored: int, simulated: int, noise: float
) -> Iterator[tuple[str, bool]]:
    """The lines of the table, each with whether it keeps the bar; innocents are the recipients that are scored."""
    bar = -THRESHOLD_RECIPIENT_LOG2_P + math.log2(recipients)
    scores = score_all(bench, trials, scored) if trials else np.zeros((POOL + 1, 0))
    for rule in dict.fromkeys(trial.rule for trial in trials):
        for count, rounded in product(COUNTS, (False, True)):
            places = [
                place
                for place, trial in enumerate(trials)
                if (trial.rule, len(trial.colluders), trial.rounded) == (rule, count, rounded)
            ]
            guilty = [scores[list(trials[place].colluders), place] for place in places]
            outside = [np.delete(scores[:, place], list(trials[place].colluders)).max() for place in places]
            fakes, innocent = simulate(bench, rule, count, noise if rounded else 0.0, simulated, len(rule) + count)
            named = sum(float(one.max()) >= bar for one in guilty)
            named_fakes = int((fakes.max(axis=1) >= bar).sum())
            best = max(max(outside), innocent)
            held = best < bar
            if (count, rounded) in BAR and rule not in RUINOUS:
                held = held and named >= 0.99 * len(places) and named_fakes >= 0.99 * simulated
            strong, weak = (np.median([f(one) for one in guilty]) for f in (np.max, np.min))
            strong_fake, weak_fake = np.median(fakes.max(axis=1)), np.median(fakes.min(axis=1))
            cells = (
                rule,
                f"{count}{' + int4' if rounded else ''}",
                f"{named} of {len(places)} ({named_fakes:,} of {simulated:,})",
                f"{strong:,.0f} ({strong_fake:,.0f})",
                f"{weak:,.0f} ({weak_fake:,.0f})",
                f"{max(outside):.1f} ({innocent:.1f})",
                "yes" if held else "NO",
            )
            yield "| " + " | ".join(cells) + " |", held


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 when the bar is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rules", nargs="*", choices=list(COLLUSIONS), default=list(COLLUSIONS))
    parser.add_argument("--trials", type=int, default=20, help="coalitions of each rule and size on the real weights")
    parser.add_argument("--recipients", type=int, default=1_000_000)
    parser.add_argument("--scored", type=int, help="of so many recipients codes are drawn and scored; else of all")
    parser.add_argument("--simulated", type=int, default=10_000, help="coalitions of each as codes alone")
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    bench = Bench(arguments.folder)
    noise = bench.rounding_noise()
    print(f"{bench.carriers:,} carriers, recipient layer {bench.alpha:.3%}, int4 noise (beta/alpha)^2 {noise:,.0f}")
    trials = []
    for number in range(arguments.trials):
        for rule in arguments.rules:
            for count in COUNTS:
                trials += bench.trials(rule, count, number)
        print(f"trial {number + 1}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    scored = min(arguments.scored or arguments.recipients, arguments.recipients)
    print(f"real weights and {arguments.recipients:,} recipients, {scored:,} of them scored (codes alone)\n")
    print("| rule | colluders | somebody named | strongest, bits | weakest | best innocent | bar kept |")
    print("|" + "---|" * 7)
    kept = True
    for line, held in report(bench, trials, arguments.recipients, scored, arguments.simulated, noise):
        print(line, flush=True)
        kept = kept and held
    print(f"\n{time.monotonic() - start:.0f} s")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
