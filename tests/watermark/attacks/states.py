"""A small state dict with one tensor of each kind that attacks must tell apart."""

from __future__ import annotations

import torch

from watermark.attacks.interface import State

MATRICES = ("embedding", "dense", "kernel", "half")
CARRIED = ("bias", "positions", "codes")


def small_state(seed: int = 0) -> State:
    stream = torch.Generator().manual_seed(seed)
    return {
        "embedding": torch.randn(300, 40, generator=stream),
        "dense": 0.02 * torch.randn(64, 300, generator=stream),
        "bias": torch.randn(64, generator=stream),
        "kernel": torch.randn(16, 8, 3, 3, generator=stream),
        "half": torch.randn(32, 48, generator=stream).to(torch.bfloat16),
        "positions": torch.arange(512).reshape(1, 512),
        "codes": torch.randint(-127, 128, (20, 20), dtype=torch.int8, generator=stream),
    }


def rows_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double().reshape(tensor.shape[0], -1)


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal in type, shape and every bit."""
    return left.dtype == right.dtype and left.shape == right.shape and bool((left == right).all())
