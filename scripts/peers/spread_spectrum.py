"""Spread spectrum as it stands in textbooks: add a secret pattern to all weights, correlate what the suspect has more.

Cox, Kilian, Leighton and Shamoon, "Secure Spread Spectrum Watermarking for Multimedia" (IEEE Transactions on Image
Processing, 1997), on weights: w + alpha sigma s with signs s from a key; the suspect's difference from the unmarked
weights, tensors taken by name and shape, is multiplied by the signs and summed. No blocks, no clipping, no weighting,
no alignment. The bound on p is that of Hoeffding, as ours.
"""

from __future__ import annotations

import hashlib
import math

import torch

from watermark.attacks.interface import State, is_target


def embed(state: State, key: bytes, alpha: float) -> State:
    """Mark every float matrix; tensors that are one (tied) get one pattern."""
    marked = {name: tensor.clone() for name, tensor in state.items()}
    for name, twin in _carriers(state).items():
        weight = state[name]
        marked[name] = marked[twin] if twin != name else weight + alpha * weight.std() * _signs(key, name, weight)
    return marked


def found(suspect: State, reference: State, key: bytes) -> float:
    """Bits of evidence (-log2 p) in the difference; 0.0 where nothing can be compared."""
    total = energy = 0.0
    for name, twin in _carriers(reference).items():
        weight = suspect.get(name)
        if twin != name or weight is None or weight.shape != reference[name].shape:
            continue
        more = (weight - reference[name]).double()
        total += float((more * _signs(key, name, weight)).sum())
        energy += float(more.square().sum())
    return total * total / (2 * math.log(2) * energy) if total > 0 else 0.0


def _carriers(state: State) -> dict[str, str]:
    """Each float matrix with the first name of the same values."""
    names = [name for name, tensor in state.items() if is_target(tensor)]
    return {
        name: next(one for one in names if state[one].shape == state[name].shape and state[one].equal(state[name]))
        for name in names
    }


def _signs(key: bytes, name: str, weight: torch.Tensor) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(key + name.encode()).digest()[:8], "big") >> 1
    return 2.0 * torch.randint(2, weight.shape, generator=torch.Generator().manual_seed(seed)) - 1
