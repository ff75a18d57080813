"""What `rehearse` tries on a marked copy: families of removal attacks, each at rising strength.

The families are those of the literature that need nothing but the weights; whoever has training code or data adds an
attack of his own. A family says what it costs the thief to mount; what it costs in quality is measured. Torch is
needed here, and loaded when a sweep is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from watermark.errors import InputError

if TYPE_CHECKING:
    import torch

    State: TypeAlias = dict[str, "torch.Tensor"]

SEED = 20_261_101
#: The family that every other is held against: degradation that knows nothing of marks.
BASELINE = "noise"


@dataclass(frozen=True)
class Point:
    """One attack of a family at one strength; `key` names it for ever, so that a sweep can go on where it stopped.

    `renames` says that the weights keep their function but not their names or layout: quality is then measured on the
    weights under their old names.
    """

    family: str
    strength: str
    attack: Callable[[State], State]
    renames: bool = False

    @property
    def key(self) -> str:
        """Family and strength."""
        return f"{self.family} {self.strength}".strip()


def sweep(base: Mapping[str, torch.Tensor] | None, custom: Mapping[str, Callable[[State], State]]) -> Iterator[Point]:
    """Every point that is tried: the untouched copy, each family by rising strength, then the caller's own attacks.

    `base` is the declared public base, which a thief can merge with; None where there is none.
    """
    from watermark.attacks import (
        clipping,
        clustering,
        disguise,
        merging,
        noise,
        precision,
        pruning,
        shifting,
        truncation,
    )
    from watermark.attacks.catalogue import ATTACKS, in_order

    yield Point("untouched", "", ATTACKS["none"])
    for percent in (1, 5, 10, 20, 40, 80):
        yield Point(BASELINE, f"{percent} %", partial(noise.gaussian, sigma=percent / 100, seed=SEED))
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
    yield Point("rename and re-shard", "", partial(disguise.renamed, seed=SEED), renames=True)
    strip = in_order(partial(pruning.magnitude, share=0.3), partial(noise.gaussian, sigma=0.1, seed=SEED))
    yield Point("prune 30 %, noise 10 %, int4", "", in_order(strip, partial(precision.integer_groups, bits=4)))
    if base is not None:
        for percent in (30, 50, 70, 90):
            yield Point("merge with the base", f"{percent} %", partial(merging.linear, other=base, share=percent / 100))
    for name, attack in custom.items():
        yield Point(name, "", attack)


def chosen(points: Iterator[Point], families: tuple[str, ...]) -> tuple[Point, ...]:
    """The points of these families, the untouched copy always; all without a choice.

    Raises:
        InputError: no family has that name; the hint lists them.
    """
    every = tuple(points)
    names = dict.fromkeys(point.family for point in every)
    for family in families:
        if family not in names:
            raise InputError(f"no family of attacks is called {family!r}", hint="choose from: " + ", ".join(names))
    return tuple(point for point in every if not families or point.family in (*families, "untouched"))
