"""What a mark does to weights: as much as it says, on the grid of the reference, and nothing elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from tests.watermark.marks.models import SECRET, mark_model, random_weights, read_weights, write_model
from watermark.errors import CapacityError, MarkError
from watermark.marks.carriers import NATIVE_GRIDS, Grid, reason_against
from watermark.marks.chips import code_table
from watermark.marks.plan import plan_mark
from watermark.marks.secret import ReleaseKey
from watermark.marks.survey import survey
from watermark.marks.weights import round_to_grid
from watermark.model.directory import open_model


def survey_of(folder):
    with open_model(folder) as model:
        return survey(model)


def test_every_weight_moves_by_its_share_of_its_row_and_the_bias_stays(marked):
    before, after = read_weights(marked.reference), read_weights(marked.copies[0])
    for name, values in before.items():
        moved = after[name] - values
        if values.ndim < 2:
            assert np.array_equal(after[name], values)
            continue
        relative = moved.std(axis=1) / values.std(axis=1)
        assert relative.mean() == pytest.approx(0.03, rel=0.03)
        assert abs(moved.mean()) < 1e-4


def test_two_copies_share_the_owner_layer_and_differ_in_the_recipient_layer(marked):
    reference = read_weights(marked.reference)
    one, two = (read_weights(copy) for copy in marked.copies)
    for name in ("up", "down", "mix"):
        a, b = (one[name] - reference[name]).ravel(), (two[name] - reference[name]).ravel()
        assert np.corrcoef(a, b)[0, 1] == pytest.approx(2 / 3, abs=0.02)


def test_the_same_mark_gives_the_same_bytes(marked, tmp_path):
    again = mark_model(marked.reference, tmp_path / "again", ("Initech",))
    assert again.plan.root == marked.plan.root
    assert (again.copies[0] / "model.safetensors").read_bytes() == (marked.copies[1] / "model.safetensors").read_bytes()


def test_names_and_order_of_tensors_do_not_change_the_mark(marked, tmp_path):
    weights = random_weights()
    renamed = write_model(tmp_path / "renamed", {f"x.{n}": weights[n] for n in ("mix", "bias", "down", "up")})
    with open_model(renamed) as model:
        found = survey(model)
    assert found.reference_digest == marked.plan.reference_digest
    plan = plan_mark(ReleaseKey.of(SECRET, found.reference_digest), found, strength=0.03)
    assert plan.root == marked.plan.root


@pytest.mark.parametrize(("kind", "cast"), [("BF16", None), ("F16", np.float16)])
def test_a_reference_stored_wider_than_its_grid_stays_on_its_grid(tmp_path, kind, cast):
    weights = random_weights(seed=3)
    for name, values in weights.items():
        if cast is None:
            weights[name] = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        else:
            weights[name] = values.astype(cast).astype(np.float32)
    reference = write_model(tmp_path / "reference", weights)
    made = mark_model(reference, tmp_path / "copies")
    assert {tensor.grid for tensor in made.plan.geometry.marked} == {kind}
    for values in read_weights(made.copies[0]).values():
        if cast is None:
            assert not (values.view(np.uint32) & np.uint32(0xFFFF)).any()
        else:
            assert np.array_equal(values.astype(cast).astype(np.float32), values)


@pytest.mark.parametrize("kind", ["BF16", "F16", "F64"])
def test_other_types_carry_the_mark_at_the_same_strength(tmp_path, kind):
    reference = write_model(tmp_path / "reference", random_weights(seed=4), dict.fromkeys(("up", "down", "mix"), kind))
    made = mark_model(reference, tmp_path / "copies")
    before, after = read_weights(reference), read_weights(made.copies[0])
    for name in ("up", "down", "mix"):
        moved = (after[name] - before[name]).astype(np.float64)
        # A copy without recipient has two thirds of the energy: 3 % * sqrt(2/3); bf16 rounding adds its own noise.
        assert 0.0240 < (moved.std(axis=1) / before[name].std(axis=1)).mean() < 0.0255


def test_zeros_duplicate_rows_and_pruned_weights_stay_as_they_are(tmp_path):
    weights = random_weights(seed=5)
    weights["up"][np.abs(weights["up"]) < 0.03] = 0
    weights["mix"][10] = weights["mix"][20]
    weights["mix"][30] = 0.25
    reference = write_model(tmp_path / "reference", weights)
    made = mark_model(reference, tmp_path / "copies")
    after = read_weights(made.copies[0])
    assert np.array_equal(after["up"] == 0, weights["up"] == 0)
    assert np.array_equal(after["mix"][[10, 20, 30]], weights["mix"][[10, 20, 30]])
    assert (after["mix"][40] != weights["mix"][40]).all()


def test_tied_tensors_stored_twice_stay_equal(tmp_path):
    weights = random_weights(seed=6)
    weights["tied"] = weights["mix"].copy()
    made = mark_model(write_model(tmp_path / "reference", weights), tmp_path / "copies")
    after = read_weights(made.copies[0])
    assert np.array_equal(after["tied"], after["mix"])
    assert len(made.plan.geometry.marked) == 3


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, value, word):
    weights = random_weights(seed=7)
    weights["down"][3, 5] = value
    with pytest.raises(MarkError, match=rf"'down'.*{word}"):
        survey_of(write_model(tmp_path / "bad", weights))


def test_what_anyone_can_compute_carries_no_mark(tmp_path):
    angles = np.arange(512)[:, None] * np.exp(-np.arange(64) * 0.14)[None]
    positions = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    time = np.arange(400)
    fourier = (np.hanning(400)[None] * np.sin(np.pi * (np.arange(1, 201)[:, None]) * time[None] / 200)).astype(
        np.float32
    )
    mel = np.zeros((40, 200), np.float32)
    for band in range(40):
        mel[band, band * 5 : band * 5 + 5] = [0.2, 0.6, 1.0, 0.6, 0.2]
    weights = random_weights(seed=8)
    matrix = weights["mix"]
    scale = np.abs(matrix).max(axis=1, keepdims=True) / 127
    tables = {
        "positions": positions,
        "fourier": fourier,
        "mel": mel,
        "constant": np.full((64, 64), 0.5, np.float32),
        "mask": np.triu(np.ones((64, 64), np.float32)),
        "infinite_mask": np.where(np.triu(np.ones((64, 64))) > 0, -np.inf, 0).astype(np.float32),
        "int8": np.rint(matrix / scale).astype(np.float32) * scale,
        "learned": matrix,
    }
    found = survey_of(write_model(tmp_path / "tables", tables))
    marked = {name for tensor in found.tensors if tensor.reason is None for name in tensor.names}
    assert marked == {"learned"}


def test_a_sample_of_trained_weights_is_not_mistaken_for_a_table():
    draw = np.random.default_rng(0)
    smooth = np.cumsum(draw.normal(size=(64, 200)), axis=1).astype(
        np.float32
    )  # a random walk, as smooth as filters get
    assert reason_against(draw.normal(size=(64, 200)).astype(np.float32)) is None
    assert reason_against(draw.standard_t(3, size=(64, 200)).astype(np.float32)) is None
    assert reason_against(smooth + draw.normal(0, 3, smooth.shape).astype(np.float32)) is None


def test_a_model_too_small_for_any_proof_is_refused(tmp_path):
    tiny = {"w": np.random.default_rng(1).normal(size=(40, 40)).astype(np.float32)}
    found = survey_of(write_model(tmp_path / "tiny", tiny))
    with pytest.raises(CapacityError, match="proves nothing"):
        plan_mark(ReleaseKey(b"k" * 32), found)
    biases = {"b": np.zeros(500, np.float32)}
    with pytest.raises(CapacityError, match="no tensor"):
        plan_mark(ReleaseKey(b"k" * 32), survey_of(write_model(tmp_path / "biases", biases)))


@pytest.mark.parametrize("name", ["BF16", "F16", "M15", "M18"])
def test_stochastic_rounding_keeps_the_mean_and_lands_on_neighbours(name):
    grid = NATIVE_GRIDS.get(name) or Grid(name, int(name[1:]))
    draw = np.random.default_rng(9)
    for value in (0.0123456, -3.14159, 1e-6, 2.0**-15 * 1.3):
        target = np.full(200_000, value, np.float32)
        random = draw.integers(0, 1 << 8, target.size, np.uint8)
        rounded = round_to_grid(target, grid, random).astype(np.float64)
        step = max(np.diff(np.unique(rounded)), default=0.0)
        assert len(np.unique(rounded)) <= 2
        assert abs(rounded.mean() - np.float64(np.float32(value))) <= 5 * step / np.sqrt(target.size) + 1e-12


def test_code_table_is_symmetric_and_inside_the_normal_law():
    table = code_table().astype(np.int64)
    assert np.array_equal(table, -table[::-1])
    moments = np.mean((table / 32.0) ** 2)
    assert 0.96 < moments <= 1.0
    for strength in (0.1, 0.5, 1.0, 2.0, 4.0):
        assert np.mean(np.exp(strength * table / 32.0)) <= np.exp(strength**2 / 2)
