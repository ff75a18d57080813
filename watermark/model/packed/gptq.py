"""GPTQ and AWQ layouts: integer codes in 32-bit words, a scale and a zero point for each group of inputs.

GPTQ packs along the inputs, AWQ along the outputs and in an order of its own. Width, group and which of the two it is
follow from the shapes. GPTQ's first version stored zero points less by one; which one a file has is not written beside
the tensors, so the one that leaves the smaller numbers is taken.

Sources: AutoGPTQ and GPTQModel (`qlinear`, checkpoint formats "gptq" and "gptq_v2"), AutoAWQ (`gemm`).
"""

from __future__ import annotations

import math
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
    words_moved,
)
from watermark.model.packed.interface import CodeGrid, Floats, PackedWeight
from watermark.model.packed.moves import Moves
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
            inputs, grid = found
            names = [part.name for part in (codes, zeros, parts.groups) if part is not None]
            yield _packed(stem + ".weight", (parts.outputs, inputs), tuple(names), grid)


def _packed(name: str, shape: tuple[int, int], parts: tuple[str, ...], grid: CodeGrid) -> PackedWeight:
    def rows(start: int, stop: int) -> Floats:
        return grid.values(grid.read(start, stop), start, stop)

    return PackedWeight(name, shape, parts, rows, row_step=32, grid=grid)


def _as_gptq(parts: _Parts) -> tuple[int, CodeGrid] | None:
    """Inputs and codes, where these are (words of inputs, outputs)."""
    bits, rest = divmod(32 * parts.zeros.shape[1], parts.outputs)
    inputs, uneven = divmod(32 * parts.codes.shape[0], max(bits, 1))
    if rest or uneven or bits not in WIDTHS or parts.codes.shape[1] != parts.outputs:
        return None
    if parts.groups is not None and parts.groups.shape != (inputs,):
        return None
    group, top = parts.group_of(inputs), (1 << bits) - 1

    def read(start: int, stop: int) -> Codes:
        return unpack_words(as_words(columns_of(parts.model, parts.codes, start, stop)).T, bits)

    def weights(codes: Codes, start: int, stop: int, shift: int) -> Floats:
        """Some outputs, (outputs, inputs), with zero points that are stored less by `shift`."""
        words = as_words(rows_of(parts.model, parts.zeros, 0, parts.zeros.shape[0]))
        zeros = (unpack_words(words, bits)[:, start:stop] + shift) & top
        found: Floats = (codes - zeros[group].T).astype(np.float32) * parts.scales_of(start, stop)[group].T
        return found

    def energy(shift: int) -> float:
        few = min(parts.outputs, _SAMPLE)
        return float(np.square(weights(read(0, few), 0, few, shift), dtype=np.float64).sum())

    def write(start: int, stop: int, moves: Moves) -> bytes:
        # Whole words around what is asked for, beginning where a code does.
        width, step = parts.outputs, bits // math.gcd(bits, 32)
        first, last = start // width // step * step, -(-stop // width // step) * step
        words = as_words(rows_of(parts.model, parts.codes, first, min(last, parts.codes.shape[0]))).T
        steps = moves.columns(first * 32 // bits, first * 32 // bits + words.shape[1] * 32 // bits)
        moved = words_moved(words, bits, steps).T.reshape(-1)
        return moved[start - first * width : stop - first * width].astype("<u4").tobytes()

    # Weights lie around zero: a wrong shift moves them all.
    with np.errstate(all="ignore"):
        shift = int(energy(1) < energy(0))
    scales = (parts.scales.name,)
    return inputs, CodeGrid(parts.codes, scales, read, lambda codes, a, b: weights(codes, a, b, shift), write)


def _as_awq(parts: _Parts) -> tuple[int, CodeGrid] | None:
    """Inputs and codes, where these are (inputs, words of outputs)."""
    words = parts.outputs * _AWQ_BITS // 32
    if parts.outputs % 8 or parts.codes.shape[1] != words or parts.zeros.shape[1] != words:
        return None
    inputs = parts.codes.shape[0]
    group = parts.group_of(inputs)
    order = np.argsort(_AWQ_ORDER)

    def outputs_of(tensor: TensorInfo, start: int, stop: int) -> Codes:
        """Numbers of some outputs, (outputs, inputs or groups)."""
        first, last = start // 8, -(-stop // 8)
        codes = unpack_words(as_words(columns_of(parts.model, tensor, first, last)), _AWQ_BITS)
        found = codes.reshape(len(codes), -1, 8)[:, :, order].reshape(len(codes), -1).T
        return found[start - 8 * first : stop - 8 * first]

    def values(codes: Codes, start: int, stop: int) -> Floats:
        zeros = outputs_of(parts.zeros, start, stop)
        weights: Floats = (codes - zeros[:, group]).astype(np.float32) * parts.scales_of(start, stop)[group].T
        return weights

    def write(start: int, stop: int, moves: Moves) -> bytes:
        first, last = start // words, -(-stop // words)
        steps = moves.columns(first, last).T
        steps = steps.reshape(len(steps), -1, 8)[:, :, _AWQ_ORDER].reshape(len(steps), -1)
        moved = words_moved(as_words(rows_of(parts.model, parts.codes, first, last)), _AWQ_BITS, steps)
        return moved.reshape(-1)[start - first * words : stop - first * words].astype("<u4").tobytes()

    def read(start: int, stop: int) -> Codes:
        return outputs_of(parts.codes, start, stop)

    return inputs, CodeGrid(parts.codes, (parts.scales.name,), read, values, write)
