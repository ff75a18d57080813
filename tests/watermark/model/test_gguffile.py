"""GGUF files are read as ggml reads them, and no damaged one leads a reader astray."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from tests.gguf_files import Quantisation, write_gguf
from watermark.errors import InputError, LimitError, ModelFormatError, WeightmarkError
from watermark.model.digest import canonical_digest, digest_tensors
from watermark.model.directory import Model, open_model
from watermark.model.ggml import GGML_TYPES
from watermark.model.gguffile import read_gguf_header
from watermark.model.suspect import open_suspect

BLOCKS = [number for number, kind in GGML_TYPES.items() if kind.block > 1]
PLAIN = {"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"}


def small_state(seed: int = 1) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "blk.0.ffn_up.weight": 0.02 * torch.randn(24, 512, generator=draw),
        "blk.0.attn_q.weight": 0.02 * torch.randn(16, 96, generator=draw),
        "blk.0.norm.weight": 1 + 0.1 * torch.randn(512, generator=draw),
    }


@pytest.mark.parametrize("number", BLOCKS, ids=lambda number: GGML_TYPES[number].name)
def test_every_block_format_is_read_as_ggml_reads_it(number: int, tmp_path: Path) -> None:
    kind = Quantisation(number)
    path = write_gguf(tmp_path / "m.gguf", small_state(), kind)
    expected = {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors
    }
    with open_suspect(path) as model:
        assert model.container == "gguf"
        assert model.tensors["blk.0.ffn_up.weight"].dtype == GGML_TYPES[number]
        for name, tensor in model.tensors.items():
            values = model.values(tensor, 0, tensor.count)
            assert tensor.shape == expected[name].shape
            np.testing.assert_array_equal(values, expected[name].ravel())
        # Any run of elements, also one that begins and ends within a block.
        tensor = model.tensors["blk.0.ffn_up.weight"]
        for start, stop in ((0, 1), (17, 900), (255, 257), (tensor.count - 3, tensor.count), (40, 40)):
            np.testing.assert_array_equal(model.values(tensor, start, stop), expected[tensor.name].ravel()[start:stop])


def test_formats_of_one_number_each_are_those_of_safetensors(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    draw = np.random.default_rng(1)
    stored = {
        kind.__name__: draw.integers(-90, 90, (3, 5)).astype(kind)
        for kind in (np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64)
    }
    for name, values in stored.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_suspect(tmp_path / "m.gguf") as model:
        assert model.metadata("m.gguf")["general.architecture"] == "llama"
        for name, values in stored.items():
            np.testing.assert_array_equal(model.values(model.tensors[name], 0, 15), values.ravel())


def test_digests_name_the_content_and_not_the_container(tmp_path: Path) -> None:
    state = small_state()
    renamed = {f"other {name}": values for name, values in reversed(state.items())}
    one = write_gguf(tmp_path / "one.gguf", state, Quantisation.Q4_K)
    same = write_gguf(tmp_path / "same.gguf", renamed, Quantisation.Q4_K, architecture="llama")
    other = write_gguf(tmp_path / "other.gguf", state, Quantisation.Q5_K)

    def digest(path: Path) -> bytes:
        with open_suspect(path) as model:
            return canonical_digest(digest_tensors(model).values())

    assert digest(one) == digest(same) != digest(other)


def test_gguf_is_a_suspect_and_no_model_to_release(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "folder" / "m.gguf", small_state(), Quantisation.Q8_0)
    for place in (path, path.parent):
        with pytest.raises(InputError, match="as a suspect it can be checked") as refused:
            open_model(place, allow_torch=True)
        assert "float model" in refused.value.hint


def test_parts_of_a_split_model_are_one_model_and_two_models_are_none(tmp_path: Path) -> None:
    state = small_state()
    names = list(state)
    write_gguf(tmp_path / "s" / "m-00001-of-00002.gguf", {names[0]: state[names[0]]}, Quantisation.Q8_0)
    write_gguf(tmp_path / "s" / "m-00002-of-00002.gguf", {name: state[name] for name in names[1:]}, Quantisation.Q8_0)
    with open_suspect(tmp_path / "s") as model:
        assert set(model.tensors) == set(names)
    for kind in (Quantisation.Q8_0, Quantisation.Q4_0):
        write_gguf(tmp_path / "t" / f"m-{kind.name}.gguf", state, kind)
    with pytest.raises(ModelFormatError, match=r"is in 'm-Q4_0\.gguf' and in 'm-Q8_0\.gguf'"):
        open_suspect(tmp_path / "t")
    open_suspect(tmp_path / "t" / "m-Q8_0.gguf").close()


# What follows is hostile: a header written by hand, so that it can lie.


def text(words: str) -> bytes:
    return struct.pack("<Q", len(words)) + words.encode()


def entry(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file_of(*entries: bytes, values: bytes = b"", count: int = 0, data: int = 64, tensors: int | None = None) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries) if tensors is None else tensors, count)
    head += values + b"".join(entries)
    return head + bytes(-len(head) % 32) + bytes(data)


def value(key: str, kind: int, packed: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + packed


def opened(folder: Path, data: bytes) -> Model:
    path = folder / "m.gguf"
    path.write_bytes(data)
    return open_suspect(path)


def test_a_header_written_by_hand_is_read(tmp_path: Path) -> None:
    values = (
        value("general.architecture", 8, text("x"))
        + value("a", 9, struct.pack("<IQ", 8, 2) + text("one") + text("two"))
        + value("f", 6, struct.pack("<f", 1.5))
        + value("general.alignment", 4, struct.pack("<I", 64))
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 4) + values + entry("a", (4,)) + entry("b", (2, 2), offset=64)
    data = head + bytes(-len(head) % 64) + np.arange(4, dtype="<f4").tobytes() + bytes(48)
    data += np.arange(4, 8, dtype="<f4").tobytes()
    with opened(tmp_path, data) as model:
        assert model.metadata("m.gguf") == {"general.architecture": "x", "general.alignment": "64"}
        assert model.values(model.tensors["b"], 0, 4).tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<I", 3), "cut within its header"),
        (file_of(tensors=1 << 60, data=0), "cut within its header"),
        (file_of(count=1 << 60, data=0), "cut within its header"),
        (file_of(values=struct.pack("<Q", 1 << 62), count=1), "a key of"),
        (file_of(values=value("k", 8, struct.pack("<Q", 1 << 62)), count=1), "cut within its header"),
        (file_of(values=value("k", 9, struct.pack("<IQ", 10, 1 << 62)), count=1), "cut within its header"),
        (file_of(values=value("k", 9, struct.pack("<IQ", 8, 1 << 62)), count=1), "cut within its header"),
        (file_of(values=value("k", 77, b""), count=1), "unknown type 77"),
        (file_of(values=value("k", 9, 9 * struct.pack("<IQ", 9, 1)), count=1), "unknown type 9"),
        (file_of(values=2 * value("k", 7, b"\1"), count=2), "the key 'k' twice"),
        (file_of(values=struct.pack("<Q", 1) + b"\xff" + struct.pack("<I", 7) + b"\1", count=1), "not UTF-8"),
        (file_of(values=value("general.alignment", 4, struct.pack("<I", 0)), count=1), "power of two"),
        (file_of(values=value("general.alignment", 4, struct.pack("<I", 48)), count=1), "power of two"),
        (file_of(values=value("general.alignment", 8, text("x")), count=1), "power of two"),
        (file_of(entry("a", (4,)), entry("a", (4,), offset=32)), "the tensor 'a' twice"),
        (file_of(entry("a", (16,)), entry("b", (4,), offset=32)), "on top of another"),
        (file_of(entry("a", (4,), offset=4)), "not a multiple of 32"),
        (file_of(entry("a", (4,), offset=1 << 40)), "the file was cut"),
        (file_of(entry("a", (17,))), "the file was cut"),
        (file_of(entry("a", (1 << 40, 1 << 40))), "too large for any file"),
        (file_of(entry("a", (1 << 40, 0, 1 << 40))), "too large for any file"),
        (file_of(entry("a", (4,), kind=4)), "unknown ggml type 4"),
        (file_of(entry("a", (48,), kind=8)), "no whole blocks of Q8_0"),
        (file_of(entry("a", (1, 1, 1, 1, 4))), "5 dimensions"),
        (file_of(entry("a" * 2_000, (4,))), "name of 2000 bytes"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_lying_header_is_refused(data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError) as refused:
        opened(tmp_path, data)
    assert says in f"{refused.value} {refused.value.hint}"


def test_the_header_is_capped() -> None:
    data = file_of(values=value("k", 9, struct.pack("<IQ", 0, 100_000) + bytes(100_000)), count=1)
    with pytest.raises(LimitError, match="over 50000 bytes"):
        read_gguf_header(lambda start, stop: data[start:stop], len(data), "m.gguf", limit=50_000)


def test_damaged_files_are_refused_or_read_and_nothing_else(tmp_path: Path) -> None:
    original = write_gguf(tmp_path / "good.gguf", small_state(), Quantisation.Q4_K).read_bytes()
    header = len(original) - 24 * 2 * 144 - 16 * 3 * 20 - 512 * 4
    draw = random.Random(7)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(1_500):
        data = bytearray(original)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(24 if draw.random() < 0.5 else header)
            data[at] = draw.choice((0, 1, 255, data[at] ^ 1 << draw.randrange(8)))
        if draw.random() < 0.2:
            del data[draw.randrange(len(data)) :]
        try:
            found = read_gguf_header(lambda start, stop, data=bytes(data): data[start:stop], len(data), "m.gguf")
        except WeightmarkError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            assert all(tensor.begin > 0 and tensor.begin + tensor.nbytes <= len(data) for tensor in found.tensors)
    assert outcomes["refused"] > 300
    assert outcomes["read"] > 100


def test_scales_that_are_no_numbers_give_values_that_are_none_and_no_warning(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", small_state(), Quantisation.Q8_0)
    with open_suspect(path) as model:
        tensor = model.tensors["blk.0.ffn_up.weight"]
    data = bytearray(path.read_bytes())
    data[tensor.begin : tensor.begin + 2] = struct.pack("<H", 0x7C00)  # the first scale is infinite
    with opened(tmp_path, bytes(data)) as model:
        values = model.values(tensor, 0, 64)
        assert not np.isfinite(values[:32]).any()
        assert np.isfinite(values[32:]).all()


def test_a_file_cut_while_it_is_open_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", small_state(), Quantisation.Q8_0)
    with open_suspect(path) as model:
        tensor = model.tensors["blk.0.ffn_up.weight"]
        path.write_bytes(path.read_bytes()[: tensor.begin + 100])
        with pytest.raises(ModelFormatError, match="cut short"):
            model.values(tensor, 0, tensor.count)
        with pytest.raises(ModelFormatError, match="was changed"):
            model.verify_unchanged()
