"""Digests name content alone: no container, shard, order or name; and blocks cut every shape without gap or overlap."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watermark.marks.models import write_model
from watermark.model.digest import (
    BLOCK_ELEMENTS,
    Span,
    block_digests,
    canonical_digest,
    digest_model,
    digest_tensors,
    layout_of,
    read_span,
    spans_of,
    tensor_digest,
)
from watermark.model.directory import open_model
from watermark.model.rewrite import NewBytes, rewrite_shard


@given(st.lists(st.integers(0, 90), max_size=4).map(tuple))
def test_blocks_cover_every_shape_once_in_whole_rows(shape):
    layout = layout_of(shape)
    assert layout.count == math.prod(shape)
    assert layout.per_block % layout.line == 0
    assert layout.line % layout.row == 0
    assert layout.per_block <= BLOCK_ELEMENTS
    ends = [layout.bounds(block) for block in range(layout.blocks)]
    assert [start for start, _ in ends[1:]] == [stop for _, stop in ends[:-1]]
    assert not ends or (ends[0][0], ends[-1][1]) == (0, layout.count)


@pytest.mark.parametrize(
    ("shape", "row", "per_block"),
    [((1000, 384), 384, 42 * 384), ((64, 3, 3, 3), 54, 60 * 270), ((10, 50_000), 16_384, 16_384), ((5,), 35, 58 * 280)],
)
def test_layouts_of_common_shapes(shape, row, per_block):
    assert (layout_of(shape).row, layout_of(shape).per_block) == (row, per_block)


def test_a_tensor_digest_is_the_documented_hash():
    values = np.arange(40_000, dtype="<f4").reshape(100, 400)
    size = 40 * 400 * 4
    raw = values.tobytes()
    blocks = [hashlib.sha256(raw[start : start + size]).digest() for start in range(0, len(raw), size)]
    expected = hashlib.sha256(b"weightmark tensor v1\x00F32\x00100,400\x00" + b"".join(blocks)).digest()
    assert tensor_digest("F32", (100, 400), blocks) == expected


def test_names_order_and_shards_do_not_change_the_canonical_digest(tmp_path):
    draw = np.random.default_rng(1)
    weights = {f"t{number}": draw.normal(size=(70, 300)).astype(np.float32) for number in range(4)}
    one = write_model(tmp_path / "one", weights)
    other = write_model(tmp_path / "two", {f"z{name}": weights[name] for name in reversed(weights)})
    with open_model(one) as a, open_model(other) as b:
        assert canonical_digest(digest_tensors(a).values()) == canonical_digest(digest_tensors(b).values())
        assert digest_model(a).files["model.safetensors"] != digest_model(b).files["model.safetensors"]
    weights["t0"][3, 3] += 1
    with open_model(write_model(tmp_path / "three", weights)) as c, open_model(one) as a:
        changed = {name for name, digest in digest_tensors(a).items() if digest_tensors(c)[name] != digest}
    assert changed == {"t0"}


def test_dtype_and_shape_are_part_of_a_digest():
    blocks = [bytes(32)]
    found = {tensor_digest(kind, shape, blocks) for kind in ("F32", "I32") for shape in ((4, 6), (6, 4), (24,))}
    assert len(found) == 6


def test_spans_read_the_same_whatever_their_size(tmp_path):
    values = np.random.default_rng(2).normal(size=(500, 100)).astype(np.float32)
    with open_model(write_model(tmp_path / "m", {"w": values})) as model:
        tensor = model.tensors["w"]
        for size in (1, 40_000, 10**9):
            spans = list(spans_of(tensor, size))
            assert b"".join(read_span(model, span) for span in spans) == values.tobytes()
            digests = [d for span in spans for d in block_digests(read_span(model, span), span)]
            assert digests == block_digests(values.tobytes(), Span(tensor, 0, layout_of(tensor.shape).blocks))


def test_a_rewritten_shard_keeps_its_header_and_says_what_it_holds(tmp_path):
    draw = np.random.default_rng(3)
    source = write_model(
        tmp_path / "m", {"a": draw.normal(size=(300, 200)).astype(np.float32), "b": np.arange(7)}, {"b": "I64"}
    )
    targets = [tmp_path / "one", tmp_path / "two"]
    with open_model(source) as model:
        written = rewrite_shard(model, "model.safetensors", targets, lambda span, raw: NewBytes((raw, raw[::-1])))
        header = model.header_bytes("model.safetensors")
        digests = digest_tensors(model)
    assert targets[0].read_bytes() == (source / "model.safetensors").read_bytes()
    assert targets[1].read_bytes().startswith(header)
    assert targets[1].read_bytes() != targets[0].read_bytes()
    for target, shard in zip(targets, written, strict=True):
        assert shard.file == hashlib.sha256(target.read_bytes()).digest()
    assert written[0].tensors == digests
    with open_model(targets[1].rename(tmp_path / "two.safetensors")) as model:
        assert written[1].tensors == digest_tensors(model)
