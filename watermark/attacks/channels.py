"""Chains of layers: channels and units reordered and scaled, batch norms folded into the convolutions before them.

Costs the thief nothing: batch norm folding is what every inference engine does, and a positive factor passes through
ReLU and pooling. A chain is given by its tensors in order; what stands between them works on each channel by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from watermark.attacks.interface import State, generator


@dataclass(frozen=True)
class Stage:
    """One layer of a chain: its weight (outputs first), its bias, and the batch norm that follows, by their names.

    `norm` is the prefix of weight, bias, running_mean and running_var.
    """

    weight: str
    bias: str | None = None
    norm: str | None = None

    def per_channel(self) -> list[str]:
        """Names of all tensors with one number for each output channel."""
        norm = (
            [f"{self.norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")] if self.norm else []
        )
        return ([self.bias] if self.bias else []) + norm


def permute_channels(state: State, chain: Sequence[Stage], seed: int) -> State:
    """Reorder the outputs of every stage but the last, and the inputs of the next to fit."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for stage, following in pairwise(chain):
        count = len(attacked[stage.weight])
        order = torch.randperm(count, generator=generator(seed, stage.weight))
        for name in (stage.weight, *stage.per_channel()):
            attacked[name] = attacked[name][order].clone()
        attacked[following.weight] = _by_channel(attacked[following.weight], count)[:, order].reshape(
            attacked[following.weight].shape
        )
    return attacked


def scale_channels(state: State, chain: Sequence[Stage], seed: int, *, largest: float = 3.0) -> State:
    """Scale the outputs of every stage without a batch norm by 1 / largest to largest, and take it out in the next."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for stage, following in pairwise(chain):
        if stage.norm is not None:
            continue
        weight = attacked[stage.weight]
        factors = largest ** (2 * torch.rand(len(weight), generator=generator(seed, stage.weight)) - 1)
        attacked[stage.weight] = weight * factors.reshape(-1, *[1] * (weight.dim() - 1))
        if stage.bias is not None:
            attacked[stage.bias] = attacked[stage.bias] * factors
        following_weight = attacked[following.weight]
        cube = _by_channel(following_weight, len(weight)) / factors[:, None]
        attacked[following.weight] = cube.reshape(following_weight.shape)
    return attacked


def fold_batch_norms(state: State, chain: Sequence[Stage], *, epsilon: float = 1e-5) -> State:
    """Fold each batch norm into the convolution before it, and leave one behind that does nothing."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for stage in chain:
        if stage.norm is None or stage.bias is None:
            continue
        gain, shift, mean, variance = (
            attacked[f"{stage.norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gain / torch.sqrt(variance + epsilon)
        weight = attacked[stage.weight]
        attacked[stage.weight] = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
        attacked[stage.bias] = (attacked[stage.bias] - mean) * factor + shift
        for part, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0 - epsilon)):
            attacked[f"{stage.norm}.{part}"] = torch.full_like(gain, value)
    return attacked


def _by_channel(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """A weight as (outputs, channels, the rest): a linear layer may read each channel's map flattened."""
    return weight.reshape(len(weight), channels, -1)
