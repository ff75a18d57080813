"""Hidden units reordered, scaled, turned round, split or joined by idle ones: the function is what it was.

Costs the thief nothing. Permutation is the oldest of them; positive scaling passes through ReLU and the linear branch
of a gated layer; dummy and split units are the attack of Yan et al. ("Rethinking White-Box Watermarks", USENIX
Security 2023).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from watermark.attacks.interface import State, generator, require_share
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


def add_idle_units(state: State, layout: Layout, seed: int, *, share: float = 0.2) -> State:
    """Add `share` more units of random weights whose outgoing weights are zero, in random places.

    The model's configuration grows with it: the width of its hidden layers is another.
    """
    require_share(share, what="the share of units to add")
    return _widened(state, layout, seed, share, _idle)


def split_units(state: State, layout: Layout, seed: int, *, share: float = 0.2) -> State:
    """Split `share` of the units in two: the same incoming weights, the outgoing ones divided between them."""
    require_share(share, what="the share of units to split")
    return _widened(state, layout, seed, share, _halved)


def _idle(kept: int, added: int, stream: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sources of the new units' incoming weights, what they keep of them, and the share they take of the outgoing."""
    return torch.randint(kept, (added,), generator=stream), torch.randn(added, generator=stream), torch.zeros(added)


def _halved(kept: int, added: int, stream: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chosen = torch.randperm(kept, generator=stream)[:added]
    return chosen, torch.ones(added), 0.2 + 0.6 * torch.rand(added, generator=stream)


_Draw = Callable[[int, int, torch.Generator], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def _widened(state: State, layout: Layout, seed: int, share: float, draw: _Draw) -> State:
    """New units made from old ones; whole tensors are replaced, since their shapes grow."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for layer in layout.layers:
        for expert in layer.experts:
            if expert.up.entry is not None or expert.up.stop is not None:
                raise InputError("units of stacked or fused layers cannot be added to", hint="split the stack first")
            stream = generator(seed, expert.down.weight)
            kept = expert.down.read(state).shape[1]
            sources, factors, taken = draw(kept, round(share * kept), stream)
            order = torch.randperm(kept + len(sources), generator=stream)
            for reader in expert.readers:
                rows = reader.read(state)
                noise = torch.randn(len(sources), rows.shape[1], generator=stream).double() * rows.std()
                idle = bool((taken == 0).all())
                new = noise if idle else rows[sources] * factors.double()[:, None]
                _replace(attacked, reader, torch.cat([rows, new])[order])
                bias = reader.read_bias(state)
                if bias is not None and reader.bias is not None:
                    attacked[reader.bias] = torch.cat([bias, bias[sources]])[order].to(attacked[reader.bias].dtype)
            down = expert.down.read(state)
            new = down[:, sources] * taken.double()
            down[:, sources] = down[:, sources] - new
            _replace(attacked, expert.down, torch.cat([down, new], dim=1)[:, order])
    return attacked


def _replace(state: State, linear: Linear, values: torch.Tensor) -> None:
    whole = values.T if linear.is_transposed else values
    state[linear.weight] = whole.to(state[linear.weight].dtype).contiguous()


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
