"""The bytes of every number format become the values that the reference implementations read, and go back unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from watermark.errors import InputError, ModelFormatError
from watermark.model.dtypes import DTYPES, decode, dtype, encode

TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
}
NARROW_FLOATS = [name for name in TORCH_TYPES if name[0] in "FB" and DTYPES[name].bits <= 16]


def every_code(name: str) -> bytes:
    return np.arange(1 << DTYPES[name].bits, dtype="<u2" if DTYPES[name].bits == 16 else "u1").tobytes()


@pytest.mark.parametrize("name", NARROW_FLOATS)
def test_every_code_of_a_narrow_float_is_read_as_torch_reads_it(name: str) -> None:
    raw = every_code(name)
    expected = torch.frombuffer(bytearray(raw), dtype=TORCH_TYPES[name]).to(torch.float32).numpy()
    values = decode(raw, dtype(name))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("name", TORCH_TYPES)
def test_random_bytes_are_read_as_torch_reads_them(name: str) -> None:
    raw = np.random.default_rng(1).bytes(4096)
    tensor = torch.frombuffer(bytearray(raw), dtype=TORCH_TYPES[name])
    expected = tensor.to(torch.float32).numpy() if name in NARROW_FLOATS else tensor.numpy()
    values = decode(raw, dtype(name))
    np.testing.assert_array_equal(values, expected)
    assert values.dtype == expected.dtype


@pytest.mark.parametrize("name", ["F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_every_code_but_nan_goes_back_to_itself(name: str) -> None:
    raw = every_code(name)
    values = decode(raw, dtype(name))
    again = encode(values, dtype(name))
    width = DTYPES[name].bits // 8
    kept = ~np.isnan(values)
    np.testing.assert_array_equal(np.frombuffer(again, f"V{width}")[kept], np.frombuffer(raw, f"V{width}")[kept])
    assert np.isnan(decode(again, dtype(name))[~kept]).all()


@pytest.mark.parametrize("name", ["F32", "F64", "BF16", "I64", "U64", "I32", "U32", "I16", "U16", "I8", "U8"])
def test_random_bytes_go_back_to_themselves(name: str) -> None:
    raw = np.random.default_rng(2).bytes(4096)
    assert encode(decode(raw, dtype(name)), dtype(name)) == raw


@pytest.mark.parametrize("name", ["F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_values_between_grid_points_are_rounded_as_torch_rounds_them(name: str) -> None:
    rng = np.random.default_rng(3)
    values = (rng.standard_normal(20_000) * np.exp(6 * rng.standard_normal(20_000))).astype(np.float32)
    codes = decode(every_code(name), dtype(name))
    grid = np.unique(codes[np.isfinite(codes)].astype(np.float64))
    ties = ((grid[1:] + grid[:-1]) / 2).astype(np.float32)
    values = np.concatenate([values, ties, np.float32([0.0, -0.0, np.inf, -np.inf, 3e38, -3e38, 1e-45])])
    expected = torch.from_numpy(values).to(TORCH_TYPES[name])
    stored = expected.view(torch.uint8 if DTYPES[name].bits == 8 else torch.int16).numpy().tobytes()
    assert encode(values, dtype(name)) == stored


def test_nan_stays_nan_when_cut_to_bfloat16() -> None:
    bits = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FC00000], dtype=np.uint32)
    assert np.isnan(decode(encode(bits.view(np.float32), dtype("BF16")), dtype("BF16"))).all()


def test_bool_is_read_and_written() -> None:
    values = decode(b"\x00\x01\x01", dtype("BOOL"))
    assert values.tolist() == [False, True, True]
    assert values.dtype == np.bool_
    assert encode(values, dtype("BOOL")) == b"\x00\x01\x01"
    with pytest.raises(ModelFormatError, match="BOOL byte is 2"):
        decode(b"\x00\x02", dtype("BOOL"))


@pytest.mark.parametrize("name", ["F4", "F6_E2M3", "F6_E3M2", "C64"])
def test_formats_without_one_value_per_element_are_not_decoded(name: str) -> None:
    assert not dtype(name).is_decodable
    with pytest.raises(InputError, match="not decodable"):
        decode(bytes(24), dtype(name))
    with pytest.raises(InputError, match="cannot be written"):
        encode(np.zeros(3), dtype(name))


def test_part_of_an_element_is_refused() -> None:
    with pytest.raises(InputError, match="whole number"):
        decode(bytes(7), dtype("F32"))


def test_memory_views_and_arrays_are_read_like_bytes() -> None:
    raw = np.arange(8, dtype="<f4").tobytes()
    for form in (raw, bytearray(raw), memoryview(raw), np.frombuffer(raw, np.uint8)):
        np.testing.assert_array_equal(decode(form, dtype("F32")), np.arange(8, dtype=np.float32))
    assert decode(b"", dtype("BF16")).shape == (0,)


@pytest.mark.parametrize("value", [-1, 256, 1.5, np.nan])
def test_value_that_an_integer_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="does not fit"):
        encode(np.array([value]), dtype("U8"))


def test_unknown_name_is_refused_and_printed_escaped() -> None:
    with pytest.raises(ModelFormatError, match=r"unknown dtype 'F7\\x1b'"):
        dtype("F7\x1b")


def test_widths() -> None:
    assert {name: kind.bits for name, kind in DTYPES.items() if kind.is_float} == {
        "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    }  # fmt: skip
