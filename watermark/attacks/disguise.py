"""The same weights in other clothes: names, shards, layout and types changed.

Costs the thief nothing, in work or in quality, and defeats whatever looks at names or at whole files: the copy of
MiniCPM-Llama3-V was found in 2024 only because renaming its tensors made it load. So names are never evidence, and
never needed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import torch

from watermark.attacks.interface import State, generator, is_target
from watermark.attacks.precision import to_bf16, to_fp16
from watermark.errors import InputError


def new_names(names: Iterable[str], seed: int) -> dict[str, str]:
    """Draw a meaningless name for each tensor, all different; the same ones for the same names and seed.

    The thief keeps this table to load his own model.
    """
    ordered = sorted(names)
    numbers = random.Random(seed).sample(range(len(ordered)), len(ordered))  # noqa: S311 - a disguise, not a secret
    return {name: f"t{number:05d}" for name, number in zip(ordered, numbers, strict=True)}


def renamed(state: State, seed: int) -> State:
    """Give every tensor a meaningless name and order the model by it; see `new_names`."""
    names = new_names(state, seed)
    return {names[name]: state[name].detach().clone() for name in sorted(state, key=names.__getitem__)}


def resharded(state: State, shards: int) -> list[State]:
    """Deal the tensors into `shards` files of about equal size, the largest first; none is left empty.

    Raises:
        InputError: fewer tensors than shards, or less than one shard.
    """
    if not 1 <= shards <= len(state):
        raise InputError(
            f"{len(state)} tensors do not fill {shards} shards",
            hint="ask for at least one shard and at most one a tensor",
        )
    dealt: list[State] = [{} for _ in range(shards)]
    filled = [0] * shards
    for name in sorted(state, key=lambda name: (-state[name].nbytes, name)):
        # An empty file comes before the least filled one, else tensors of no bytes would leave files without any.
        target = min(range(shards), key=lambda index: (len(dealt[index]) > 0, filled[index], len(dealt[index])))
        dealt[target][name] = state[name].detach().clone()
        filled[target] += state[name].nbytes
    return dealt


def transposed(state: State) -> State:
    """Store every float matrix of two dimensions transposed, in its own memory.

    What moving between frameworks does (a linear layer is (out, in) in PyTorch and (in, out) elsewhere).
    """
    return {
        name: tensor.detach().T.clone(memory_format=torch.contiguous_format)
        if is_target(tensor) and tensor.dim() == 2
        else tensor.detach().clone()
        for name, tensor in state.items()
    }


def dtype_mix(state: State, seed: int) -> State:
    """Store each target as float32, float16 or bfloat16, drawn for each; the others are carried.

    Costs what the coarsest of these types costs: nothing to speak of.
    """
    mixed: State = {}
    for name, tensor in state.items():
        choice = int(torch.randint(3, (1,), generator=generator(seed, name))) if is_target(tensor) else -1
        if choice == 0:
            mixed[name] = tensor.detach().to(torch.float32, copy=True)
        elif choice > 0:
            cast = to_fp16 if choice == 1 else to_bf16
            mixed[name] = cast({name: tensor})[name]
        else:
            mixed[name] = tensor.detach().clone()
    return mixed
