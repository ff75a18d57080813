"""Hidden units in place: exact where it holds, silent where it does not, and never fooled by ties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.attacks.victims import edits_of, state_of, write
from watermark.attacks.noise import gaussian
from watermark.attacks.precision import int4_groups
from watermark.attacks.pruning import magnitude
from watermark.lineage.kinship import compare_units, hidden_faces, kinship, log2_fixed_points
from watermark.model.directory import open_model

KINDS = ("gpt", "llama", "moe", "bert")


def kin(tmp_path, ours, theirs):
    reference, suspect = write(tmp_path / "r", ours), write(tmp_path / "s", theirs)
    with open_model(reference) as left, open_model(suspect) as right:
        return kinship(left, list(left.tensors.values()), right)


def rows(seed: int, count: int = 60, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_int4_prune_70_noise_and_merges_keep_their_units_in_place(tmp_path, kind):
    state = state_of(kind)
    twin = state_of(kind, 5)
    merged = {name: 0.6 * v + 0.4 * twin[name] if v.is_floating_point() else v for name, v in state.items()}
    suspects = [state, int4_groups(state), magnitude(state, share=0.7), gaussian(state, sigma=0.4, seed=1), merged]
    for number, suspect in enumerate(suspects):
        found = kin(tmp_path / str(number), state, suspect)
        assert found is not None
        assert found.in_place > 0.95 * found.units
        assert found.log2_p < -128


@pytest.mark.parametrize("kind", KINDS)
def test_twins_and_reordered_copies_show_nothing(tmp_path, kind):
    state = state_of(kind)
    for number, suspect in enumerate([state_of(kind, 5), edits_of(kind)["hidden permuted"].run(state, 1)]):
        found = kin(tmp_path / str(number), state, suspect)
        assert found is None or found.log2_p > -20


def test_the_null_has_one_fixed_point_on_average_and_the_bound_holds():
    counts = [compare_units(rows(s), rows(1_000 + s), np.random.default_rng(s))[1] for s in range(400)]
    assert 0.8 < np.mean(counts) < 1.2
    for k in range(1, 5):
        assert np.mean([count >= k for count in counts]) <= 1.6 / math.factorial(k)


def test_zero_dead_and_double_units_are_dropped():
    """Padding at equal places is what twins of one configuration share: it must not count as units in place."""
    ours, theirs = rows(1, 200), rows(2, 200)
    for padded in (ours, theirs):
        padded[100:160] = 0
        padded[160:170] = 1e-7 * rows(3, 10)
        padded[170:180] = rows(4, 1)
    units, in_place, _ = compare_units(ours, theirs, np.random.default_rng(0))
    assert units == 120
    assert in_place < 10
    assert compare_units(np.zeros((9, 4), np.float32), np.zeros((9, 4), np.float32), np.random.default_rng(0))[0] == 0
    assert compare_units(rows(1), rows(1, 50), np.random.default_rng(0)) == (0, 0, 0.0)


def test_the_bound():
    assert log2_fixed_points(35, 1) == pytest.approx(-132.9, abs=0.1)
    assert log2_fixed_points(35, 4) == pytest.approx(-62.9, abs=0.1)
    assert log2_fixed_points(35, 12) == pytest.approx(-7.4, abs=0.1)
    assert log2_fixed_points(0, 4) == 0.0
    assert log2_fixed_points(3, 12) == 0.0


@pytest.mark.parametrize(("kind", "private", "count"), [("gpt", 320, 2), ("llama", 208, 2), ("moe", 112, 8)])
def test_each_set_of_units_counts_once_and_vocabularies_never(tmp_path, kind, private, count):
    with open_model(write(tmp_path / "m", state_of(kind))) as model:
        faces = hidden_faces(list(model.tensors.values()), 80)
    assert {face.private for face in faces} == {private}
    assert len(faces) == count
    assert len({face.axis for face in faces}) == 1
