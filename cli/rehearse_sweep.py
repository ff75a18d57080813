"""What `rehearse` tries on a marked copy: families of removal attacks, each at rising strength.

Classes have letters. Here are C (lossy) and E (merging), which need nothing but weights, and
the caller's own attacks; A and B (disguises, structure) are in `rehearse_layout`, D (training) in `rehearse_training`,
F (collusion) in `rehearse_coalition`. What an attack costs in quality is measured. Torch is loaded when a sweep is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from watermark.errors import InputError

if TYPE_CHECKING:
    import torch

    State: TypeAlias = dict[str, "torch.Tensor"]
    Weights: TypeAlias = Mapping[str, "torch.Tensor"]

SEED = 20_261_101
#: The family that every other is held against: degradation that knows nothing of marks.
BASELINE = "noise"


@dataclass(frozen=True)
class Point:
    """One attack of a family at one strength; `key` names it for ever, so that a sweep can go on where it stopped.

    Attributes:
        family: what is done, as it stands in tables.
        strength: how much of it.
        attack: weights in, attacked weights out.
        renames: the weights keep their function but not their names or layout, so that quality is measured on the
            weights under their old names.
        letter: the class.
        is_whole: the function is kept by construction; without a measure the quality counts as whole.
        config: fields of config.json that fit the attacked weights.
        colluders: how many recipients put their copies together; 0 where one thief has one copy.
    """

    family: str
    strength: str
    attack: Callable[[State], State]
    renames: bool = False
    letter: str = ""
    is_whole: bool = False
    config: Mapping[str, int | bool] = field(default_factory=dict)
    colluders: int = 0

    @property
    def key(self) -> str:
        """Family and strength."""
        return f"{self.family} {self.strength}".strip()


def sweep(
    base: Weights | None,
    custom: Mapping[str, Callable[[State], State]],
    siblings: Sequence[Weights] = (),
) -> Iterator[Point]:
    """What needs nothing but weights: the untouched copy, noise, classes C and E, then the caller's own attacks.

    A thief can merge with `base`, the declared public one, and with `siblings`, fine-tunes of it by others.
    """
    from watermark.attacks import disguise, noise
    from watermark.attacks.catalogue import ATTACKS

    yield Point("untouched", "", ATTACKS["none"])
    for percent in (1, 5, 10, 20, 40, 80):
        yield Point(BASELINE, f"{percent} %", partial(noise.gaussian, sigma=percent / 100, seed=SEED))
    yield from (replace(point, letter="C") for point in _lossy())
    renamed = partial(disguise.renamed, seed=SEED)
    yield Point("rename and re-shard", "", renamed, renames=True, letter="A", is_whole=True)
    yield from (replace(point, letter="E") for point in _merging(base, siblings))
    for name, attack in custom.items():
        yield Point(name, "", attack)


def _merging(base: Weights | None, siblings: Sequence[Weights]) -> Iterator[Point]:
    from watermark.attacks import merging

    if base is not None:
        for percent in (30, 50, 70, 90):
            mixed = partial(merging.linear, other=base, share=percent / 100)
            yield Point("merge with the base", f"{percent} %", mixed)
    if not siblings:
        return
    for percent in (30, 50, 70):
        mixed = partial(merging.linear, other=siblings[0], share=percent / 100)
        yield Point("merge with a sibling", f"{percent} %", mixed)
    yield Point("slerp with a sibling", "50 %", partial(merging.slerp, other=siblings[0], share=0.5))
    yield Point("soup", f"of {len(siblings) + 1}", partial(merging.soup, others=siblings))
    if base is None:
        return
    tasks = partial(merging.task_arithmetic, others=siblings, base=base, weight=1 / (len(siblings) + 1))
    yield Point("task arithmetic", "", tasks)
    for percent in (50, 20):
        trimmed = partial(merging.ties, others=siblings, base=base, keep=percent / 100)
        yield Point("TIES", f"keeps {percent} %", trimmed)
    for percent in (50, 90):
        dropped = partial(merging.dare, others=siblings, base=base, drop=percent / 100, seed=SEED)
        yield Point("DARE", f"drops {percent} %", dropped)


def _lossy() -> Iterator[Point]:
    from watermark.attacks import clipping, clustering, noise, precision, pruning, shifting, truncation
    from watermark.attacks.catalogue import in_order

    for percent in (10, 30, 50, 70, 90):
        yield Point("prune, smallest", f"{percent} %", partial(pruning.magnitude, share=percent / 100))
    for percent in (10, 30, 50):
        yield Point("prune, random", f"{percent} %", partial(pruning.random_share, share=percent / 100, seed=SEED))
    yield Point("prune, 2 of 4", "50 %", pruning.two_four)
    yield Point("quantise", "bf16", precision.to_bf16)
    yield Point("quantise", "fp16", precision.to_fp16)
    for bits in (8, 6, 5, 4, 3, 2):
        yield Point("quantise", f"int{bits}, groups of 128", partial(precision.integer_groups, bits=bits))
    yield Point("quantise", "NF4", precision.nf4)
    for form in ("e4m3", "e5m2"):
        yield Point("quantise", f"fp8 {form}", partial(precision.fp8, form=form))
    yield Point("quantise", "three values", precision.ternary)
    for bits in (6, 5, 4):
        yield Point("shared values", f"{1 << bits}", partial(clustering.shared_values, bits=bits))
    for limit in (3.0, 2.0, 1.5):
        yield Point("clip", f"at {limit:g} deviations", partial(clipping.at_deviations, limit=limit))
    for times in (0.5, 1.5):
        yield Point("shift", f"{times:g} x the mean row", partial(shifting.by_mean_row, strength=times))
    for percent in (75, 50, 25, 10):
        yield Point("low rank", f"{percent} % kept", partial(truncation.svd, share=percent / 100))
    strip = in_order(partial(pruning.magnitude, share=0.3), partial(noise.gaussian, sigma=0.1, seed=SEED))
    yield Point("prune 30 %, noise 10 %, int4", "", in_order(strip, partial(precision.integer_groups, bits=4)))


def chosen(points: Iterable[Point], families: tuple[str, ...] = (), letters: tuple[str, ...] = ()) -> tuple[Point, ...]:
    """The points of these families and classes; all without a choice, the untouched copy and the noise always.

    Noise is left out where families are chosen and it is none of them.

    Raises:
        InputError: no family or class has that name, or none that can be tried here; the hint lists them.
    """
    every = tuple(points)
    names = dict.fromkeys(point.family for point in every)
    for family in families:
        if family not in names:
            raise InputError(f"no family of attacks is called {family!r}", hint="choose from: " + ", ".join(names))
    known = sorted({point.letter for point in every if point.letter})
    for letter in letters:
        if letter not in known:
            raise InputError(f"nothing of class {letter!r} can be tried on this model", hint=_hint(letter, known))

    def is_wanted(point: Point) -> bool:
        if point.family == "untouched" or (point.family == BASELINE and not families):
            return True
        return (not families or point.family in families) and (not letters or point.letter in letters)

    return tuple(point for point in every if is_wanted(point))


def _hint(letter: str, known: list[str]) -> str:
    needs = {
        "A": "a layout that is recognised (with its config.json)",
        "B": "a transformer that is recognised (with its config.json)",
        "D": "--train python:MODULE:FUNCTION",
        "E": "--base MODEL or --sibling MODEL",
    }
    reason = f"class {letter} needs {needs[letter]}; " if letter in needs else ""
    return f"{reason}choose from: {', '.join(known)}"
