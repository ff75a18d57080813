"""Find which tensor of a suspect is which tensor of the reference, by shape and values, never by name.

A thief renames and re-shards at no cost, so names are no evidence and not needed (the copy of MiniCPM-V in 2024 was
found because renaming tensors made it load). The pairing sees the unmarked reference and the suspect, never the marked
copy and never a key, so a test that follows it holds for any suspect. Knows no keys; reads a few thousand numbers of
each tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from watermark.model.directory import Model
from watermark.model.safetensors import TensorInfo

_PIECES = 64
_PIECE_ELEMENTS = 64


@dataclass(frozen=True)
class Pair:
    """A tensor of the reference and the suspect's taken for it; `cosine` is of a sample: shown, never counted."""

    reference: TensorInfo
    suspect: TensorInfo
    cosine: float


def pair_tensors(reference: Model, wanted: Iterable[TensorInfo], suspect: Model) -> tuple[Pair, ...]:
    """Pair tensors of equal shape so that the cosines of their samples add up to the most (Hungarian method).

    Tensors of the suspect that cannot be decoded are left out; a wanted tensor without a partner is left out.
    """
    groups: dict[tuple[int, ...], tuple[list[TensorInfo], list[TensorInfo]]] = {}
    for tensor in wanted:
        groups.setdefault(tensor.shape, ([], []))[0].append(tensor)
    for tensor in suspect.weights.values():
        if tensor.shape in groups and tensor.dtype.is_decodable and tensor.dtype.name != "BOOL":
            groups[tensor.shape][1].append(tensor)
    pairs: list[Pair] = []
    for ours, theirs in groups.values():
        if ours and theirs:
            pairs += _pair_group(reference, ours, suspect, theirs)
    return tuple(pairs)


def _pair_group(reference: Model, ours: list[TensorInfo], suspect: Model, theirs: list[TensorInfo]) -> list[Pair]:
    left = np.stack([sample(reference, tensor) for tensor in ours])
    right = np.stack([sample(suspect, tensor) for tensor in theirs])
    cosines = left @ right.T
    rows, columns = linear_sum_assignment(-cosines)
    return [Pair(ours[i], theirs[j], float(cosines[i, j])) for i, j in zip(rows, columns, strict=True)]


def sample(model: Model, tensor: TensorInfo) -> NDArray[np.float64]:
    """Up to 4,096 values at fixed places of a tensor, centred and scaled to length 1; zeros where it is constant."""
    count = math.prod(tensor.shape)
    if count <= _PIECES * _PIECE_ELEMENTS:
        values = model.values(tensor, 0, count).astype(np.float64)
    else:
        step = (count - _PIECE_ELEMENTS) // (_PIECES - 1)
        starts = [piece * step for piece in range(_PIECES)]
        values = np.concatenate([model.values(tensor, s, s + _PIECE_ELEMENTS) for s in starts]).astype(np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    values -= values.mean()
    length = float(np.linalg.norm(values))
    return values / length if length > 0 else values


def mean_cosine(pairs: Iterable[Pair]) -> float:
    """Mean cosine over pairs, weighted by tensor size; 0.0 for none. A picture for people, never evidence."""
    weights = {id(pair): math.prod(pair.reference.shape) for pair in pairs}
    total = sum(weights.values())
    return sum(pair.cosine * weights[id(pair)] for pair in pairs) / total if total else 0.0


def pair_by_name(
    names: Mapping[str, str], suspect: Model, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, TensorInfo]:
    """Without the reference: take tensors under the names they had at release, where the shape is still the same.

    Args:
        names: digest of each marked tensor to its name at release.
        suspect: the suspect.
        shapes: digest of each marked tensor to its shape.
    """
    found = {}
    for digest, name in names.items():
        tensor = suspect.weights.get(name)
        if tensor is not None and tensor.shape == shapes[digest] and tensor.dtype.is_decodable:
            found[digest] = tensor
    return found
