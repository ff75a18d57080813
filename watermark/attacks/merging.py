"""Weights averaged with those of another model of the same layout.

Merging with the public base, or with an unmarked sibling, dilutes a mark and keeps quality; it costs the thief the
other model. Spherical and sign-voting merges are not here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from watermark.attacks.interface import State
from watermark.errors import InputError


def linear(state: State, other: Mapping[str, torch.Tensor], share: float) -> State:
    """Replace each float tensor, of any number of dimensions, by (1 - share) of itself plus `share` of the other's.

    A "model soup" (Wortsman et al., ICML 2022). Integer tensors are carried from `state`. A share outside 0 to 1
    is task arithmetic (Ilharco et al., ICLR 2023): -1 with the public base as `other` doubles the difference.

    Raises:
        InputError: `other` lacks a float tensor of `state`, or has it in another shape.
    """
    merged: State = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            merged[name] = tensor.detach().clone()
            continue
        partner = other.get(name)
        if partner is None or partner.shape != tensor.shape:
            found = "lacks it" if partner is None else f"has it as {tuple(partner.shape)}"
            raise InputError(
                f"cannot merge {name!r} {tuple(tensor.shape)}: the other model {found}",
                hint="merge only models of the same layout and names",
            )
        precision = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        mixed = (1.0 - share) * tensor.detach().to(precision) + share * partner.detach().to(precision)
        merged[name] = mixed.to(tensor.dtype)
    return merged
