"""The number formats that a weight file may hold, and how to turn their bytes into numpy values and back.

It knows bit layouts only: nothing of files, shapes or tensors. Formats that numpy cannot hold one value per element
(sub-byte floats, complex) are listed, so that their tensors can be carried and hashed, but they are not decoded.

Sources: the dtype list of the safetensors format; IEEE 754 (F16, F32, F64); bfloat16; OCP 8-bit Floating Point
Specification 1.0 (F8_E4M3, F8_E5M2); OCP Microscaling Formats 1.0 (F8_E8M0, F6_*, F4); the FNUZ forms of
Noune et al. 2022 (one NaN, no negative zero, no infinity).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from watermark.errors import InputError, ModelFormatError

Bytes = bytes | bytearray | memoryview | npt.NDArray[np.uint8]
Values = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class DType:
    """One number format: its name in a safetensors header, its width in bits, and what we can do with it.

    Formats that hold several elements in one unit, with a scale in common, have the width of a whole unit of `block`
    elements; they are those of `ggml.py`.
    """

    name: str
    bits: int
    is_float: bool
    is_decodable: bool
    block: int = 1

    def byte_range(self, start: int, stop: int) -> tuple[int, int]:
        """First byte of the elements from `start` to `stop`, and one past their last; parts of a byte count whole."""
        unit = 8 * self.block
        return start * self.bits // unit, -(-stop * self.bits // unit)

    def __str__(self) -> str:
        """The name as it stands in a header."""
        return self.name


# What each format is in memory: the numpy type with the same bytes, little-endian as the format says.
_STORAGE: Mapping[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
    "F8_E8M0": "u1",
    "F8_E4M3FNUZ": "u1",
    "F8_E5M2FNUZ": "u1",
    "I64": "<i8",
    "U64": "<u8",
    "I32": "<i4",
    "U32": "<u4",
    "I16": "<i2",
    "U16": "<u2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "u1",
}
_CARRIED: Mapping[str, int] = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64}

DTYPES: Mapping[str, DType] = MappingProxyType(
    {
        **{
            name: DType(name, 8 * np.dtype(code).itemsize, name.startswith(("F", "BF")), True)
            for name, code in _STORAGE.items()
        },
        **{name: DType(name, bits, name.startswith("F"), False) for name, bits in _CARRIED.items()},
    }
)
"""Every format that a header may name, by that name."""


def dtype(name: str) -> DType:
    """Find a number format by its name in a safetensors header.

    Raises:
        ModelFormatError: the name is none of the format's.
    """
    found = DTYPES.get(name)
    if found is None:
        raise ModelFormatError(
            f"unknown dtype {name[:40]!a}",
            hint="a newer format, or a damaged header: known are " + ", ".join(DTYPES),
        )
    return found


def decode(raw: Bytes, dtype: DType) -> Values:
    """Turn the bytes of a run of elements into a 1-D array of their values.

    F64 gives float64; F32, F16, BF16 and the 8-bit floats give float32, exactly; integers their own numpy type; BOOL
    gives bool. The result may share memory with `raw` and be read-only: copy it before writing into it.

    Raises:
        InputError: `dtype` cannot be decoded, or `raw` is not a whole number of elements.
        ModelFormatError: a BOOL byte is neither 0 nor 1.
    """
    if not dtype.is_decodable:
        raise InputError(f"{dtype} values are not decodable: they can be carried and hashed, not computed with")
    if len(raw) * 8 % dtype.bits:
        raise InputError(f"{len(raw)} bytes are not a whole number of {dtype} elements")
    stored = np.frombuffer(raw, dtype=np.dtype(_STORAGE[dtype.name]))
    table = _FLOAT8_TABLES.get(dtype.name)
    if table is not None:
        values: Values = table[stored]
        return values
    if dtype.name == "BF16":
        # bfloat16 is the upper half of a float32.
        wide = stored.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    if dtype.name == "F16":
        return stored.astype(np.float32)
    if dtype.name == "BOOL":
        if stored.size and stored.max() > 1:
            raise ModelFormatError(f"a BOOL byte is {int(stored.max())}: it must be 0 or 1")
        return stored.view(np.bool_)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def encode(values: Values, dtype: DType) -> bytes:
    """Turn an array of values into the bytes of a run of elements.

    The exact inverse of `decode` for values that lie on the grid of `dtype`; float values between two grid points go
    to the nearest, ties to even, and beyond the largest to infinity (F8_E4M3 has none: it saturates).

    Raises:
        InputError: `dtype` cannot be written, or an integer does not fit it.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if dtype.name in ("F64", "F32", "F16"):
        # Overflow to infinity and quieting a NaN are what IEEE 754 asks for here, so numpy need not warn of them.
        with np.errstate(over="ignore", invalid="ignore"):
            return flat.astype(_STORAGE[dtype.name], copy=False).tobytes()
    if dtype.name == "BF16":
        return _round_to_bfloat16(flat).astype("<u2", copy=False).tobytes()
    if dtype.name in ("F8_E4M3", "F8_E5M2"):
        return _round_to_float8(flat, dtype.name).tobytes()
    if dtype.name in _STORAGE and not dtype.is_float:
        target = np.dtype(_STORAGE[dtype.name] if dtype.name != "BOOL" else "?")
        with np.errstate(invalid="ignore"):
            written = flat.astype(target)
        if flat.dtype.kind not in "iub" or not np.array_equal(written, flat):
            raise InputError(f"a value does not fit {dtype}")
        return written.tobytes()
    raise InputError(f"{dtype} values cannot be written")


def _round_to_bfloat16(values: Values) -> npt.NDArray[np.uint16]:
    with np.errstate(over="ignore", invalid="ignore"):
        bits = values.astype(np.float32, copy=False).view(np.uint32)
    if not int(np.bitwise_or.reduce(bits, initial=0)) & 0xFFFF:  # all on the grid already, NaN and infinity too
        return (bits >> np.uint32(16)).astype(np.uint16)
    lowest_kept = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + lowest_kept) >> np.uint32(16)
    # Rounding a NaN could carry into the exponent and make it a number: cut it instead, and keep it quiet.
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    cut = bits >> np.uint32(16)
    cut = np.where((cut & np.uint32(0x7F)) == 0, cut | np.uint32(0x40), cut)
    return np.where(is_nan, cut, rounded).astype(np.uint16)


def _float8_table(exponent_bits: int, mantissa_bits: int, bias: int, kind: str) -> npt.NDArray[np.float32]:
    """All 256 values of an 8-bit float; `kind` says what the topmost codes mean."""
    codes = np.arange(256)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = codes & ((1 << mantissa_bits) - 1)
    fraction = np.where(exponent == 0, 0.0, 1.0) + mantissa / (1 << mantissa_bits)
    values = np.ldexp(fraction, np.maximum(exponent, 1) - bias)
    values = np.where(codes >= 128, -values, values)
    if kind == "ieee":
        top = exponent == (1 << exponent_bits) - 1
        values = np.where(top, np.where(mantissa == 0, np.where(codes >= 128, -np.inf, np.inf), np.nan), values)
    elif kind == "finite":  # OCP E4M3: only S.1111.111 is NaN, there is no infinity
        values[[0x7F, 0xFF]] = np.nan
    else:  # FNUZ: the code of negative zero is the one NaN
        values[0x80] = np.nan
    return np.asarray(values, dtype=np.float32)


def _scale_table() -> npt.NDArray[np.float32]:
    """All values of E8M0: a power of two per code, 255 is NaN (OCP MX 5.4.1)."""
    values = np.ldexp(1.0, np.arange(256) - 127)
    values[255] = np.nan
    return np.asarray(values, dtype=np.float32)


_FLOAT8_TABLES: Mapping[str, npt.NDArray[np.float32]] = {
    "F8_E4M3": _float8_table(4, 3, 7, "finite"),
    "F8_E5M2": _float8_table(5, 2, 15, "ieee"),
    "F8_E4M3FNUZ": _float8_table(4, 3, 8, "fnuz"),
    "F8_E5M2FNUZ": _float8_table(5, 2, 16, "fnuz"),
    "F8_E8M0": _scale_table(),
}
_FLOAT8_NAN = {"F8_E4M3": 0x7F, "F8_E5M2": 0x7E}
_FLOAT8_OVERFLOW = {"F8_E4M3": 0x7E, "F8_E5M2": 0x7C}


def _round_to_float8(values: Values, name: str) -> npt.NDArray[np.uint8]:
    # Non-negative codes rise with their value, so the nearest code is found by where a value falls among midpoints.
    grid = _FLOAT8_TABLES[name][:128].astype(np.float64)
    grid = grid[np.isfinite(grid)]
    # One grid step past the largest: what rounds up to it has overflowed (IEEE 754 4.3.1).
    midpoints = (grid + np.append(grid[1:], 2 * grid[-1] - grid[-2])) / 2
    with np.errstate(invalid="ignore"):
        wide = values.astype(np.float64)
    magnitude = np.abs(wide)
    code = np.searchsorted(midpoints, magnitude, side="left")
    at_tie = (code < len(midpoints)) & (midpoints[np.minimum(code, len(midpoints) - 1)] == magnitude)
    code = np.where(at_tie & (code % 2 == 1), code + 1, code)
    code = np.where(code >= len(grid), _FLOAT8_OVERFLOW[name], code)
    code = np.where(np.isnan(wide), _FLOAT8_NAN[name], code)
    return (code + np.where(np.signbit(wide), 128, 0)).astype(np.uint8)
