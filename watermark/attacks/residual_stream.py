"""The residual stream reordered, turned or scaled, and norms folded away: the function is what it was.

After folding its gains into what reads it, a norm commutes with any rotation of the stream (RMS norm) or any that
leaves the mean alone (layer norm): Ashkboos et al., "SliceGPT", ICLR 2024. Post-norm models leave reorderings only.
Costs the thief nothing, and hides every single weight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from watermark.attacks.interface import State, generator
from watermark.attacks.layouts import Layout, Linear, Norm
from watermark.errors import InputError

_Change = Callable[[torch.Tensor], torch.Tensor]


def permute_stream(state: State, layout: Layout, seed: int) -> State:
    """Reorder the numbers of the stream, with every gain and bias that belongs to them."""
    order = torch.randperm(_width(state, layout), generator=generator(seed, "stream"))
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    _turn(attacked, layout, lambda values: values[..., order])
    norms = [norm for layer in layout.layers for norm in (layer.before_attention, layer.before_hidden)]
    norms += [one for one in layout.other if isinstance(one, Norm)]
    for norm in (*norms, *([layout.final[0]] if layout.final else [])):
        for name in (norm.weight, norm.bias):
            if name is not None:
                attacked[name] = attacked[name][order].clone()
    return attacked


def fold_norms(state: State, layout: Layout, seed: int | None = None) -> State:
    """Fold the gains of all norms into what reads them; with a seed, leave other gains behind in their place."""
    _require_pre_norm(layout)
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    final = ((layout.final[0], (layout.final[1],)),) if layout.final else ()
    for norm, readers in (*(pair for layer in layout.layers for pair in layer.readers), *final):
        gain = attacked[norm.weight].double()
        left = torch.ones_like(gain)
        if seed is not None:
            left = 2 * torch.rand(len(gain), generator=generator(seed, norm.weight)).double() + 0.5
        for reader in readers:
            reader.write(attacked, reader.read(attacked) * (gain / left))
        attacked[norm.weight] = left.to(attacked[norm.weight].dtype)
        if norm.bias is not None:
            # gain n + b = left n' with n' scaled and b in the reader's own coordinates
            attacked[norm.bias] = (attacked[norm.bias].double() / gain * left).to(attacked[norm.bias].dtype)
    return attacked


def rotate_stream(state: State, layout: Layout, seed: int) -> State:
    """Turn the stream by a random rotation, norms folded first; layer norm keeps the direction of its mean."""
    folded = fold_norms(state, layout)
    width = _width(state, layout)
    stream = generator(seed, "rotation")
    if layout.is_centred:
        ones = torch.full((width, 1), width**-0.5).double()
        basis = torch.linalg.qr(torch.cat([ones, torch.randn(width, width - 1, generator=stream).double()], dim=1))[0]
        free = basis[:, 1:]
        inner = torch.linalg.qr(torch.randn(width - 1, width - 1, generator=stream).double())[0]
        rotation = ones @ ones.T + free @ inner @ free.T
    else:
        rotation = torch.linalg.qr(torch.randn(width, width, generator=stream).double())[0]
    _turn(folded, layout, lambda values: (values.double() @ rotation).to(values.dtype))
    for norm in _biased(layout):
        folded[norm] = (folded[norm].double() @ rotation).to(folded[norm].dtype)
    return folded


def scale_stream(state: State, layout: Layout, factor: float = 2.0) -> State:
    """Scale everything that writes to the stream; norms take it out again, but for their tiny epsilon."""
    _require_pre_norm(layout)
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for name in layout.embeddings:
        attacked[name] = attacked[name] * factor
    for layer in layout.layers:
        for writer in layer.writers:
            writer.write(attacked, writer.read(attacked) * factor)
            bias = writer.read_bias(attacked)
            if bias is not None:
                writer.write_bias(attacked, bias * factor)
    return attacked


def _turn(state: State, layout: Layout, change: _Change) -> None:
    """Apply `change`, linear in its last axis, to all that reads the stream or writes to it; in place."""
    for name in layout.embeddings:
        state[name] = change(state[name])
    readers = [linear for layer in layout.layers for _, linears in layer.readers for linear in linears]
    readers += [one for one in layout.other if isinstance(one, Linear)]
    readers += [layout.final[1]] if layout.final else []
    for reader in readers:
        reader.write(state, change(reader.read(state)))
    for writer in (writer for layer in layout.layers for writer in layer.writers):
        writer.write(state, change(writer.read(state).T).T)
        bias = writer.read_bias(state)
        if bias is not None:
            writer.write_bias(state, change(bias))


def _biased(layout: Layout) -> list[str]:
    norms = [norm for layer in layout.layers for norm in (layer.before_attention, layer.before_hidden)]
    norms += [layout.final[0]] if layout.final else []
    return [norm.bias for norm in norms if norm.bias is not None]


def _width(state: State, layout: Layout) -> int:
    return int(state[layout.embeddings[0]].shape[1])


def _require_pre_norm(layout: Layout) -> None:
    if not layout.is_pre_norm:
        raise InputError("gains of this layout stay in the stream: it can only be reordered", hint="use permute_stream")
