"""Another task: a new last layer on the stolen features, then training.

Transfer learning as it is usual in vision (Yosinski et al., "How transferable are features in deep neural networks?",
NeurIPS 2014). Whatever the last layer held is gone; all others start from the stolen weights.
"""

from __future__ import annotations

import copy

import torch

from watermark.errors import InputError


def with_new_last_layer(module: torch.nn.Module, name: str, outputs: int, seed: int) -> torch.nn.Module:
    """A copy of `module` whose linear layer `name` is drawn anew with so many outputs, ready for `finetune`.

    Raises:
        InputError: that layer is not linear.
    """
    made = copy.deepcopy(module)
    above, _, own = name.rpartition(".")
    old = made.get_submodule(name)
    if not isinstance(old, torch.nn.Linear):
        raise InputError(f"{name!r} is no linear layer", hint="name the last layer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = torch.nn.Linear(old.in_features, outputs, bias=old.bias is not None, dtype=old.weight.dtype)
    setattr(made.get_submodule(above), own, new)
    return made
