"""Sketches of models that were never made: Gaussians fitted to real sketches, the hardest ones of one's own kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from watermark.lineage.anchors import unit
from watermark.lineage.fingerprint import WHOLE, Sketch

_CHUNK = 1 << 14
#: Share of the spread that decoys take in the very directions in which real sketches differ; the rest is in all.
_IN_SPAN = 0.5


def decoys(groups: Sequence[Sequence[Sketch]], count: int, seed: int = 7) -> NDArray[np.int8]:
    """`count` whole-model vectors, an equal number fitted to each group; (count, 1280).

    Those of a group have its mean, its length, and half of their spread where its members differ.
    """
    draw = np.random.default_rng(seed)
    found = np.empty((count, WHOLE), np.int8)
    for first in range(0, count, _CHUNK):
        last = min(count, first + _CHUNK)
        group = groups[first // _CHUNK % len(groups)]
        real = np.stack([unit(sketch.whole.astype(np.float64)) for sketch in group]).astype(np.float32)
        mean = real.mean(axis=0)
        away = real - mean
        spread = float(1 - mean @ mean)
        noise = draw.standard_normal((last - first, WHOLE), np.float32)
        noise *= np.float32((spread * (1 - _IN_SPAN) / WHOLE) ** 0.5)
        inside = draw.standard_normal((last - first, len(real)), np.float32) @ away
        inside *= np.float32((spread * _IN_SPAN / max(1e-9, float(np.square(away).sum()))) ** 0.5)
        values = mean + noise + inside
        scale = 32 / np.sqrt(np.mean(np.square(values), axis=1, keepdims=True))
        found[first:last] = np.clip(np.rint(values * scale), -127, 127).astype(np.int8)
    return found
