"""A message in the mean weights of one layer, placed there by a regulariser while the model is trained.

Uchida, Nagai, Sakazawa and Satoh, "Embedding Watermarks into Deep Neural Networks" (ICMR 2017). Weights are averaged
over the layer's outputs, multiplied by a secret random matrix, and each product's sign is one bit; training adds the
cross-entropy of the bits to the loss. It is read from the layer of the same place, without any alignment. The score is
the binomial tail of the bits that match; the paper itself counts bit errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.stats import binom

STRENGTH = 2.0


@dataclass(frozen=True)
class Message:
    """Secret bits, and the secret matrix that they are read through, (bits, inputs of the layer)."""

    bits: torch.Tensor
    matrix: torch.Tensor

    @classmethod
    def draw(cls, seed: int, inputs: int, bits: int = 64) -> Message:
        """Draw both."""
        stream = torch.Generator().manual_seed(seed)
        return cls(torch.randint(2, (bits,), generator=stream).float(), torch.randn(bits, inputs, generator=stream))

    def loss(self, weight: torch.Tensor) -> torch.Tensor:
        """What training adds; the weight as (outputs, inputs)."""
        read = self.matrix @ weight.mean(dim=0)
        return STRENGTH * torch.nn.functional.binary_cross_entropy_with_logits(read, self.bits)

    def matches(self, weight: torch.Tensor) -> int:
        """How many bits are read rightly."""
        return int(((self.matrix @ weight.float().mean(dim=0) > 0).float() == self.bits).sum())

    def found(self, weight: torch.Tensor | None) -> float | None:
        """Bits of evidence (-log2 p) in a suspect's layer; None where it cannot be read any more."""
        if weight is None or weight.shape[1] != self.matrix.shape[1]:
            return None
        tail = float(binom.logsf(self.matches(weight) - 1, len(self.bits), 0.5))
        return max(0.0, -tail / math.log(2))
