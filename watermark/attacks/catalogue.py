"""The attacks by name, at the strengths in use in the literature, for sweeps over one model.

Only attacks that need nothing but the weights are here. Fine-tuning needs a module and data, merging another model,
overwriting another owner's key, GPTQ and AWQ calibration inputs: whoever runs a sweep adds those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from watermark.attacks import clipping, clustering, disguise, noise, precision, pruning, shifting, truncation
from watermark.attacks.interface import Attack, State, by_name

SEED = 20_261_101

ATTACKS: Mapping[str, Attack] = MappingProxyType(
    {
        "none": lambda state: {name: tensor.detach().clone() for name, tensor in state.items()},
        "rename": partial(disguise.renamed, seed=SEED),
        "dtype-mix": partial(disguise.dtype_mix, seed=SEED),
        "transpose": disguise.transposed,
        "bf16": precision.to_bf16,
        "fp16": precision.to_fp16,
        "fp8-e4m3": partial(precision.fp8, form="e4m3"),
        "fp8-e5m2": partial(precision.fp8, form="e5m2"),
        "int8": precision.int8_per_channel,
        "int4-g128": precision.int4_groups,
        "nf4": precision.nf4,
        "int2-g128": partial(precision.integer_groups, bits=2),
        "ternary": precision.ternary,
        "clusters-6bit": partial(clustering.shared_values, bits=6),
        "clusters-5bit": partial(clustering.shared_values, bits=5),
        "prune-30": partial(pruning.magnitude, share=0.3),
        "prune-50": partial(pruning.magnitude, share=0.5),
        "prune-70": partial(pruning.magnitude, share=0.7),
        "prune-90": partial(pruning.magnitude, share=0.9),
        "prune-random-30": partial(pruning.random_share, share=0.3, seed=SEED),
        "prune-2:4": pruning.two_four,
        "noise-1": partial(noise.gaussian, sigma=0.01, seed=SEED),
        "noise-5": partial(noise.gaussian, sigma=0.05, seed=SEED),
        "noise-10": partial(noise.gaussian, sigma=0.1, seed=SEED),
        "noise-40": partial(noise.gaussian, sigma=0.4, seed=SEED),
        "clip-200": partial(clipping.at_deviations, limit=2.0),
        "shift-150": partial(shifting.by_mean_row, strength=1.5),
        "svd-75": partial(truncation.svd, share=0.75),
        "svd-50": partial(truncation.svd, share=0.5),
        "svd-25": partial(truncation.svd, share=0.25),
    }
)
"""Name to attack, every setting chosen; numbers in names are per cent, except those of bits and groups."""


def attack(name: str) -> Attack:
    """Return the attack of this name.

    Raises:
        InputError: there is none; the message lists the names.
    """
    return by_name(ATTACKS, name, what="attack")


def in_order(*attacks: Callable[[State], State]) -> Attack:
    """Chain attacks into one, the first given first."""

    def chained(state: State, /) -> State:
        for step in attacks:
            state = step(state)
        return state

    return chained
