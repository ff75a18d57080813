"""Whole blocks dropped, moved, doubled or slipped in without effect.

Dropping a quarter of the blocks costs a large model little after some repair (Men et al., "ShortGPT", 2024); a block
that writes nothing costs nothing at all. Layers are renamed as a loader wants them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from watermark.attacks.interface import State
from watermark.errors import InputError


def rearrange_blocks(state: State, pattern: str, order: Sequence[int]) -> State:
    """Make a model of the blocks `order`, which may leave out, repeat and move.

    Args:
        state: the model.
        pattern: how names of blocks begin, with {} for the number: `model.layers.{}.`.
        order: old numbers of the new blocks.

    Raises:
        InputError: a number is not that of a block.
    """
    found = re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)") + "(.*)")
    blocks: dict[int, dict[str, torch.Tensor]] = {}
    attacked: State = {}
    for name, tensor in state.items():
        match = found.fullmatch(name)
        if match is None:
            attacked[name] = tensor.detach().clone()
        else:
            blocks.setdefault(int(match[1]), {})[match[2]] = tensor
    missing = [number for number in order if number not in blocks]
    if missing or not order:
        raise InputError(
            f"there are blocks {sorted(blocks)}: {missing or 'none'} cannot be taken", hint="name blocks that are there"
        )
    for place, number in enumerate(order):
        for rest, tensor in blocks[number].items():
            attacked[pattern.format(place) + rest] = tensor.detach().clone()
    return attacked


def insert_identity(state: State, pattern: str, after: int, writers: Sequence[str]) -> State:
    """Double block `after` and silence the copy: its `writers` (name endings) write zeros, so the function is kept."""
    found = re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)"))
    blocks = 1 + max(int(match[1]) for name in state if (match := found.match(name)))
    order = [*range(after + 1), after, *range(after + 1, blocks)]
    attacked = rearrange_blocks(state, pattern, order)
    for ending in writers:
        name = pattern.format(after + 1) + ending
        attacked[name] = torch.zeros_like(attacked[name])
    return attacked
