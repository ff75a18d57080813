"""Hidden layers made wider by units that change nothing, or narrower by the units that matter least.

Idle units, cliques and split units keep the function: the attack of Yan et al. ("Rethinking White-Box Watermarks under
Neural Structural Obfuscation", USENIX Security 2023). Taking units out is structured pruning (Ma et al., "LLM-Pruner",
NeurIPS 2023) and costs quality. The model's configuration changes with each: the width of its hidden layers is another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from watermark.attacks.interface import State, generator, require_share
from watermark.attacks.layouts import Expert, Layout, Linear
from watermark.errors import InputError


@dataclass(frozen=True)
class _New:
    """Units to add: the rows of each reader, of which old unit each takes its bias, and the outgoing columns.

    `down` are the old units' outgoing columns, which give some of theirs away where units are split.
    """

    readers: list[torch.Tensor]
    sources: torch.Tensor
    columns: torch.Tensor
    down: torch.Tensor


_Draw = Callable[[list[torch.Tensor], torch.Tensor, int, torch.Generator], _New]


def add_idle_units(state: State, layout: Layout, seed: int, *, share: float = 0.2) -> State:
    """Add `share` more units of random weights whose outgoing weights are zero, in random places."""
    return _widened(state, layout, seed, share, _idle)


def add_cliques(state: State, layout: Layout, seed: int, *, share: float = 0.2) -> State:
    """Add `share` more units in twos: the same random incoming weights, random outgoing weights that cancel."""
    return _widened(state, layout, seed, share, _cliques)


def split_units(state: State, layout: Layout, seed: int, *, share: float = 0.2) -> State:
    """Split `share` of the units in two: the same incoming weights, the outgoing ones divided between them."""
    return _widened(state, layout, seed, share, _halved)


def drop_units(state: State, layout: Layout, *, share: float) -> State:
    """Take out the `share` of units whose incoming and outgoing weights are smallest (product of their lengths)."""
    require_share(share, what="the share of units to take out")
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for expert in _each_expert(layout):
        rows, down = [reader.read(state) for reader in expert.readers], expert.down.read(state)
        weight = down.norm(dim=0)
        for one in rows:
            weight = weight * one.norm(dim=1)
        kept = weight.argsort(descending=True)[: max(1, len(weight) - round(share * len(weight)))].sort().values
        for reader, one in zip(expert.readers, rows, strict=True):
            _replace(attacked, reader, one[kept], reader.read_bias(state), kept)
        _replace(attacked, expert.down, down[:, kept])
    return attacked


def _idle(rows: list[torch.Tensor], down: torch.Tensor, added: int, stream: torch.Generator) -> _New:
    sources = torch.randint(down.shape[1], (added,), generator=stream)
    readers = [torch.randn(added, one.shape[1], generator=stream).double() * one.std() for one in rows]
    return _New(readers, sources, torch.zeros(len(down), added).double(), down)


def _cliques(rows: list[torch.Tensor], down: torch.Tensor, added: int, stream: torch.Generator) -> _New:
    pairs = added // 2
    drawn = _idle(rows, down, pairs, stream)
    columns = torch.randn(len(down), pairs, generator=stream).double() * down.std()
    return _New(
        [one.repeat(2, 1) for one in drawn.readers],
        drawn.sources.repeat(2),
        torch.cat([columns, -columns], dim=1),
        down,
    )


def _halved(rows: list[torch.Tensor], down: torch.Tensor, added: int, stream: torch.Generator) -> _New:
    chosen = torch.randperm(down.shape[1], generator=stream)[:added]
    columns = down[:, chosen] * (0.2 + 0.6 * torch.rand(added, generator=stream)).double()
    left = down.clone()
    left[:, chosen] -= columns
    return _New([one[chosen] for one in rows], chosen, columns, left)


def _widened(state: State, layout: Layout, seed: int, share: float, draw: _Draw) -> State:
    """Whole tensors are replaced, since their shapes grow; new units stand in random places."""
    require_share(share, what="the share of units to add")
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for expert in _each_expert(layout):
        stream = generator(seed, expert.down.weight)
        rows, down = [reader.read(state) for reader in expert.readers], expert.down.read(state)
        new = draw(rows, down, round(share * down.shape[1]), stream)
        old = torch.arange(down.shape[1])
        order = torch.randperm(len(old) + len(new.sources), generator=stream)
        takes_bias_of = torch.cat([old, new.sources])[order]
        for reader, one, more in zip(expert.readers, rows, new.readers, strict=True):
            _replace(attacked, reader, torch.cat([one, more])[order], reader.read_bias(state), takes_bias_of)
        _replace(attacked, expert.down, torch.cat([new.down, new.columns], dim=1)[:, order])
    return attacked


def _each_expert(layout: Layout) -> Iterator[Expert]:
    for layer in layout.layers:
        for expert in layer.experts:
            if expert.up.entry is not None or expert.up.stop is not None:
                raise InputError("the width of stacked or fused layers cannot change", hint="split the stack first")
            yield expert


def _replace(
    state: State,
    linear: Linear,
    values: torch.Tensor,
    bias: torch.Tensor | None = None,
    takes_bias_of: torch.Tensor | None = None,
) -> None:
    whole = values.T if linear.is_transposed else values
    state[linear.weight] = whole.to(state[linear.weight].dtype).contiguous()
    if bias is not None and linear.bias is not None:
        state[linear.bias] = bias[takes_bias_of].to(state[linear.bias].dtype)
