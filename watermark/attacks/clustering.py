"""Weights gathered into a few values that they share, found by k-means in each tensor.

What compression of small devices does: 32 or 64 values cost the thief next to nothing, and no grid gives the rounding
away (Han et al., "Deep Compression", ICLR 2016).
"""

from __future__ import annotations

import torch

from watermark.attacks.interface import State, each_target
from watermark.errors import InputError

ROUNDS = 30


def shared_values(state: State, bits: int) -> State:
    """Replace each weight by the nearest of at most 2^bits values of its tensor.

    The values start evenly spaced from the smallest weight to the largest, as that paper found best, and are moved to
    the mean of the weights nearest to them, up to 30 times (Lloyd's algorithm).

    Raises:
        InputError: not 1 to 8 bits.
    """
    if not 1 <= bits <= 8:
        raise InputError(f"cannot gather weights into 2^{bits} values", hint="use 1 to 8 bits")

    def change(_name: str, rows: torch.Tensor) -> torch.Tensor:
        flat = rows.reshape(-1)
        values = _centres(flat, 1 << bits).to(rows.dtype)
        return values[torch.bucketize(flat, (values[1:] + values[:-1]) / 2)]

    return each_target(state, change)


def _centres(flat: torch.Tensor, count: int) -> torch.Tensor:
    """The values of one tensor, in order. In one dimension a cluster is a run of the sorted weights."""
    ordered = flat.double().sort().values
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), ordered.cumsum(0)])
    steps = torch.linspace(0, 1, count, dtype=torch.float64)
    centres = ordered[0] + steps * (ordered[-1] - ordered[0])
    for _ in range(ROUNDS):
        inner = torch.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        bounds = torch.cat([torch.zeros(1, dtype=torch.long), inner, torch.tensor([len(ordered)])])
        sizes = bounds.diff()
        moved = torch.where(sizes > 0, sums[bounds].diff() / sizes.clamp_min(1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres
