"""Heads reordered, and invertible mixes inside them that attention does not notice.

Scores depend on the product of queries and keys and outputs on the product of values and the output matrix, so any
invertible matrix may stand between; with rotary positions, queries and keys leave one complex number a frequency. Costs
the thief nothing.
"""

from __future__ import annotations

import torch

from watermark.attacks.interface import State, generator
from watermark.attacks.layouts import Layer, Layout, Linear


def permute_heads(state: State, layout: Layout, seed: int) -> State:
    """Reorder key heads with the groups of query heads that read them, and the query heads inside each group."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    shared = layout.heads // layout.key_heads
    for layer in layout.layers:
        stream = generator(seed, layer.output.weight)
        groups = torch.randperm(layout.key_heads, generator=stream)
        inner = [torch.randperm(shared, generator=stream) for _ in range(layout.key_heads)]
        heads = torch.cat([group * shared + inner[group] for group in groups])
        for linear, order in ((layer.query, heads), (layer.key, groups), (layer.value, groups)):
            rows = linear.read(attacked)
            linear.write(attacked, rows.reshape(len(order), -1, rows.shape[1])[order].reshape(rows.shape))
            bias = linear.read_bias(attacked)
            if bias is not None:
                linear.write_bias(attacked, bias.reshape(len(order), -1)[order].reshape(-1))
        out = layer.output.read(attacked)
        columns = out.reshape(len(out), layout.heads, -1)[:, heads]
        layer.output.write(attacked, columns.reshape(out.shape))
    return attacked


def mix_query_key(state: State, layout: Layout, seed: int) -> State:
    """Put an invertible matrix between queries and keys of each key head: one complex number a frequency if rotary."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for layer in layout.layers:
        size = len(layer.key.read(state)) // layout.key_heads
        stream = generator(seed, layer.key.weight)
        for head in range(layout.key_heads):
            mix = _rotary_mix(size, stream) if layout.is_rotary else _mix(size, stream)
            _mix_rows(attacked, layer.key, head, size, mix)
            for query in _queries_of(layout, head):
                _mix_rows(attacked, layer.query, query, size, torch.linalg.inv(mix).T)
    return attacked


def mix_value_output(state: State, layout: Layout, seed: int) -> State:
    """Put an invertible matrix between values and the output matrix, one for each value head."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for layer in layout.layers:
        size = len(layer.value.read(state)) // layout.key_heads
        stream = generator(seed, layer.value.weight)
        for head in range(layout.key_heads):
            mix = _mix(size, stream)
            _mix_rows(attacked, layer.value, head, size, mix)
            _mix_columns(attacked, layout, layer, head, size, torch.linalg.inv(mix))
    return attacked


def _queries_of(layout: Layout, head: int) -> range:
    shared = layout.heads // layout.key_heads
    return range(head * shared, (head + 1) * shared)


def _mix(size: int, stream: torch.Generator) -> torch.Tensor:
    """An invertible matrix of condition 4: a rotation, factors from 0.5 to 2, a rotation."""
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=stream).double())[0] for _ in range(2))
    factors: torch.Tensor = 4.0 ** (torch.rand(size, generator=stream).double() - 0.5)
    mix: torch.Tensor = left @ torch.diag(factors) @ right
    return mix


def _rotary_mix(size: int, stream: torch.Generator) -> torch.Tensor:
    half = size // 2
    factor = 4.0 ** (torch.rand(half, generator=stream).double() - 0.5)
    angle = 2 * torch.pi * torch.rand(half, generator=stream).double()
    real, imaginary = torch.diag(factor * torch.cos(angle)), torch.diag(factor * torch.sin(angle))
    return torch.cat([torch.cat([real, -imaginary], dim=1), torch.cat([imaginary, real], dim=1)])


def _mix_rows(state: State, linear: Linear, head: int, size: int, mix: torch.Tensor) -> None:
    chosen = slice(head * size, (head + 1) * size)
    rows = linear.read(state)
    rows[chosen] = mix @ rows[chosen]
    linear.write(state, rows)
    bias = linear.read_bias(state)
    if bias is not None:
        bias[chosen] = mix @ bias[chosen]
        linear.write_bias(state, bias)


def _mix_columns(state: State, layout: Layout, layer: Layer, head: int, size: int, mix: torch.Tensor) -> None:
    out = layer.output.read(state)
    for query in _queries_of(layout, head):
        chosen = slice(query * size, (query + 1) * size)
        out[:, chosen] = out[:, chosen] @ mix
    layer.output.write(state, out)
