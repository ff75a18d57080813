"""Measure sketches: what they survive among a million others, how fast they are made and found.

    OMP_NUM_THREADS=1 PYTHONPATH=. python scripts/bench_fingerprint.py [--decoys N] [--kinds gpt cnn ...] [--minilm]

Small models of each layout, trained here from four seeds, and with --minilm the sentence encoder of the demo. Decoys
are Gaussians fitted to real sketches, equal shares for every layout, so that the hardest are of one's own kind. Prints
for each theft the cosine, the place in the ranking and the best of the others. Bar: every theft first, search under
100 ms, MiniLM sketched in under 0.7 s on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from tests.watermark.lineage import chains, small_models
from tests.watermark.lineage.decoys import decoys
from tests.watermark.lineage.sketching import sketch_of
from tests.watermark.lineage.thefts import chain_thefts, free_of_charge, lossy, on_top_of_each_other
from watermark.attacks import merging
from watermark.attacks.interface import State
from watermark.lineage.fingerprint import Sketch, sketch_model
from watermark.lineage.search import SketchIndex, margin
from watermark.model.directory import open_model

ROUNDS = 7
FOUND = 20


def thefts_of(kind: str) -> Mapping[str, Callable[[State], State]]:
    """Every theft of classes A and C that this layout allows, and compositions."""
    if kind in chains.KINDS:
        return chain_thefts(kind)
    return {**free_of_charge(kind), **lossy(), **on_top_of_each_other(kind)}


def time_of_search(index: SketchIndex, sketch: Sketch) -> float:
    """Median seconds of a search, the first one left out."""
    index.search(sketch)
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        index.search(sketch)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def report(
    kind: str, place: int, index: SketchIndex, make: Callable[[int], State], thefts: Mapping[str, object]
) -> int:
    """Print one layout's table; gives the number of thefts after which it was not first."""
    lost = 0
    state = make(1)
    print(f"{kind}: {sum(tensor.numel() for tensor in state.values()):,} numbers")
    for name, attack in thefts.items():
        found = index.search(sketch_of(attack(state)), FOUND)  # type: ignore[operator]
        rank = next((at for at, match in enumerate(found, 1) if match.number == place), None)
        own = next((match.cosine for match in found if match.number == place), 0.0)
        other = max((match.cosine for match in found if match.number != place), default=0.0)
        lost += rank != 1
        print(f"  {name:50} cosine {own:5.2f}  place {rank or '>' + str(FOUND)}  best other {other:5.2f}", flush=True)
    return lost


def siblings(kind: str, sibling: Callable[[int], State], thefts: Mapping[str, object]) -> None:
    """How often the right one of three fine-tunes of one base is the nearest, and by which margin."""
    family = [sketch_of(sibling(number)) for number in (1, 2, 3)]
    right, margins = 0, []
    for attack in thefts.values():
        suspect = sketch_of(attack(sibling(1)))  # type: ignore[operator]
        margins.append(min(margin(suspect, family[0], other) for other in family[1:]))
        right += margins[-1] > 0
    print(f"{kind}: right sibling of three in {right} of {len(margins)}, median margin {np.median(margins):.2f}")


def main() -> None:
    """Train, sketch, attack, search, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoys", type=int, default=1_000_000)
    parser.add_argument("--kinds", nargs="*", default=[*small_models.TRANSFORMERS, *chains.KINDS])
    parser.add_argument("--minilm", action="store_true")
    args = parser.parse_args()
    lost = 0
    for family in (small_models.TRANSFORMERS, chains.KINDS):
        kinds: Sequence[str] = [kind for kind in family if kind in args.kinds]
        if not kinds and not (args.minilm and family == small_models.TRANSFORMERS):
            continue
        make = chains.trained_chain if family == chains.KINDS else small_models.trained
        child = chains.sibling_chain if family == chains.KINDS else small_models.sibling
        groups = [[sketch_of(make(kind, seed)) for seed in (3, 4)] for kind in kinds or family]
        known = [sketch_of(make(kind, seed)) for seed in (1, 2) for kind in kinds]
        if args.minilm and family == small_models.TRANSFORMERS:
            known.append(minilm_sketch())
        wholes = np.concatenate([np.stack([one.whole for one in known]), decoys(groups, args.decoys)])
        started = time.perf_counter()
        index = SketchIndex(wholes, np.full(len(wholes), known[0].form, np.uint8))
        built = time.perf_counter() - started
        searched = time_of_search(index, known[0])
        print(f"{len(index):,} sketches: indexed in {built:.1f} s, searched in {searched * 1e3:.0f} ms")
        for place, kind in enumerate(kinds):
            lost += report(kind, place, index, partial(make, kind), thefts_of(kind))
            merged = merging.linear(make(kind, 1), make(kind, 2), 0.5)
            ten = [match.number for match in index.search(sketch_of(merged), 10)]
            parents = len({place, place + len(kinds)} & set(ten))
            print(f"  half a merge with its twin: {parents} of 2 parents in the first ten")
            siblings(kind, partial(child, kind, 1), thefts_of(kind))
        if args.minilm and family == small_models.TRANSFORMERS:
            lost += report_minilm(len(known) - 1, index)
    print(f"{lost} thefts not first")


def minilm_sketch() -> Sketch:
    """Sketch MiniLM and print how long it took, the best of three."""
    from tests.subjects import minilm_folder

    seconds = []
    for _ in range(3):
        with open_model(minilm_folder()) as model:
            started = time.perf_counter()
            sketch = sketch_model(model)
            seconds.append(time.perf_counter() - started)
    print(f"MiniLM sketched in {min(seconds):.2f} s, {len(sketch.to_bytes()):,} bytes")
    return sketch


def report_minilm(place: int, index: SketchIndex) -> int:
    """MiniLM under every lossy theft."""
    from tests.subjects import minilm_folder
    from watermark.model.torch_state import load_state

    return report("MiniLM", place, index, lambda _: load_state(minilm_folder()), lossy())


if __name__ == "__main__":
    main()
