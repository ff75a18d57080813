"""Hidden units in place: exact where it holds, silent where it does not, and never fooled by ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

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
        faces, _ = hidden_faces(list(model.tensors.values()), 80)
    assert {face.private for face in faces} == {private}
    assert len(faces) == count
    assert len({face.axis for face in faces}) == 1


def chain_of_layers(layers: int, seed: int, *, gates: int = 1, hidden: int = 96) -> dict[str, torch.Tensor]:
    """Hidden layers on a stream of 40 numbers, drawn alone, and two tables of their size that all such models share."""
    own, common = (np.random.default_rng(number) for number in (seed, 999))

    def drawn(stream: np.random.Generator, *shape: int) -> torch.Tensor:
        return torch.from_numpy(stream.normal(size=shape).astype(np.float32))

    state = {"embedding": drawn(common, hidden, 40), "head": drawn(common, 40, hidden)}
    for layer in range(layers):
        state |= {f"{layer}.in.{gate}": drawn(own, hidden, 40) for gate in range(gates)}
        state[f"{layer}.out"] = drawn(own, 40, hidden)
    return state


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("gates", [1, 2])
@pytest.mark.parametrize("turned", [(), ("head",), ("embedding",), ("embedding", "head")])
def test_public_tables_of_the_size_of_the_hidden_layers_make_no_relatives(tmp_path, layers, gates, turned):
    """A vocabulary has an order; taken for units, a common embedding once made relatives of 10 innocent pairs of 10."""
    states = [chain_of_layers(layers, seed, gates=gates) for seed in (1, 2)]
    for state in states:
        for name in turned:
            state[name] = state[name].T.contiguous()
    found = kin(tmp_path, *states)
    assert found is None or found.log2_p > -20
    same = kin(tmp_path / "again", states[0], states[0])
    if layers > 3:
        assert same is not None
        assert same.log2_p < -128


def test_tables_are_suspected_only_where_the_sizes_leave_it_open(tmp_path):
    counted = {}
    for kind in ("gpt", "llama", "moe"):
        with open_model(write(tmp_path / kind, state_of(kind))) as model:
            counted[kind] = hidden_faces(list(model.tensors.values()), 80)[1]
    assert counted == {"gpt": 1, "llama": 0, "moe": 0}
