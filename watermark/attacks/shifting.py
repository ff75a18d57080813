"""All rows of a matrix shifted by the same vector, against marks in the sign or the mean of filters.

Costs the thief as much as the rows have in common, and a repair by fine-tuning afterwards (Lukas et al., "SoK: How
Robust is Image Classification Deep Neural Network Watermarking?", IEEE S&P 2022, "weight shifting", where noise of one
deviation is added too).
"""

from __future__ import annotations

import math

import torch

from watermark.attacks.interface import State, each_target
from watermark.errors import InputError


def by_mean_row(state: State, strength: float = 1.5) -> State:
    """Subtract from every row of a target `strength` times the mean of its rows; 1.5 turns their common part round."""
    if not math.isfinite(strength):
        raise InputError(f"rows cannot be shifted by {strength} times their mean", hint="pass 1.5, as the literature")

    def change(_name: str, rows: torch.Tensor) -> torch.Tensor:
        return rows - strength * rows.mean(dim=0, keepdim=True)

    return each_target(state, change)
