"""Hidden units reordered, scaled or turned round: the function is what it was. Costs the thief nothing.

Permutation is the oldest of them; positive scaling passes through ReLU and the linear branch of a gated layer. Units
added, split and taken out are in `width`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from watermark.attacks.interface import State, generator
from watermark.attacks.layouts import Expert, Layout, Linear
from watermark.errors import InputError


def permute_hidden(state: State, layout: Layout, seed: int) -> State:
    """Reorder the hidden units of every layer (and of every expert)."""

    def change(name: str, expert: Expert, attacked: State) -> None:
        down = expert.down.read(attacked)
        order = torch.randperm(down.shape[1], generator=generator(seed, name))
        for reader in expert.readers:
            _rows(attacked, reader, lambda rows: rows[order])
        expert.down.write(attacked, down[:, order])

    return _each_expert(state, layout, change)


def scale_hidden(state: State, layout: Layout, seed: int, *, largest: float = 4.0) -> State:
    """Scale each hidden unit by 1 / largest to largest, and its outgoing weights by the inverse."""
    _require_scalable(layout)

    def change(name: str, expert: Expert, attacked: State) -> None:
        down = expert.down.read(attacked)
        factors = largest ** (2 * torch.rand(down.shape[1], generator=generator(seed, name)).double() - 1)
        _rows(attacked, expert.up, lambda rows: rows * factors.reshape(-1, *[1] * (rows.dim() - 1)))
        expert.down.write(attacked, down / factors)

    return _each_expert(state, layout, change)


def flip_hidden(state: State, layout: Layout, seed: int) -> State:
    """Turn round half of the linear branches of gated units."""

    def change(name: str, expert: Expert, attacked: State) -> None:
        if expert.gate is None:
            raise InputError("only gated hidden units can change their sign", hint="use scale_hidden or permute_hidden")
        down = expert.down.read(attacked)
        signs = 2 * torch.randint(2, (down.shape[1],), generator=generator(seed, name)).double() - 1
        _rows(attacked, expert.up, lambda rows: rows * signs.reshape(-1, *[1] * (rows.dim() - 1)))
        expert.down.write(attacked, down * signs)

    return _each_expert(state, layout, change)


def _rows(state: State, linear: Linear, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the outputs of a linear map, weights and bias alike."""
    linear.write(state, change(linear.read(state)))
    bias = linear.read_bias(state)
    if bias is not None:
        linear.write_bias(state, change(bias))


def _each_expert(state: State, layout: Layout, change: Callable[[str, Expert, State], None]) -> State:
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for layer in layout.layers:
        for expert in layer.experts:
            change(f"{expert.down.weight}.{expert.down.entry}", expert, attacked)
    return attacked


def _require_scalable(layout: Layout) -> None:
    if not layout.is_scalable:
        raise InputError(
            "scaled hidden units change what this layout computes: its activation is neither ReLU nor gated",
            hint="use permute_hidden",
        )
