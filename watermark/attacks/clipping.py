"""Large weights cut back to a limit.

What a thief does against marks in outliers; costs quality fast below two deviations, since the largest weights do most
of the work.
"""

from __future__ import annotations

import torch

from watermark.attacks.interface import State, each_target
from watermark.errors import InputError


def at_deviations(state: State, limit: float) -> State:
    """Bring every weight beyond `limit` standard deviations of its row, on either side of zero, back to that limit."""
    if not limit > 0.0:
        raise InputError(f"weights cannot be cut at {limit} deviations", hint="pass 2 to cut one in twenty")

    def change(_name: str, rows: torch.Tensor) -> torch.Tensor:
        bound = limit * rows.std(dim=1, keepdim=True, correction=0)
        # A row of equal weights has deviation 0: cutting it would erase it.
        bound[bound == 0] = torch.inf
        return rows.clamp(-bound, bound)

    return each_target(state, change)
