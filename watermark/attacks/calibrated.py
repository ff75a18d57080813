"""Rounding that looks at what a layer is fed: GPTQ and AWQ.

The usual 4-bit forms of language models on one accelerator; at the same number of bits they cost less quality than
rounding to nearest. They need a few hundred calibration inputs and the module, so this file reads names: of the maps
whose inputs were seen. All other tensors are carried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from watermark.attacks.interface import State
from watermark.attacks.precision import round_groups

#: What GPTQ adds to the diagonal, in shares of its mean, so that the matrix can be inverted.
DAMPING = 0.01
#: AWQ tries scales of activation^0 to activation^1 in so many steps.
GRID = 20


@dataclass(frozen=True)
class Inputs:
    """What one linear map was fed: the sum of x x' over all inputs, float64, and whether it is stored (in, out)."""

    gram: torch.Tensor
    is_transposed: bool


def inputs_of(module: torch.nn.Module, feed: Callable[[torch.nn.Module], object]) -> dict[str, Inputs]:
    """Let `feed` run the module and note, for the weight of every linear map, what it is fed.

    Linear layers of torch, and the transposed ones that transformers calls Conv1D.
    """
    grams: dict[str, torch.Tensor] = {}

    def note(name: str, _layer: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        rows = given[0].detach().reshape(-1, given[0].shape[-1]).double()
        grams[name] = grams.get(name, 0) + rows.T @ rows

    layers = {
        f"{name}.weight": layer
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear) or type(layer).__name__ == "Conv1D"
    }
    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    try:
        with torch.inference_mode():
            feed(module)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: Inputs(gram, not isinstance(layers[name], torch.nn.Linear)) for name, gram in grams.items()}


def gptq(state: State, inputs: Mapping[str, Inputs], bits: int = 4, group: int = 128) -> State:
    """Round column after column to 2^bits values a group, each error made good in the columns still to come.

    Frantar et al., "GPTQ", ICLR 2023, with the columns in their own order.
    """
    levels = (1 << bits) - 1

    def change(rows: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
        damped = gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        upper = torch.linalg.cholesky(inverse, upper=True)
        low = step = torch.zeros(len(rows), dtype=rows.dtype)
        for column in range(rows.shape[1]):
            if column % group == 0:
                low, high = rows[:, column : column + group].aminmax(dim=1)
                step = (high - low) / levels
                step[step == 0] = 1.0
            value = rows[:, column].clone()
            rows[:, column] = ((value - low) / step).round().clamp(0, levels) * step + low
            error = (value - rows[:, column]) / upper[column, column]
            rows[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
        return rows

    return _each_fed(state, inputs, change)


def awq(state: State, inputs: Mapping[str, Inputs], bits: int = 4, group: int = 128) -> State:
    """Round to nearest with large inputs scaled up, and scale back: of 21 scalings the one that errs least.

    Lin et al., "AWQ", MLSys 2024, with the root mean square of an input for its mean magnitude, and without folding
    the scale into the layer before.
    """

    def change(rows: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
        size = gram.diagonal().sqrt().clamp_min(1e-12)

        def scaled(power: float) -> torch.Tensor:
            scale = size**power
            return round_groups(rows * scale, bits, group) / scale

        def error(rounded: torch.Tensor) -> float:
            return float((((rounded - rows) @ gram) * (rounded - rows)).sum())

        return min((scaled(number / GRID) for number in range(GRID + 1)), key=error)

    return _each_fed(state, inputs, change)


def _each_fed(
    state: State, inputs: Mapping[str, Inputs], change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> State:
    """Change the maps whose inputs are known, as (outputs, inputs) in float64; carry the others."""
    attacked: State = {}
    for name, tensor in state.items():
        attacked[name] = tensor.detach().clone()
        if name in inputs:
            known = inputs[name]
            rows = (tensor.T if known.is_transposed else tensor).detach().to(torch.float64, copy=True)
            found = change(rows.contiguous(), known.gram).to(tensor.dtype)
            attacked[name] = (found.T if known.is_transposed else found).contiguous()
    return attacked
