"""GPTQ and AWQ layouts: integer codes in 32-bit words, a scale and a zero point for each group of inputs.

GPTQ packs along the inputs, AWQ along the outputs and in an order of its own. Width, group and which of the two it is
follow from the shapes. GPTQ's first version stored zero points less by one; which one a file has is not written beside
the tensors, so the one that leaves the smaller numbers is taken.

Sources: AutoGPTQ and GPTQModel (`qlinear`, checkpoint formats "gptq" and "gptq_v2"), AutoAWQ (`gemm`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.model.directory import Model
from watermark.model.packed.bits import (
    REAL,
    WIDTHS,
    WORD,
    Codes,
    as_words,
    columns_of,
    group_of,
    matrix,
    rows_of,
    unpack_words,
)
from watermark.model.packed.interface import Floats, PackedWeight, Rows
from watermark.model.safetensors import TensorInfo

_CODES = ".qweight"
_AWQ_BITS = 4
#: Which of eight outputs each four bits of a word hold, lowest first (AutoAWQ `AWQ_ORDER`).
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
#: Outputs that are looked at to tell where the zero points lie.
_SAMPLE = 64


@dataclass(frozen=True)
class _Parts:
    """The tensors of one weight. Shapes: scales (groups, outputs), zeros (groups, words)."""

    model: Model
    codes: TensorInfo
    zeros: TensorInfo
    scales: TensorInfo
    groups: TensorInfo | None

    @property
    def outputs(self) -> int:
        return self.scales.shape[1]

    def scales_of(self, start: int, stop: int) -> Floats:
        """Scales of some outputs, (groups, outputs)."""
        return columns_of(self.model, self.scales, start, stop).astype(np.float32)

    def group_of(self, inputs: int) -> NDArray[np.int64]:
        """The group of each input."""
        return group_of(self.model, self.groups, inputs, self.scales.shape[0])


def find_gptq(model: Model) -> Iterator[PackedWeight]:
    """Weights in the layout of GPTQ or of AWQ."""
    for name in model.tensors:
        stem = name.removesuffix(_CODES)
        codes, zeros = matrix(model, stem + _CODES, WORD), matrix(model, stem + ".qzeros", WORD)
        scales = matrix(model, stem + ".scales", REAL)
        if stem == name or codes is None or zeros is None or scales is None or zeros.shape[0] != scales.shape[0]:
            continue
        parts = _Parts(model, codes, zeros, scales, model.tensors.get(stem + ".g_idx"))
        found = _as_gptq(parts) or _as_awq(parts)
        if found is not None:
            inputs, rows = found
            names = [part.name for part in (codes, zeros, parts.groups) if part is not None]
            yield PackedWeight(stem + ".weight", (parts.outputs, inputs), tuple(names), rows, row_step=32)


def _as_gptq(parts: _Parts) -> tuple[int, Rows] | None:
    """Inputs and how to compute rows, where codes are (words of inputs, outputs)."""
    bits, rest = divmod(32 * parts.zeros.shape[1], parts.outputs)
    inputs, uneven = divmod(32 * parts.codes.shape[0], max(bits, 1))
    if rest or uneven or bits not in WIDTHS or parts.codes.shape[1] != parts.outputs:
        return None
    if parts.groups is not None and parts.groups.shape != (inputs,):
        return None
    group, top = parts.group_of(inputs), (1 << bits) - 1

    def weights(start: int, stop: int, shift: int) -> Floats:
        """Some outputs, (inputs, outputs), with zero points that are stored less by `shift`."""
        words = as_words(columns_of(parts.model, parts.codes, start, stop))
        codes = unpack_words(words.T, bits).T
        zeros = unpack_words(as_words(rows_of(parts.model, parts.zeros, 0, parts.zeros.shape[0])), bits)[:, start:stop]
        found: Floats = (codes - ((zeros + shift) & top)[group]).astype(np.float32) * parts.scales_of(start, stop)[
            group
        ]
        return found

    def energy(shift: int) -> float:
        return float(np.square(weights(0, min(parts.outputs, _SAMPLE), shift), dtype=np.float64).sum())

    # Weights lie around zero: a wrong shift moves them all.
    with np.errstate(all="ignore"):
        shift = int(energy(1) < energy(0))
    return inputs, lambda start, stop: weights(start, stop, shift).T


def _as_awq(parts: _Parts) -> tuple[int, Rows] | None:
    """Inputs and how to compute rows, where codes are (inputs, words of outputs)."""
    words = parts.outputs * _AWQ_BITS // 32
    if parts.outputs % 8 or parts.codes.shape[1] != words or parts.zeros.shape[1] != words:
        return None
    inputs = parts.codes.shape[0]
    group = parts.group_of(inputs)
    order = np.argsort(_AWQ_ORDER)

    def outputs_of(tensor: TensorInfo, first: int, last: int) -> Codes:
        codes = unpack_words(as_words(columns_of(parts.model, tensor, first, last)), _AWQ_BITS)
        return codes.reshape(len(codes), -1, 8)[:, :, order].reshape(len(codes), -1)

    def rows(start: int, stop: int) -> Floats:
        first, last = start // 8, -(-stop // 8)
        codes, zeros = outputs_of(parts.codes, first, last), outputs_of(parts.zeros, first, last)
        scales = parts.scales_of(8 * first, 8 * last)
        weights: Floats = (codes - zeros[group]).astype(np.float32) * scales[group]
        return weights.T[start - 8 * first : stop - 8 * first]

    return inputs, rows
