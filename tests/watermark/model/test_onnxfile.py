"""ONNX files are read as the onnx package reads them, and no damaged one leads a reader astray."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from tests.onnx_files import model_of, save
from watermark.errors import InputError, LimitError, ModelFormatError, PathEscapeError, WeightmarkError
from watermark.model import onnxfile
from watermark.model.digest import canonical_digest, digest_tensors
from watermark.model.directory import Model, open_model
from watermark.model.onnx_tensors import ONNX_TYPES
from watermark.model.onnxfile import OnnxHeader, read_onnx_header
from watermark.model.packed.onnx_quantised import _read
from watermark.model.protobuf import Wire
from watermark.model.suspect import open_suspect

NUMBERS = sorted(ONNX_TYPES)
COUNT = 15


def tensor_of(number: int, *, raw: bool, name: str = "w", shape: tuple[int, ...] = (3, 5)) -> onnx.TensorProto:
    """Numbers that every type can hold, some of them negative where it can."""
    draw = np.random.default_rng(number)
    kind = ONNX_TYPES[number].name
    low = 0 if kind.startswith(("U", "BOOL", "F8_E8M0")) else -1
    values = draw.integers(low, 2, shape) if kind != "C64" else draw.normal(size=shape) + 1j * draw.normal(size=shape)
    stored = values.astype(helper.tensor_dtype_to_np_dtype(number))
    if raw:
        return numpy_helper.from_array(stored, name)
    return helper.make_tensor(name, number, shape, stored.ravel().tolist() if kind == "C64" else stored.ravel())


def values_of(model: Model, name: str) -> np.ndarray:
    tensor = model.tensors[name]
    return np.asarray(_read(model, tensor, 0, tensor.count), np.float64).reshape(tensor.shape)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "lists"])
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: ONNX_TYPES[number].name)
def test_every_type_is_read_as_onnx_reads_it(number: int, raw: bool, tmp_path: Path) -> None:
    tensor = tensor_of(number, raw=raw)
    path = save(tmp_path / "m.onnx", [], [tensor])
    expected = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    kind = ONNX_TYPES[number]
    with open_suspect(path) as model:
        assert model.container == "onnx"
        if kind.name.startswith("F6_") and not raw:
            assert not model.tensors  # one number a byte: carried nowhere else
            return
        found = model.tensors["w"]
        assert (found.dtype, found.shape) == (kind, (3, 5))
        if kind.name.startswith(("F6_", "C64")):
            assert model.read(found, 0, found.nbytes) == numpy_helper.from_array(expected).raw_data
        else:
            np.testing.assert_array_equal(values_of(model, "w"), expected.astype(np.float64))
        digest = digest_tensors(model)["w"]
    # The digest names the content: a file that stores it in the other way has the same.
    other = save(tmp_path / "other.onnx", [], [tensor_of(number, raw=not raw, name="v")])
    with open_suspect(other) as model:
        assert kind.name.startswith("F6_") or digest_tensors(model)["v"] == digest


def test_onnx_names_more_types_than_are_read_only_where_they_are_no_weights() -> None:
    unknown = set(TensorProto.DataType.values()) - set(NUMBERS)
    assert {TensorProto.DataType.Name(number) for number in unknown} == {"UNDEFINED", "STRING", "COMPLEX128"}


def branch(name: str, value: float) -> onnx.GraphProto:
    weight = numpy_helper.from_array(np.full((2, 3), value, np.float32), "same")
    return helper.make_graph([helper.make_node("Identity", ["same"], ["y"])], name, [], [], [weight])


def test_constants_functions_and_graphs_within_graphs_are_read(tmp_path: Path) -> None:
    constant = helper.make_node(
        "Constant", [], ["c"], value=numpy_helper.from_array(np.arange(4, dtype=np.float32), "ignored")
    )
    choice = helper.make_node("If", ["x"], ["z"], then_branch=branch("a", 1), else_branch=branch("b", 2))
    inside = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones((2, 2), np.float32)))
    model = model_of([constant, choice], [numpy_helper.from_array(np.zeros(2, np.float32), "w")])
    model.functions.append(helper.make_function("own", "f", [], ["c"], [inside], [helper.make_opsetid("", 21)], []))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with open_suspect(path) as opened:
        found = {name: values_of(opened, name) for name in opened.tensors}
        assert opened.metadata("m.onnx")["ir_version"] == "10"
    assert found["c"].tolist() == [0, 1, 2, 3]
    same = [values.tolist() for name, values in found.items() if name.startswith("same")]
    assert sorted(same) == [[[1] * 3] * 2, [[2] * 3] * 2]
    assert sum(name.startswith("c at byte") for name in found) == 1
    assert len(found) == 5


def test_what_is_not_read_is_named_if_it_is_large(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(2_000, np.float32), "sparse"),
        numpy_helper.from_array(np.arange(2_000), "places"),
        [100, 100],
    )
    floats = helper.make_node("Constant", [], ["floats"], value_floats=[0.5] * 3_000)
    small = helper.make_node("Constant", [], ["small"], value_floats=[0.5] * 30)
    path = save(tmp_path / "m.onnx", [floats, small], [tensor_of(1, raw=True)], sparse_initializer=[sparse])
    with open_suspect(path) as model:
        assert set(model.unread) == {"sparse", "floats"}
        assert set(model.tensors) == {"w"}


def test_onnx_is_a_suspect_and_no_model_to_release(tmp_path: Path) -> None:
    path = save(tmp_path / "folder" / "m.onnx", [], [tensor_of(1, raw=True)])
    for place in (path, path.parent):
        with pytest.raises(ModelFormatError, match="as a suspect it can be checked") as refused:
            open_model(place, allow_torch=True)
        assert "float model" in refused.value.hint


def test_several_files_are_one_model_under_names_of_their_own(tmp_path: Path) -> None:
    for name in ("encoder", "decoder"):
        save(tmp_path / f"{name}.onnx", [], [tensor_of(1, raw=True)])
    with open_suspect(tmp_path) as model:
        assert set(model.tensors) == {"decoder.onnx: w", "encoder.onnx: w"}


def test_digests_name_the_content_and_not_the_order_or_names(tmp_path: Path) -> None:
    tensors = [tensor_of(1, raw=True), tensor_of(10, raw=False, name="v")]
    one = save(tmp_path / "one.onnx", [], tensors)
    other = save(tmp_path / "other.onnx", [], [tensor_of(10, raw=True, name="x"), tensor_of(1, raw=False, name="y")])

    def digest(path: Path) -> bytes:
        with open_suspect(path) as model:
            return canonical_digest(digest_tensors(model).values())

    assert digest(one) == digest(other)


# Data files.


def external(
    path: Path, location: str, *, data: bytes | None = None, times: int = 1, **entries: object
) -> tuple[Path, np.ndarray]:
    """A model whose one tensor (or one and its repetitions) lies in a file."""
    values = np.arange(COUNT, dtype=np.float32).reshape(3, 5)
    tensors = []
    for number in range(times):
        tensor = numpy_helper.from_array(values, f"w{number or ''}")
        set_external_data(tensor, location, **entries)  # type: ignore[arg-type]
        tensor.ClearField("raw_data")
        tensors.append(tensor)
    save(path, [], tensors)
    if data is None:
        data = values.tobytes()
    if not location.startswith(("/", "..")) and "\0" not in location:
        target = path.parent / location
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path, values


@pytest.mark.parametrize("location", ["m.onnx_data", "./m.data", "deep/er/weights.bin"])
def test_data_files_are_read_from_a_file_and_from_a_folder(location: str, tmp_path: Path) -> None:
    stored = np.arange(COUNT, dtype=np.float32).tobytes()
    path, values = external(tmp_path / "m.onnx", location, data=bytes(8) + stored, offset=8, length=60)
    for place in (path, path.parent):
        with open_suspect(place) as model:
            np.testing.assert_array_equal(values_of(model, "w"), values)
            assert model.shards == tuple(sorted(("m.onnx", location.removeprefix("./"))))
            assert {entry.path for entry in model.files} == set(model.shards)
            assert not model.carried_weights
            model.verify_unchanged()
    peer = onnx.load(path).graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(peer), values)


def test_a_data_file_is_found_beside_its_model_in_a_folder_below(tmp_path: Path) -> None:
    _, values = external(tmp_path / "onnx" / "m.onnx", "m.data")
    with open_suspect(tmp_path) as model:
        np.testing.assert_array_equal(values_of(model, "w"), values)
        assert model.shards == ("onnx/m.data", "onnx/m.onnx")


def test_tensors_in_the_same_bytes_are_one(tmp_path: Path) -> None:
    path, _ = external(tmp_path / "m.onnx", "m.data", times=3)
    with open_suspect(path) as model:
        assert list(model.tensors) == ["w"]


@pytest.mark.parametrize(
    "location", ["../outside.bin", "/etc/passwd", "a/../../b", "", ".", "C:\\w", "a//b", "w\0", "a\\..\\b", "x/"]
)
def test_a_data_file_elsewhere_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(60))
    tensor = numpy_helper.from_array(np.zeros((3, 5), np.float32), "w")
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    path = save(tmp_path / "inner" / "m.onnx", [], [tensor])
    for place in (path, path.parent):
        with pytest.raises(PathEscapeError, match="elsewhere than beside it"):
            open_suspect(place)


def test_a_data_file_that_is_a_link_is_refused_unless_it_leads_where_the_caller_says(tmp_path: Path) -> None:
    path, values = external(tmp_path / "model" / "m.onnx", "m.data")
    (tmp_path / "blobs").mkdir()
    (path.parent / "m.data").rename(tmp_path / "blobs" / "1")
    (path.parent / "m.data").symlink_to("../blobs/1")
    for place in (path, path.parent):
        with pytest.raises(PathEscapeError, match="is a link"):
            open_suspect(place)
        with open_suspect(place, link_root=tmp_path / "blobs") as model:
            np.testing.assert_array_equal(values_of(model, "w"), values)
    deep, _ = external(tmp_path / "other" / "m.onnx", "inner/m.data")
    (deep.parent / "inner").rename(tmp_path / "elsewhere")
    (deep.parent / "inner").symlink_to(tmp_path / "elsewhere")
    for place in (deep, deep.parent):
        with pytest.raises(InputError):
            open_suspect(place)


def test_a_data_file_that_is_missing_or_short_or_a_model_is_refused(tmp_path: Path) -> None:
    path, _ = external(tmp_path / "a" / "m.onnx", "m.data")
    (path.parent / "m.data").unlink()
    for place in (path, path.parent):
        with pytest.raises(ModelFormatError, match=r"keeps tensors in 'm\.data', which is not there"):
            open_suspect(place)
    cases = {
        "ends at byte 59": {"data": bytes(59)},
        "ends at byte 60": {"offset": 4},
        "ends at byte 8": {"data": bytes(8), "offset": 1 << 62},
        "in 56 bytes of": {"length": 56},
        "the offset '-4'": {"offset": -4},
    }
    for says, fields in cases.items():
        path, _ = external(tmp_path / "b" / "m.onnx", "m.data", **fields)  # type: ignore[arg-type]
        with pytest.raises(ModelFormatError, match=says):
            open_suspect(path)
    path, _ = external(tmp_path / "c" / "m.onnx", "m.data")
    save(tmp_path / "c" / "m.data.onnx", [], [])
    path, _ = external(tmp_path / "c" / "n.onnx", "m.onnx", data=path.read_bytes() + message(99, bytes(60)))
    with pytest.raises(ModelFormatError, match="no data file but a model"):
        open_suspect(path.parent)
    path, _ = external(tmp_path / "d" / "m.onnx", "x.onnx")
    path.write_bytes(path.read_bytes().replace(b"x.onnx", b"m.onnx"))
    with pytest.raises(ModelFormatError, match="is the file itself"):
        open_suspect(path)


def test_tensors_on_top_of_one_another_are_refused(tmp_path: Path) -> None:
    tensors = []
    for name, offset in (("a", 0), ("b", 8)):
        tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
        set_external_data(tensor, "m.data", offset=offset)
        tensor.ClearField("raw_data")
        tensors.append(tensor)
    path = save(tmp_path / "m.onnx", [], tensors)
    (tmp_path / "m.data").write_bytes(bytes(64))
    with pytest.raises(ModelFormatError, match="on top of another"):
        open_suspect(path)


# What follows is hostile: messages written by hand, so that they can lie.


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, payload: bytes, length: int | None = None) -> bytes:
    return varint(field << 3 | 2) + varint(len(payload) if length is None else length) + payload


def initializer(*fields: bytes) -> bytes:
    """A whole file of one graph with one initialiser."""
    return message(7, message(5, b"".join(fields)))


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        graph = message(1, message(5, message(6, graph)))
    return message(7, graph)


def header(data: bytes) -> OnnxHeader:
    return read_onnx_header(lambda start, stop: data[start:stop], len(data), "m.onnx")


FLOATS = (number(2, 1), message(8, b"w"))
RAW = struct.pack("<4f", 1, 2, 3, 4)


def test_a_file_written_by_hand_is_read_whatever_its_order_and_what_it_adds() -> None:
    group = varint(60 << 3 | 3) + number(1, 5) + varint(61 << 3 | 3) + varint(61 << 3 | 4) + varint(60 << 3 | 4)
    extra = number(1000, 1 << 63) + message(1001, b"\xff" * 9) + varint(1002 << 3 | 5) + bytes(4)
    extra += varint(1003 << 3 | 1) + bytes(8) + group
    for dims in (number(1, 2) + number(1, 2), message(1, b"\2\2"), number(1, 2) + message(1, b"\2")):
        data = extra + initializer(message(9, RAW), extra, *FLOATS, dims) + extra + number(1, 9)
        found = header(data)
        (tensor,) = found.tensors
        assert (tensor.name, tensor.shape, tensor.dtype.name) == ("w", (2, 2), "F32")
        assert data[tensor.begin : tensor.begin + tensor.nbytes] == RAW
        assert found.metadata == {"ir_version": "9"}
    # A list that is not packed, and one in two pieces, are put together.
    loose = b"".join(varint(4 << 3 | 5) + RAW[at : at + 4] for at in range(0, 16, 4))
    for lists in (loose, message(4, RAW[:8]) + message(4, RAW[8:])):
        (listed,) = header(initializer(*FLOATS, number(1, 4), lists)).listed
        assert sum(end - begin for begin, end in listed.pieces) == 16


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "holds no graphs"),
        (number(1, 8), "holds no graphs"),
        (2 * message(7, b""), "holds 2 graphs"),
        (message(7, b"", length=9), "lies about a length"),
        (message(7, message(5, b"", length=1 << 62)), "lies about a length"),
        (message(7, message(5, b"abc", length=4)) + bytes(100), "lies about a length"),
        (message(7, b"") + b"\x08", "lies about a length"),
        (message(7, b"") + b"\x08" + b"\xff" * 11, "more than 10 bytes"),
        (message(7, b"\x0a" + b"\xff" * 11), "more than 10 bytes"),
        (message(7, b"") + varint((1 << 35) | 2) + b"\0", "protobuf does not know"),
        (message(7, b"") + b"\x00\x00", "protobuf does not know"),
        (message(7, b"") + b"\x0f", "protobuf does not know"),
        (message(7, b"") + varint(9 << 3 | 4), "protobuf does not know"),
        (message(7, b"") + varint(9 << 3 | 3), "lies about a length"),
        (message(7, b"") + varint(9 << 3 | 3) + varint(8 << 3 | 4), "protobuf does not know"),
        (message(7, b"") + 33 * varint(9 << 3 | 3), "protobuf does not know"),
        (message(7, b"") + varint(9 << 3 | 1) + bytes(7), "lies about a length"),
        (number(7, 5), "wrong kind"),
        (message(1, b"x") + message(7, b""), "wrong kind"),
        (message(7, number(5, 1)), "wrong kind"),
        (message(7, number(1, 1)), "wrong kind"),
        (message(7, message(1, number(1, 1))), "wrong kind"),
        (message(7, message(1, message(5, number(5, 1)))), "wrong kind"),
        (initializer(number(9, 1)), "wrong kind"),
        (initializer(message(2, b"\1")), "wrong kind"),
        (initializer(*FLOATS, varint(1 << 3 | 5) + bytes(4)), "dimensions are no numbers"),
        (initializer(*FLOATS, number(1, (1 << 64) - 1), message(9, RAW)), "dimensions are no numbers"),
        (initializer(*FLOATS, message(1, b"\xff\xff")), "lies about a length"),
        (initializer(*FLOATS, message(1, b"\1" * 65)), "more than 64 dimensions"),
        (initializer(*FLOATS, *(65 * [number(1, 1)])), "more than 64 dimensions"),
        (initializer(*FLOATS, 2 * number(1, 1 << 40)), "too large for any file"),
        (initializer(*FLOATS, number(1, 1 << 40), number(1, 0), number(1, 1 << 40)), "too large for any file"),
        (initializer(*FLOATS, number(1, 5), message(9, RAW)), "in 16 bytes, not 20"),
        (initializer(*FLOATS, number(1, 3), message(9, RAW)), "in 16 bytes, not 12"),
        (initializer(message(8, b"\xff")), "not UTF-8"),
        (initializer(message(8, b"a" * 5_000)), "name of 5000 bytes"),
        (nested(18), "more than 16 deep"),
        (nested(400), "more than 16 deep"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_lying_file_is_refused(data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError) as refused:
        header(data)
    assert says in str(refused.value)
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelFormatError):
        open_suspect(path)


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        (message(5, b"\1\2\3"), "numbers for 12 bytes, not 16"),
        (message(5, b"\1" * 5), "numbers for 20 bytes, not 16"),
        (message(5, b"\1\2\3\x80"), "ends within a number"),
        (message(5, b"\1\2\3" + b"\xff" * 10 + b"\1"), "more than 10 bytes"),
        (message(5, b"\1\2\3" + b"\xff" * 12), "more than 10 bytes"),
        (message(5, b""), "numbers for 0 bytes"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_lying_list_is_refused(lists: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(initializer(number(2, 6), number(1, 4), message(8, b"w"), lists))
    with pytest.raises(ModelFormatError) as refused:
        open_suspect(path)
    assert says in str(refused.value)


def test_long_lists_are_read_in_pieces(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(-(1 << 62), 1 << 62, 300_000)
    values[::7] = -1
    path = save(tmp_path / "m.onnx", [], [helper.make_tensor("w", TensorProto.INT64, values.shape, values)])
    assert path.stat().st_size > 2 << 20
    with open_suspect(path) as model:
        np.testing.assert_array_equal(model.values(model.tensors["w"], 0, len(values)), values)


def test_fields_text_and_tensors_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    many = message(7, number(77, 1) * 2_000)
    wire = Wire(lambda start, stop: many[start:stop], len(many), "it", max_fields=1_000)
    with pytest.raises(LimitError, match="more than 1000 fields"):
        list(wire.fields(3, len(many)))
    monkeypatch.setattr(onnxfile, "MAX_ENTRIES", 10)
    one = message(5, b"".join((*FLOATS, number(1, 0))))
    assert len(header(message(7, 10 * one)).tensors) == 10
    with pytest.raises(LimitError, match="more than 10 tensors"):
        header(message(7, 11 * one))
    with pytest.raises(LimitError, match="more than 10 operations"):
        header(message(7, 11 * message(1, message(4, b"Mul"))))
    with pytest.raises(LimitError, match="more than 1024 attributes"):
        header(message(7, message(1, 1_025 * message(5, b""))))
    monkeypatch.setattr("watermark.model.protobuf.MAX_TEXT_BYTES", 100)
    with pytest.raises(LimitError, match="more than 100 bytes of names"):
        header(message(7, 40 * message(1, message(1, b"name"))))


def test_only_a_little_of_a_large_file_is_read(tmp_path: Path) -> None:
    big = helper.make_tensor("big", TensorProto.FLOAT, (1_000, 4_000), bytes(16_000_000), raw=True)
    path = save(tmp_path / "m.onnx", [helper.make_node("Identity", ["big"], ["y"])], [big, tensor_of(1, raw=True)])
    data, taken = path.read_bytes(), []

    def read(start: int, stop: int) -> bytes:
        taken.append(stop - start)
        return data[start:stop]

    assert len(read_onnx_header(read, len(data), "m.onnx").tensors) == 2
    assert sum(taken) < 300_000


def test_damaged_files_are_refused_or_read_and_nothing_else(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=tensor_of(1, raw=False))
    choice = helper.make_node("If", ["x"], ["z"], then_branch=branch("a", 1), else_branch=branch("b", 2))
    codes = helper.make_node("DequantizeLinear", ["q", "w", "q"], ["y"], axis=0, block_size=2)
    tensors = [tensor_of(1, raw=True), tensor_of(7, raw=False, name="v"), tensor_of(22, raw=True, name="q")]
    original = save(tmp_path / "good.onnx", [constant, choice, codes], tensors).read_bytes()
    draw = random.Random(7)
    outcomes = {"read": 0, "refused": 0}
    path = tmp_path / "m.onnx"
    for _ in range(600):
        data = bytearray(original)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(data))
            data[at] = draw.choice((0, 1, 255, data[at] ^ 1 << draw.randrange(8)))
        if draw.random() < 0.2:
            del data[draw.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            with open_suspect(path) as model:
                for tensor in model.weights.values():
                    model.read(tensor, 0, tensor.nbytes)
        except WeightmarkError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert outcomes["refused"] > 100
    assert outcomes["read"] > 100


def test_a_file_cut_anywhere_is_refused_or_read(tmp_path: Path) -> None:
    data = save(tmp_path / "good.onnx", [], [tensor_of(1, raw=True), tensor_of(1, raw=True, name="v")]).read_bytes()
    whole = len(header(data).tensors)
    for end in range(len(data)):
        try:
            found = header(data[:end])
        except ModelFormatError:
            continue
        assert len(found.tensors) == whole  # only what comes after the graph may be missing unnoticed


def test_a_file_cut_while_it_is_open_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path, _ = external(tmp_path / "m.onnx", "m.data")
    with open_suspect(path) as model:
        tensor = model.tensors["w"]
        (tmp_path / "m.data").write_bytes(bytes(20))
        with pytest.raises(ModelFormatError, match="cut short"):
            model.values(tensor, 0, tensor.count)
        with pytest.raises(ModelFormatError, match="was changed"):
            model.verify_unchanged()
