"""Gaussian noise on the weights, relative to each row.

The crudest attack that must work at some strength: it costs quality in proportion to what it hides, and is the
yardstick for the others ("random degradation of the same cost"). Followed by fine-tuning it belongs to the strongest
removals known: quality comes back.
"""

from __future__ import annotations

import math

import torch

from watermark.attacks.interface import State, each_target, generator
from watermark.errors import InputError


def gaussian(state: State, sigma: float, seed: int) -> State:
    """Add normal noise of `sigma` times the standard deviation of its row to every weight.

    A row of equal weights has deviation 0 and stays. 0.1 is hardly felt by MiniLM; 0.4 is.
    """
    if not 0.0 <= sigma < math.inf:
        raise InputError(f"noise of {sigma} row deviations cannot be drawn", hint="pass 0.1 for 10 %")

    def change(name: str, rows: torch.Tensor) -> torch.Tensor:
        deviation = rows.std(dim=1, keepdim=True, correction=0)
        drawn = torch.randn(rows.shape, generator=generator(seed, name), dtype=rows.dtype)
        return rows + sigma * deviation * drawn

    return each_target(state, change)
