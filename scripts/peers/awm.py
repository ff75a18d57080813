"""Queries and keys compared after the stream's dimensions were put in order by the embeddings.

Zeng, Chen, He, Wang and Lin, "AWM: Accurate Weight-Matrix Fingerprint for Large Language Models" (ICLR 2026). The
columns of the two embedding tables are matched by their absolute cosines (an assignment gives a permutation and
signs), the inputs of all query and key matrices follow, and each pair of matrices is compared by centred kernel
alignment with the unbiased estimator of HSIC, which does not see what orthogonal maps do inside the heads. The score
is the mean over layers, queries and keys; independent models lie near 0. Where one model has fewer blocks, an
assignment of its blocks on these similarities chooses; this part is ours.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from scripts.peers.subject import Subject


def similarity(ours: Subject, theirs: Subject) -> float | None:
    """Mean unbiased alignment of queries and keys; None for what has none, or other vocabularies."""
    if ours.layout is None or theirs.layout is None:
        return None
    left, right = (one.state[one.layout.embeddings[0]].double() for one in (ours, theirs) if one.layout is not None)
    if len(left) != len(right):
        return None
    order, signs = _dimensions(left, right)
    grams = []
    for one in (ours, theirs):
        assert one.layout is not None
        found = [[part.read(one.state) for part in (layer.query, layer.key)] for layer in one.layout.layers]
        if one is theirs:
            found = [[part[:, order] * signs for part in parts] for parts in found]
        grams.append([[_centred(part.T @ part) for part in parts] for parts in found])
    table = np.array(
        [[np.mean([_alignment(*pair) for pair in zip(a, b, strict=True)]) for b in grams[1]] for a in grams[0]]
    )
    if table.shape[0] == table.shape[1]:
        return float(np.diag(table).mean())
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].mean())


def _dimensions(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each dimension of the first stream that of the second, and its sign."""
    cosines = torch.nn.functional.normalize(left, dim=0).T @ torch.nn.functional.normalize(right, dim=0)
    rows, columns = linear_sum_assignment(cosines.abs().numpy(), maximize=True)
    return torch.from_numpy(columns), torch.sign(cosines[rows, columns])


def _centred(gram: torch.Tensor) -> torch.Tensor:
    """U-centring: inner products of such matrices are the unbiased estimate of HSIC (Song et al., JMLR 2012)."""
    count = len(gram)
    gram = gram - torch.diag(gram.diagonal())
    sums = gram.sum(dim=0) / (count - 2)
    centred = gram - sums[:, None] - sums[None] + gram.sum() / ((count - 1) * (count - 2))
    return centred - torch.diag(centred.diagonal())


def _alignment(left: torch.Tensor, right: torch.Tensor) -> float:
    size = float(left.norm() * right.norm())
    return abs(float((left * right).sum())) / size if size else 0.0
