"""Odd suspects: other containers and types, no stream, damaged values, nothing in common."""

from __future__ import annotations

import numpy as np
import pytest

from tests.attacks.victims import edits_of, state_of, write
from tests.watermark.marks.models import random_weights, write_model
from watermark.lineage.symmetry import align, write_aligned
from watermark.lineage.symmetry.faces import Weights, faces_of, stream_width
from watermark.lineage.symmetry.partners import cuts
from watermark.model.directory import open_model
from watermark.model.safetensors import TensorInfo


def aligned(tmp_path, reference, suspect):
    """The aligned tensors by name, or None."""
    with open_model(reference) as ours, open_model(suspect) as theirs:
        found = align(ours, ours.tensors.values(), theirs)
        if found is None:
            return None, None
        (tmp_path / "aligned").mkdir()
        with write_aligned(found, tmp_path / "aligned") as model:
            values = {
                name: model.values(t, 0, int(np.prod(t.shape))).reshape(t.shape).copy()
                for name, t in model.tensors.items()
            }
        return found, values


def test_aligned_tensors_have_the_names_and_shapes_of_the_reference(tmp_path):
    state = state_of("moe")
    attacked = edits_of("moe")["projections fused"].run(edits_of("moe")["stream rotated"].run(state, 1), 1)
    reference, suspect = write(tmp_path / "r", state), write(tmp_path / "s", attacked)
    found, values = aligned(tmp_path, reference, suspect)
    assert found.explained > 0.99
    for name, array in values.items():
        assert array.shape == tuple(state[name].shape)
        assert np.abs(array - state[name].numpy()).max() < 1e-3


def test_a_model_is_aligned_to_itself_with_nothing_undone(tmp_path):
    for kind in ("bert", "cnn"):
        folder = write(tmp_path / kind, state_of(kind))
        with open_model(folder) as ours, open_model(folder) as theirs:
            found = align(ours, ours.tensors.values(), theirs)
        assert found is not None
        assert found.undone == ()
        assert found.explained > 0.99


def test_weights_without_any_anchor_are_aligned_in_place(tmp_path):
    """Some layers stolen, no embedding: reordered hidden units are found where the stream was left alone."""
    state = {name: values for name, values in state_of("llama").items() if ".layers." in name}
    attacked = edits_of("llama")["hidden permuted"].run(state_of("llama"), 1)
    attacked = {name: values for name, values in attacked.items() if ".layers.1." in name}
    reference, suspect = write(tmp_path / "r", state), write(tmp_path / "s", attacked)
    found, values = aligned(tmp_path, reference, suspect)
    assert 0.45 < found.explained < 0.55
    assert all(".layers.1." in name for name in values)


def test_nothing_in_common_is_none(tmp_path):
    llama = write(tmp_path / "r", state_of("llama"))
    for number, kind in enumerate(("gpt", "cnn")):
        found, _ = aligned(tmp_path, llama, write(tmp_path / f"s{number}", state_of(kind, 5)))
        assert found is None
    flat = write_model(tmp_path / "flat", {"a": np.arange(50, dtype=np.float32)})
    assert aligned(tmp_path, llama, flat) == (None, None)
    assert aligned(tmp_path, flat, llama) == (None, None)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_hostile_values_break_nothing(tmp_path, value):
    state = {name: values.clone() for name, values in state_of("gpt").items()}
    attacked = edits_of("gpt")["hidden permuted"].run(state, 1)
    attacked["transformer.wte.weight"][:, 5] = value
    attacked["transformer.h.0.mlp.c_fc.weight"][:] = value
    reference, suspect = write(tmp_path / "r", state), write(tmp_path / "s", attacked)
    with np.errstate(over="ignore"):
        found, values = aligned(tmp_path, reference, suspect)
    assert found is not None
    assert all(np.isfinite(array).all() for array in values.values())


def test_half_precision_and_equal_rows_are_aligned(tmp_path):
    weights = random_weights(3)
    weights["up"][10:20] = weights["up"][9]
    reference = write_model(tmp_path / "r", weights)
    order = np.random.default_rng(1).permutation(len(weights["up"]))
    suspect = write_model(
        tmp_path / "s",
        {**weights, "up": weights["up"][order], "down": weights["down"][:, order].copy()},
        {"up": "F16", "down": "BF16"},
    )
    found, values = aligned(tmp_path, reference, suspect)
    assert found.explained > 0.98
    assert np.abs(values["up"] - weights["up"]).max() < 1e-3


def test_the_stream_and_its_faces_are_seen_in_shapes(tmp_path):
    with open_model(write(tmp_path / "m", state_of("moe"))) as model:
        assert stream_width(model.tensors.values()) == 80
        stack = model.tensors["model.layers.0.mlp.experts.gate_up_proj"]
        faces = faces_of(stack, 80)
        assert [face.entry for face in faces] == [0, 1, 2, 3]
        assert {(face.private, face.axis, face.width) for face in faces} == {(224, 1, 80)}
        square = faces_of(model.tensors["model.layers.0.self_attn.q_proj.weight"], 80)
        assert [face.axis for face in square] == [1, 0]
        assert len({face.slot for face in square}) == 1
        assert Weights(model, cache_bytes=0).face(faces[2]).shape == (224, 80)


def test_fused_faces_are_cut_where_the_other_model_says_so(tmp_path):
    with open_model(write(tmp_path / "m", state_of("gpt"))) as model:
        tensor: TensorInfo = model.tensors["transformer.h.0.attn.c_attn.weight"]
        face = faces_of(tensor, 80)[0]
    assert [[(part.start, part.stop) for part in way] for way in cuts(face, {240, 80})] == [[(0, 240)]]
    whole, thirds = cuts(face, {80})
    assert whole == (face,)
    assert [(part.start, part.stop) for part in thirds] == [(0, 80), (80, 160), (160, 240)]
    assert [len(way) for way in cuts(face, {120, 60})] == [1, 2, 3]
    assert cuts(face, {7}) == [(face,)]
