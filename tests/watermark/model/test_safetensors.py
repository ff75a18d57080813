"""What we write the reference reader reads, and what the reference writes we read, for every dtype of the format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as reference_save

from watermark.errors import InputError, LimitError, ModelFormatError
from watermark.model.dtypes import DTYPES, DType, dtype
from watermark.model.safetensors import build_header, parse_header, write_safetensors


def nbytes(shape: tuple[int, ...], kind: DType) -> int:
    return int(np.prod(shape, dtype=np.int64)) * kind.bits // 8


@pytest.mark.parametrize("name", DTYPES)
def test_reference_reads_what_we_write(name: str, tmp_path: Path) -> None:
    kind = dtype(name)
    shapes = [(2, 3, 8), (8,), (0, 4), (16, 1)]
    data = [np.random.default_rng(number).bytes(nbytes(shape, kind)) for number, shape in enumerate(shapes)]
    tensors = [(f"t{number}", kind, shape, data[number]) for number, shape in enumerate(shapes)]
    path = tmp_path / "m.safetensors"
    write_safetensors(path, tensors, {"format": "pt"})
    reference = dict(safetensors.deserialize(path.read_bytes()))
    for number, shape in enumerate(shapes):
        read = reference[f"t{number}"]
        assert (read["dtype"], tuple(read["shape"]), bytes(read["data"])) == (name, shape, data[number])


@pytest.mark.parametrize("code", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", "c8"])
def test_we_read_what_the_reference_writes(code: str) -> None:
    arrays = {"b": np.arange(6).astype(code).reshape(2, 3), "a": np.zeros((), code), "empty": np.zeros((0, 7), code)}
    data = reference_save(arrays, metadata={"k": "v"})
    tensors, metadata, end = parse_header(data, len(data), "m.safetensors")
    assert metadata == {"k": "v"}
    assert {tensor.name: tensor.shape for tensor in tensors} == {name: array.shape for name, array in arrays.items()}
    for tensor in tensors:
        assert data[tensor.begin : tensor.begin + tensor.nbytes] == arrays[tensor.name].tobytes()
        assert tensor.count == arrays[tensor.name].size
    assert min(tensor.begin for tensor in tensors) == end


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name != "__metadata__")
layouts = st.lists(
    st.tuples(
        names,
        st.sampled_from([kind for kind in DTYPES.values() if kind.bits % 8 == 0]),
        st.lists(st.integers(0, 5), max_size=4).map(tuple),
    ),
    max_size=8,
    unique_by=lambda item: item[0],
)


@settings(max_examples=150, deadline=None)
@given(layouts, st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"])), max_size=3))
def test_built_header_is_read_back(layout: list[tuple[str, DType, tuple[int, ...]]], metadata: dict[str, str]) -> None:
    header = build_header(layout, metadata)
    size = len(header) + sum(nbytes(shape, kind) for _, kind, shape in layout)
    tensors, read_metadata, end = parse_header(header, size, "m.safetensors")
    assert end == len(header)
    assert end % 8 == 0
    assert read_metadata == metadata
    assert {(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors} == set(layout)
    assert dict(safetensors.deserialize(header + bytes(size - end))).keys() == {name for name, _, _ in layout}


def test_tensors_lie_in_the_given_order() -> None:
    header = build_header([("z", dtype("U8"), (3,)), ("a", dtype("F32"), (2,))])
    tensors = parse_header(header, len(header) + 11, "m")[0]
    assert [(tensor.name, tensor.begin - len(header)) for tensor in tensors] == [("z", 0), ("a", 3)]


def test_same_layout_gives_the_same_bytes() -> None:
    layout = [("a", dtype("BF16"), (2, 2))]
    header = build_header(layout, {"b": "1", "a": "2"})
    assert header == build_header(list(layout), {"b": "1", "a": "2"})
    length = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + length]) == {
        "__metadata__": {"b": "1", "a": "2"},
        "a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
    }


@pytest.mark.parametrize(
    "layout",
    [
        [("a", "U8", (1,)), ("a", "U8", (1,))],
        [("__metadata__", "U8", (1,))],
        [("a", "U8", (-1,))],
        [("a", "F4", (3,))],
        [("\ud800", "U8", (1,))],
    ],
)
def test_layout_that_cannot_be_written_is_refused(layout: list[tuple[str, str, tuple[int, ...]]]) -> None:
    with pytest.raises(InputError):
        build_header([(name, dtype(kind), shape) for name, kind, shape in layout])


def test_header_that_our_reader_would_refuse_is_not_written() -> None:
    with pytest.raises(LimitError):
        build_header([], {"k": "x" * (16 * 1024 * 1024)})


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"keep")
    with pytest.raises(InputError, match="cannot be written"):
        write_safetensors(path, [])
    assert path.read_bytes() == b"keep"


def test_bytes_that_do_not_fill_the_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not fill"):
        write_safetensors(tmp_path / "m", [("a", dtype("F32"), (2,), bytes(7))])
    assert not (tmp_path / "m").exists()


def test_caller_s_limit_is_kept() -> None:
    header = build_header([("a", dtype("U8"), (1,))])
    with pytest.raises(LimitError):
        parse_header(header + b"\0", len(header) + 1, "m", limit=8)
    with pytest.raises(ModelFormatError, match="cut within the header"):
        parse_header(header[:-1], len(header) + 1, "m")
