"""The same maps stored otherwise: query, key and value in one tensor or in three, gate and up in one, tied or untied.

What moving between model classes does; costs the thief nothing and changes every shape that a name or a shape rule
looks at.
"""

from __future__ import annotations

import torch

from watermark.attacks.interface import State
from watermark.attacks.layouts import Layout, Linear


def split_projections(state: State, layout: Layout) -> State:
    """Store every query, key and value (and gate and up) as a tensor of its own, (outputs, inputs)."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for layer in layout.layers:
        parts = [layer.query, layer.key, layer.value, *(r for expert in layer.experts for r in expert.readers)]
        for number, part in enumerate(parts):
            if part.stop is None or part.entry is not None:
                continue
            attacked.pop(part.weight, None)
            attacked[f"{part.weight}.part{number}"] = part.read(state).to(state[part.weight].dtype).contiguous()
            bias = part.read_bias(state)
            if bias is not None and part.bias is not None:
                attacked.pop(part.bias, None)
                attacked[f"{part.bias}.part{number}"] = bias.to(state[part.bias].dtype)
    return attacked


def fuse_projections(state: State, layout: Layout) -> State:
    """Store query, key and value in one tensor, and gate and up in one, as many inference engines do."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for layer in layout.layers:
        groups: list[tuple[Linear, ...]] = [(layer.query, layer.key, layer.value)]
        groups += [expert.readers for expert in layer.experts]
        for group in groups:
            if len(group) < 2 or any(linear.stop is not None for linear in group):
                continue
            first = group[0]
            joined = torch.cat([linear.read(state) for linear in group]).to(state[first.weight].dtype)
            for linear in group:
                attacked.pop(linear.weight)
            attacked[first.weight + ".fused"] = joined
            biases = [linear.read_bias(state) for linear in group]
            if first.bias is not None:
                for linear in group:
                    attacked.pop(str(linear.bias))
                known = [bias for bias in biases if bias is not None]
                attacked[first.bias + ".fused"] = torch.cat(known).to(state[first.bias].dtype)
    return attacked


def untie(state: State, head: str, embedding: str) -> State:
    """Store the output matrix apart from the embedding that it was tied to."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    attacked[head] = state[embedding].detach().clone()
    return attacked


def tie(state: State, head: str) -> State:
    """Leave the output matrix out, as models do whose loader ties it to the embedding."""
    return {name: tensor.detach().clone() for name, tensor in state.items() if name != head}
