"""Hide a low-rank adapter at no cost: mix its inner dimension, widen it, or add it to its base and ship the sum."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from watermark.attacks.interface import State, generator, require_share

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def factor_names(state: State) -> Iterator[tuple[str, str, str]]:
    """Name of each adapted layer, of its factor that reads, (rank, inputs), and of the one that writes."""
    for name in state:
        if name.endswith(_DOWN):
            stem = name.removesuffix(_DOWN)
            yield stem, name, stem + _UP


def mix_inner_dimension(state: State, seed: int) -> State:
    """B A = (B R^-1)(R A) for an invertible R of each layer's own."""
    attacked = dict(state)
    for stem, down, up in factor_names(state):
        stream = generator(seed, stem)
        rank = len(state[down])
        turn = torch.linalg.qr(torch.randn(rank, rank, generator=stream, dtype=torch.float64))[0]
        mix = turn * (0.5 + torch.rand(rank, generator=stream, dtype=torch.float64))
        attacked[down] = (mix @ state[down].double()).to(state[down].dtype)
        attacked[up] = (state[up].double() @ torch.linalg.inv(mix)).to(state[up].dtype)
    return attacked


def widen_inner_dimension(state: State, seed: int, share: float = 0.5) -> State:
    """More inner dimensions, read at random and written with zeros."""
    require_share(share, what="idle inner dimensions")
    attacked = dict(state)
    for stem, down, up in factor_names(state):
        stream = generator(seed, stem)
        more = max(1, round(share * len(state[down])))
        idle = state[down].std() * torch.randn(more, state[down].shape[1], generator=stream)
        attacked[down] = torch.cat([state[down], idle.to(state[down].dtype)])
        attacked[up] = torch.cat([state[up], state[up].new_zeros(len(state[up]), more)], dim=1)
    return attacked


def add_to_base(state: State, base: State, scale: float) -> State:
    """The base with the adapter merged into it; `scale` is lora_alpha / r."""
    merged = dict(base)
    for stem, down, up in factor_names(state):
        name = next(one for one in base if one == f"{stem}.weight" or f"{stem}.weight".endswith("." + one))
        change = scale * (state[up].double() @ state[down].double())
        merged[name] = (base[name].double() + change).to(base[name].dtype)
    return merged
