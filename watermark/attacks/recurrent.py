"""Recurrent networks: units of an LSTM or GRU reordered, gate by gate, with all that reads them.

The gates of one unit stand H rows apart in one tensor (torch's layout: 4 gates in an LSTM, 3 in a GRU), and each unit
is read by the next step, the next layer and what follows. Costs the thief nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from watermark.attacks.interface import State, generator
from watermark.errors import InputError


@dataclass(frozen=True)
class Recurrence:
    """Layers of cells in order, by the prefix of their tensors: `cells.` has weight_ih_l0, weight_hh_l0 and so on.

    `before` names the table whose columns the first layer reads (None where inputs have an order of their own), `after`
    the matrices whose columns read the last layer.
    """

    prefix: str
    layers: int
    before: str | None
    after: Sequence[str]


def permute_units(state: State, cells: Recurrence, seed: int) -> State:
    """Reorder the units of every layer, and the columns of the table before the first."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    if cells.before is not None:
        width = attacked[cells.before].shape[1]
        order = torch.randperm(width, generator=generator(seed, cells.before))
        for name in (cells.before, f"{cells.prefix}weight_ih_l0"):
            attacked[name] = attacked[name][:, order].clone()
    for layer in range(cells.layers):
        again = f"{cells.prefix}weight_hh_l{layer}"
        units = attacked[again].shape[1]
        if len(attacked[again]) % units:
            raise InputError(f"{again} has no whole number of gates", hint="use it on a plain LSTM or GRU")
        order = torch.randperm(units, generator=generator(seed, again))
        rows = torch.cat([order + gate * units for gate in range(len(attacked[again]) // units)])
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            whole = f"{cells.prefix}{name}_l{layer}"
            if whole in attacked:
                attacked[whole] = attacked[whole][rows].clone()
        last = layer == cells.layers - 1
        for reader in (again, *(cells.after if last else (f"{cells.prefix}weight_ih_l{layer + 1}",))):
            attacked[reader] = attacked[reader][:, order].clone()
    return attacked
