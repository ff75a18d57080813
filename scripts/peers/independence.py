"""Tests of independence: hidden units that are still in order, or matched alike by two kinds of their activations.

Zhu, Ahmed, Kuditipudi and Liang, "Independence Tests for Language Models" (ICML 2025). Constrained (phi_U): units of
two models of one architecture are matched by the cosines of their incoming weights (MATCH, an assignment), and the
matching is compared with the order of the units by Spearman's correlation: under exchangeability a p-value. Robust
(phi_MATCH): the units of a gated layer are matched once by the activations of the gate and once by those of the linear
branch, on common texts, and the two matchings are compared: it stands permutations and rotations and is a p-value
only by experience. Layers are put together by Fisher's method. A layer of h units counts for no less than 1 / h!.
The distillation that makes gated layers out of others for the robust test (their algorithm 5) is left out: it has
no answer for layouts without gates.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp
from scipy.stats import rankdata, t
from torch.nn.functional import normalize

from scripts.peers.subject import Subject

Index = NDArray[np.int64]


def constrained(ours: Subject, theirs: Subject) -> float | None:
    """Bits (-log2 p) of phi_U; None where the architectures differ."""
    if [one.shape for one in ours.units] != [one.shape for one in theirs.units] or not ours.units:
        return None
    found = []
    for left, right in zip(ours.units, theirs.units, strict=True):
        _, matched = match(left, right)
        found.append(spearman_ln_p(np.arange(len(matched)), matched))
    return -fisher_ln_p(found) / math.log(2)


def robust(ours: Subject, theirs: Subject) -> float | None:
    """Bits of phi_MATCH; None where a layer has no gate. Blocks of unequal number: each with its best."""
    branches = [_branches(one) for one in (ours, theirs)]
    if branches[0] is None or branches[1] is None:
        return None
    left, right = sorted(branches, key=lambda one: len(one or ()), reverse=True)
    assert left is not None
    assert right is not None
    if len(left) == len(right):
        return -fisher_ln_p([_agree(*pair) for pair in zip(left, right, strict=True)]) / math.log(2)
    found = []
    for one in right:
        best = min(_agree(other, one) for other in left)
        found.append(min(0.0, best + math.log(len(left))))
    return -fisher_ln_p(found) / math.log(2)


def _branches(subject: Subject) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
    """Activations of gate and linear branch of each block (its first expert), (units, tokens)."""
    if subject.layout is None or subject.run is None:
        return None
    found = []
    layers = subject.layout.layers
    if any(layer.experts[0].gate is None for layer in layers):
        return None
    for layer, values in zip(layers, subject.run().hidden_inputs, strict=True):
        expert = layer.experts[0]
        assert expert.gate is not None
        found.append(tuple(one.read(subject.state) @ values.double().T for one in (expert.gate, expert.up)))
    return found  # type: ignore[return-value]


def _agree(left: tuple[torch.Tensor, torch.Tensor], right: tuple[torch.Tensor, torch.Tensor]) -> float:
    """ln p of one layer: is what the gates match also what the linear branches match?"""
    gate, up = (dict(zip(*match(*pair), strict=True)) for pair in zip(left, right, strict=True))
    common = sorted(gate.keys() & up.keys())
    return spearman_ln_p(np.array([gate[unit] for unit in common]), np.array([up[unit] for unit in common]))


def match(left: torch.Tensor, right: torch.Tensor) -> tuple[Index, Index]:
    """Pairs of rows, each used once, with the largest sum of cosines (MATCH)."""
    cosines = normalize(left.double(), dim=1) @ normalize(right.double(), dim=1).T
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return rows, columns


def spearman_ln_p(left: Index, right: Index) -> float:
    """ln of the one-sided p-value of Spearman's correlation (SPEARMAN), at least -ln h!."""
    count = len(left)
    if count < 3:
        return 0.0
    ranks = np.corrcoef(rankdata(left), rankdata(right))[0, 1]
    floor = -math.lgamma(count + 1)
    if ranks >= 1.0:
        return floor
    if ranks <= -1.0:
        return 0.0
    return max(floor, float(t.logsf(ranks * math.sqrt((count - 2) / (1 - ranks * ranks)), count - 2)))


def fisher_ln_p(found: list[float]) -> float:
    """ln p of independent p-values together (FISHER): their product against a sum of exponential variables."""
    total = -sum(found)
    if total <= 0.0:
        return 0.0
    steps = np.arange(len(found))
    terms = steps * math.log(total) - np.array([math.lgamma(step + 1) for step in steps])
    return min(0.0, float(-total + logsumexp(terms)))
