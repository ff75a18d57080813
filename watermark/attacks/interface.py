"""What every removal attack is: a pure function from one state dict to another.

An attack gets the weights under their names and gives back a new dict; the one it was given, and the tensors
in it, are never changed. Unless an attack says otherwise it touches float tensors of two or more dimensions
(matrices, embeddings, convolution kernels) and carries every other tensor unchanged: those are where a mark
lives, and where the literature attacks (Lukas et al., "SoK: How Robust is Image Classification Deep Neural
Network Watermarking?", IEEE S&P 2022).

It knows no file, no module and no key: how a state dict reaches a disk is `watermark.model.torch_state`'s matter,
and whether a mark survived is asked of `watermark.marks`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, TypeVar

import torch

from watermark.errors import InputError

State: TypeAlias = dict[str, torch.Tensor]
_Chosen = TypeVar("_Chosen")


class Attack(Protocol):
    """A removal attack with all its settings chosen: weights in, attacked weights out, the same ones each time."""

    def __call__(self, state: State, /) -> State:
        """Return the attacked weights; `state` and its tensors stay as they are."""
        ...


def is_target(tensor: torch.Tensor) -> bool:
    """Whether attacks touch this tensor: of float type, two or more dimensions, not empty."""
    return tensor.is_floating_point() and tensor.dim() >= 2 and tensor.numel() > 0


def each_target(state: Mapping[str, torch.Tensor], change: Callable[[str, torch.Tensor], torch.Tensor]) -> State:
    """Attack each target tensor as a matrix of rows and carry the others.

    `change` gets the name and a float copy of the tensor, shaped (first dimension, all others); float64 stays
    float64, everything else is computed in float32. What it returns is put back into the tensor's shape and type.
    """
    attacked: State = {}
    for name, tensor in state.items():
        if is_target(tensor):
            precision = torch.float64 if tensor.dtype == torch.float64 else torch.float32
            rows = tensor.detach().to(precision, copy=True).reshape(tensor.shape[0], -1)
            attacked[name] = change(name, rows).reshape(tensor.shape).to(tensor.dtype)
        else:
            attacked[name] = tensor.detach().clone()
    return attacked


def generator(seed: int, name: str) -> torch.Generator:
    """Return the random stream of one tensor, so that an attack does not depend on the order of the dict."""
    digest = hashlib.sha256(f"{seed}\x00{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def require_share(share: float, *, what: str) -> float:
    """Return `share` if it lies between 0 and 1, both allowed.

    Raises:
        InputError: it does not, or is NaN; `what` names it in the message.
    """
    if not 0.0 <= share <= 1.0:
        raise InputError(f"{what} is {share}, not a share between 0 and 1", hint="pass 0.3 for 30 %")
    return share


def by_name(table: Mapping[str, _Chosen], name: str, *, what: str) -> _Chosen:
    """Return the entry of this name.

    Raises:
        InputError: there is none; `what` says what was looked for, and the message lists the names.
    """
    try:
        return table[name]
    except KeyError as missing:
        raise InputError(f"no {what} is called {name!r}", hint="choose from: " + ", ".join(table)) from missing
