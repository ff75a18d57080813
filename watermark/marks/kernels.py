"""The innermost loops of the mark, compiled: what every weight of a model passes through.

Each does in one pass what took numpy six to ten over arrays that no cache holds: release and detection spent nine
tenths of their time there (docs/decisions/0003). They compute in the same types and the same order as the plain numpy
forms, which the tests hold beside them to the last bit. Loops run over whole contiguous arrays from their start: only
then does the compiler use vector instructions. Compiled code is kept beside this file, or in the user's cache.

Knows no keys and no files; shapes are the callers' business and are not checked here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import boolean, float32, float64, int16, int32, int64, types, uint8, uint16, uint32, uint64, void

#: Without the annotation mypy asks numba for types that it does not give.
_types: Any = types
_Function = TypeVar("_Function", bound=Callable[..., Any])

#: The eight chips of each byte, most significant bit first, as the eight bytes of one number.
_CHIPS_OF_BYTE = (np.unpackbits(np.arange(256, dtype=np.uint8)).reshape(256, 8).view(np.int8) * 2 - 1).view(np.int64)
_CHIPS_OF_BYTE = np.ascontiguousarray(_CHIPS_OF_BYTE.ravel())
#: Adding and taking away 1.5 * 2^23 rounds a float32 to the nearest integer, ties to even; rint is a call a number.
_ROUNDER = np.float32(12582912.0)


def _in(kind: Any) -> Any:
    """The type of a contiguous array that is only read."""
    return _types.Array(kind, 1, "C", readonly=True)


def _inner(function: _Function) -> _Function:
    """Compile as a part of what calls it; never kept by itself."""
    return cast(_Function, numba.njit(nogil=True)(function))


def _compiled(*signatures: Any, **options: Any) -> Callable[[_Function], _Function]:
    """Compile at import, or load what was compiled before: a forked process then never has to."""

    def compile_one(function: _Function) -> _Function:
        try:
            made = numba.njit(list(signatures), nogil=True, cache=True, **options)(function)
        except RuntimeError:  # nowhere to keep it: neither beside this file nor in a cache of the user's
            made = numba.njit(list(signatures), nogil=True, **options)(function)
        return cast(_Function, made)

    return compile_one


@_compiled(void(_in(uint16), uint32[::1]), void(_in(uint32), uint32[::1]))
def widen(patterns: Any, into: Any) -> None:
    """Bit patterns of bfloat16, the upper half of a float32, or of float32 to those of float32."""
    shift = np.uint32(32 - 8 * patterns.itemsize)
    for place in range(into.size):
        into[place] = np.uint32(patterns[place]) << shift


@_inner
def _drop_endless(patterns: Any) -> None:
    for place in range(patterns.size):
        if patterns[place] & np.uint32(0x7F800000) == np.uint32(0x7F800000):
            patterns[place] = 0


@_compiled(boolean(_in(float32)), fastmath={"reassoc"})
def all_finite(values: Any) -> Any:
    """Whether no value is infinite or NaN: 0 times such a one is NaN, and stays so in any sum."""
    total = np.float32(0)
    for place in range(values.size):
        total += values[place] * np.float32(0)
    return total == np.float32(0)


@_inner
def _unpack(bits: Any, into: Any) -> None:
    for place in range(bits.size):
        into[place] = _CHIPS_OF_BYTE[bits[place]]


@_inner
def _quantise(values: Any, factor: Any, limit: Any, into: Any) -> None:
    """round(x * factor), clipped."""
    for place in range(into.size):
        scaled = values[place] * factor
        scaled = scaled if scaled < limit else limit
        scaled = scaled if scaled > -limit else -limit
        into[place] = np.int16(np.int32((scaled + _ROUNDER) - _ROUNDER))


@_inner
def _signed_sums(values: Any, chips: Any) -> Any:
    total, energy = np.int32(0), np.int32(0)
    for place in range(values.size):
        value = np.int32(values[place])
        total += value * np.int32(chips[place])
        energy += value * value
    return total, energy


@_compiled(
    void(_in(uint16), _in(uint8), _in(float32), float32, int64, int64, int64[::1], int64[::1]),
    void(_in(uint32), _in(uint8), _in(float32), float32, int64, int64, int64[::1], int64[::1]),
)
def signed_row_sums(
    patterns: Any, bits: Any, factors: Any, limit: Any, row: Any, per_block: Any, totals: Any, energies: Any
) -> None:
    """T and energy of each row: rounded to integers by its factor and clipped, against packed chips. Exact.

    Args:
        patterns: bit patterns of bfloat16 or float32 values, what is no number counts as 0; consecutive whole blocks,
            the last may be short, and end in a short row, (n,).
        bits: packed owner chips; every block begins at a byte.
        factors: of each row.
        limit: where rounded values are clipped: at most 127.
        row: elements of a row, at most 16,384.
        per_block: elements of a block, whole rows.
        totals: gets T, (rows,).
        energies: gets the sums of squares, (rows,).
    """
    here, rounded = np.empty(row, np.uint32), np.empty(row, np.int16)
    values = here.view(np.float32)
    octets = -(-per_block // 8)
    words = np.empty(octets, np.int64)
    chips = words.view(np.int8)
    number = 0
    for block in range(-(-patterns.size // per_block)):
        start, stop = block * per_block, min(patterns.size, (block + 1) * per_block)
        _unpack(bits[block * octets : block * octets + -(-(stop - start) // 8)], words)
        for first in range(start, stop, row):
            last = min(stop, first + row)
            part = rounded[: last - first]
            widen(patterns[first:last], here[: last - first])
            if not all_finite(values[: last - first]):
                _drop_endless(here[: last - first])
            _quantise(values[: last - first], factors[number], limit, part)
            totals[number], energies[number] = _signed_sums(part, chips[first - start : last - start])
            number += 1


@_compiled(
    void(_in(float32), float64[::1], float64[::1], int64),
    void(_in(float64), float64[::1], float64[::1], int64),
    fastmath={"reassoc"},
)
def moments(values: Any, sums: Any, squares: Any, row: Any) -> None:
    """Sum and sum of squares of each row in float64; `values` is whole rows, flat."""
    for number in range(sums.size):
        part = values[number * row : (number + 1) * row]
        total, square = 0.0, 0.0
        for place in range(part.size):
            value = np.float64(part[place])
            total += value
            square += value * value
        sums[number], squares[number] = total, square


@_inner
def _scaled(chips: Any, factor: Any, into: Any) -> None:
    for place in range(into.size):
        into[place] = np.float32(chips[place]) * factor


@_inner
def _changes(values: Any, chips: Any, size: Any, into: Any) -> None:
    """chips * size; 0 where the value is 0."""
    nothing = size * 0
    for place in range(into.size):
        change = chips[place] * size
        into[place] = change if values[place] != nothing else nothing


@_inner
def _stop(still: Any, changes: Any) -> None:
    for place in range(changes.size):
        if still[place]:
            changes[place] = 0


@_inner
def _largest_of(patterns: Any, magnitude: Any) -> Any:
    """The largest |change| as its bit pattern, which grows with it: integers are compared eight at once, floats not."""
    largest = magnitude & 0
    for place in range(patterns.size):
        largest = max(largest, patterns[place] & magnitude)
    return largest


@_inner
def _add(values: Any, into: Any) -> None:
    for place in range(into.size):
        into[place] += values[place]


@_compiled(
    int32(
        *(_in(float32), _in(uint8), float32, _in(int16), float32, _in(float32), _in(boolean), int64, int64),
        *(float32[::1], int32[::1], int32),
    ),
    int64(
        *(_in(float64), _in(uint8), float32, _in(int16), float32, _in(float64), _in(boolean), int64, int64),
        *(float64[::1], int64[::1], int64),
    ),
)
def move(
    values: Any,
    bits: Any,
    owner_share: Any,
    recipient: Any,
    recipient_share: Any,
    sizes: Any,
    still: Any,
    row: Any,
    per_block: Any,
    into: Any,
    patterns: Any,
    magnitude: Any,
) -> Any:
    """Move weights by their chips: w + size_row * (owner_share * s + recipient_share * g); exact zeros stay.

    Args:
        values: consecutive whole blocks; the last may be short, (n,), float32 or float64.
        bits: packed owner chips; every block begins at a byte.
        owner_share: factor of the owner's chips s.
        recipient: the recipient's chips g, (n,), or none at all.
        recipient_share: their factor.
        sizes: of each row, in the type of `values`.
        still: which more must not move, (n,), or none at all.
        row: elements of a row.
        per_block: elements of a block, whole rows.
        into: gets the moved weights, (n,).
        patterns: the same memory as signed integers.
        magnitude: all bits of such an integer but the sign's.

    Returns:
        The largest change of any weight, as its bit pattern.
    """
    octets = -(-per_block // 8)
    words = np.empty(octets, np.int64)
    signs = words.view(np.int8)
    chips, others = np.empty(per_block, np.float32), np.empty(per_block, np.float32)
    number = 0
    largest = magnitude & 0
    for block in range(-(-values.size // per_block)):
        start, stop = block * per_block, min(values.size, (block + 1) * per_block)
        _unpack(bits[block * octets : block * octets + -(-(stop - start) // 8)], words)
        _scaled(signs, owner_share, chips[: stop - start])
        if recipient.size:
            _scaled(recipient[start:stop], recipient_share, others[: stop - start])
            _add(others[: stop - start], chips[: stop - start])
        for first in range(start, stop, row):
            last = min(stop, first + row)
            _changes(values[first:last], chips[first - start : last - start], sizes[number], into[first:last])
            if still.size:
                _stop(still[first:last], into[first:last])
            largest = max(largest, _largest_of(patterns[first:last], magnitude))
            _add(values[first:last], into[first:last])
            number += 1
    return largest


@_compiled(void(_in(float32), _in(uint8), uint16[::1]))
def cut_to_bfloat16(values: Any, random: Any, into: Any) -> None:
    """Round stochastically onto bfloat16: up by a random share of a step (in 1/256, and half of that), then cut."""
    bits = values.view(np.uint32)
    for place in range(into.size):
        up = (np.uint32(random[place]) << np.uint32(8)) + np.uint32(128)
        into[place] = (bits[place] + up) >> np.uint32(16)


@_compiled(
    _types.UniTuple(uint64, 4)(_in(uint16), uint16, uint16),
    _types.UniTuple(uint64, 4)(_in(uint32), uint32, uint32),
    _types.UniTuple(uint64, 4)(_in(uint64), uint64, uint64),
)
def scan(bits: Any, exponent: Any, magnitude: Any) -> Any:
    """Look at the bit patterns of floats: OR of all, and how many are no finite number, NaN, and not zero.

    Args:
        bits: the patterns, (n,).
        exponent: the pattern of infinity.
        magnitude: all bits but the sign's.
    """
    # Bitwise sums take as many numbers at once as fit a register; counting would widen each to 64 bits. The top bit of
    # `endless` shows a number that is not finite, that of `empty` a zero: only then is anything counted.
    both, endless, empty = exponent & 0, exponent & 0, exponent & 0
    above = magnitude + 1 - exponent
    for place in range(bits.size):
        one = bits[place]
        size = one & magnitude
        both |= one
        endless |= size + above
        empty |= size - 1
    counts = np.zeros(3, np.uint64)
    if (endless | empty) & (magnitude + 1):
        for place in range(bits.size):
            size = bits[place] & magnitude
            counts[0] += np.uint64(size >= exponent)
            counts[1] += np.uint64(size > exponent)
            counts[2] += np.uint64(size == 0)
    return np.uint64(both), counts[0], counts[1], np.uint64(bits.size) - counts[2]


@_inner
def _draw(draws: Any, table: Any, into: Any) -> None:
    for place in range(into.size):
        into[place] += table[draws[place]]


@_compiled(void(_in(uint16), _in(int16), int16[::1]))
def recipient_sums(draws: Any, table: Any, into: Any) -> None:
    """Sum of the code values that each carrier draws; `draws` is (draws, n) flat, `table` has 65,536 values."""
    count = into.size
    into[:] = 0
    for start in range(0, draws.size, count):
        _draw(draws[start : start + count], table, into)
