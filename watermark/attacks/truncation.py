"""Matrices cut to a lower rank.

A mark spreads over all singular directions while a model's function gathers in the top ones, so truncation
removes more mark than quality; with fine-tuning afterwards it is the strongest removal known. The thief pays with
quality, and gains a smaller model if he stores the factors.
"""

from __future__ import annotations

import torch

from watermark.attacks.interface import State, each_target, require_share


def svd(state: State, share: float) -> State:
    """Keep the top singular directions of each target: `share` of the smaller dimension, rounded, at least one.

    Kernels of more than two dimensions are cut as matrices (first dimension x all others). The best
    approximation of that rank in the Frobenius norm (Eckart and Young, 1936).
    """
    require_share(share, what="the share of the rank to keep")

    def change(_name: str, rows: torch.Tensor) -> torch.Tensor:
        full_rank = min(rows.shape)
        rank = max(1, round(share * full_rank))
        if rank == full_rank:
            return rows
        matrix = rows.double()
        # The top singular vectors of the shorter side come from its Gram matrix: an embedding of 30,522 x 384
        # then needs a 384 x 384 decomposition, and the projection is the truncated SVD.
        cut: torch.Tensor
        if rows.shape[0] >= rows.shape[1]:
            top = torch.linalg.eigh(matrix.T @ matrix).eigenvectors[:, -rank:]
            cut = (matrix @ top) @ top.T
        else:
            top = torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -rank:]
            cut = top @ (top.T @ matrix)
        return cut.to(rows.dtype)

    return each_target(state, change)
