"""Mixtures of experts: experts reordered, the router's scores shifted together, a dense layer copied into experts.

Routing looks at differences of scores only, and experts have no order of their own. Upcycling (Komatsuzaki et al.,
ICLR 2023) starts a mixture from copies of a dense model, whose function is kept where all experts are equal. Costs the
thief nothing.
"""

from __future__ import annotations

import torch

from watermark.attacks.interface import State, generator
from watermark.attacks.layouts import Layout
from watermark.errors import InputError


def permute_experts(state: State, layout: Layout, seed: int) -> State:
    """Reorder the experts of each layer, with the router's rows."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for layer in layout.layers:
        if layer.router is None:
            raise InputError("this layout has no experts", hint="use it on a mixture of experts")
        order = torch.randperm(len(layer.experts), generator=generator(seed, layer.router.weight))
        layer.router.write(attacked, layer.router.read(attacked)[order])
        for name in dict.fromkeys(linear.weight for expert in layer.experts for linear in (expert.up, expert.down)):
            attacked[name] = attacked[name][order].clone()
    return attacked


def shift_router(state: State, layout: Layout, seed: int, *, size: float = 2.0) -> State:
    """Add one random vector, `size` times as long as a row, to every row of each router: softmax does not see it."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for layer in layout.layers:
        if layer.router is None:
            raise InputError("this layout has no experts", hint="use it on a mixture of experts")
        rows = layer.router.read(attacked)
        shift = torch.randn(rows.shape[1], generator=generator(seed, layer.router.weight)).double()
        layer.router.write(attacked, rows + size * rows.std() * shift)
    return attacked


def upcycle(state: State, layout: Layout, seed: int, *, experts: int = 8) -> State:
    """Turn a dense Llama-like state into a Mixtral-like one whose experts are all the dense layer; names follow."""
    attacked: State = {}
    hidden = {linear.weight for layer in layout.layers for expert in layer.experts for linear in expert.readers}
    hidden |= {expert.down.weight for layer in layout.layers for expert in layer.experts}
    attacked = {name: tensor.detach().clone() for name, tensor in state.items() if name not in hidden}
    for layer in layout.layers:
        (expert,) = layer.experts
        if expert.gate is None or layer.router is not None:
            raise InputError("only dense gated layers are copied into experts", hint="use a Llama-like layout")
        at = expert.up.weight.removesuffix("up_proj.weight")
        fused = torch.cat([state[expert.gate.weight], state[expert.up.weight]])
        attacked[at + "experts.gate_up_proj"] = fused.repeat(experts, 1, 1)
        attacked[at + "experts.down_proj"] = state[expert.down.weight].repeat(experts, 1, 1)
        noise = torch.randn(experts, fused.shape[1], generator=generator(seed, at))
        attacked[at + "gate.weight"] = (0.02 * noise).to(fused.dtype)
    return attacked
