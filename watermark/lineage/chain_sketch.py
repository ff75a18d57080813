"""Sketch a plain chain of layers: what its hidden units make of 64 public inputs, whatever their order and scale.

The inputs (pixels, features) have an order that no thief can change, so public signs are fed in and followed through
the layers, kernels taking another of the 64 at each of their places. A layer's units are compared over the 64 only, so
their order and positive scale do not show; incoming scales are brought to one form by balancing rows and columns in
turn (Sinkhorn and Knopp 1967), which a folded batch norm does not change either. Not the model's real answers: biases
and pooling are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from watermark.lineage.anchors import ANCHORS, Floats, evened, public_signs, unit_rows, without_common
from watermark.lineage.chain import Link
from watermark.model.directory import Model

Doubles = NDArray[np.float64]

_BALANCING_ROUNDS = 12


def chain_grams(
    model: Model, links: Sequence[Link], progress: Callable[[int], None] | None = None
) -> tuple[Doubles, ...]:
    """For each layer, how its units go together over the public inputs; triangles without what is common, (2080,)."""
    grams = []
    seen = np.zeros((0, ANCHORS), np.float32)
    for link in links:
        weights = link.read(model)
        if not len(seen):
            spread = public_signs(0, link.inputs * link.taps)
            answers = weights.reshape(link.outputs, -1) @ spread
        else:
            weights = weights * balanced(weights)[None, :, None]
            spread = np.concatenate([np.roll(seen, tap, axis=1) for tap in range(min(link.taps, ANCHORS))])
            answers = sum(
                (weights[:, :, tap] @ np.roll(seen, tap, axis=1) for tap in range(link.taps)),
                np.zeros((link.outputs, ANCHORS), np.float32),
            )
        own = unit_rows(evened(answers, spread))
        grams.append(without_common((own.T @ own).astype(np.float64), np.eye(ANCHORS)))
        shown = np.maximum(answers, 0)
        seen = unit_rows(shown - shown.mean(axis=1, keepdims=True))
        if progress is not None:
            progress(link.tensor.nbytes)
    return tuple(grams)


def balanced(weights: Floats) -> Floats:
    """Factors of the inputs that, with fitting ones of the outputs, give every input and output the same size."""
    squares = np.square(weights, dtype=np.float64).sum(axis=2)
    rows, columns = np.ones(len(squares)), np.ones(squares.shape[1])
    for _ in range(_BALANCING_ROUNDS):
        rows = 1 / np.maximum(squares @ columns, 1e-30)
        columns = 1 / np.maximum(squares.T @ rows, 1e-30)
    live = squares.sum(axis=0) > 0
    factors: Floats = np.where(live, np.sqrt(columns), 0).astype(np.float32)
    return factors / np.float32(factors.max() or 1)
