"""Pairing finds each tensor whatever it is called, and sees neither marked weights nor keys."""

from __future__ import annotations

import numpy as np

from tests.watermark.marks.models import write_model
from watermark.lineage.pairing import mean_cosine, pair_by_name, pair_tensors
from watermark.model.directory import open_model


def layers(seed: int, count: int = 8) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {f"layer.{number}": draw.normal(0, 0.05, (96, 96)).astype(np.float32) for number in range(count)}


def test_renamed_shuffled_noisy_pruned_tensors_are_all_found(tmp_path):
    weights = layers(1)
    draw = np.random.default_rng(2)
    order = draw.permutation(len(weights))
    names = list(weights)
    disguised = {}
    for place in order:
        values = weights[names[place]] + draw.normal(0, 0.03, (96, 96)).astype(np.float32)
        disguised[f"x{place}"] = np.where(np.abs(values) < 0.03, 0, values).astype(np.float32)
    reference, suspect = write_model(tmp_path / "r", weights), write_model(tmp_path / "s", disguised)
    with open_model(reference) as ours, open_model(suspect) as theirs:
        pairs = pair_tensors(ours, ours.tensors.values(), theirs)
    assert {(p.reference.name, p.suspect.name) for p in pairs} == {(n, f"x{i}") for i, n in enumerate(names)}
    assert mean_cosine(pairs) > 0.5


def test_dropped_layers_leave_the_others_paired(tmp_path):
    weights = layers(3)
    kept = {f"y{name}": values for name, values in weights.items() if name not in ("layer.2", "layer.5")}
    reference, suspect = write_model(tmp_path / "r", weights), write_model(tmp_path / "s", kept)
    with open_model(reference) as ours, open_model(suspect) as theirs:
        pairs = pair_tensors(ours, ours.tensors.values(), theirs)
    assert len(pairs) == 6
    assert all(pair.suspect.name == f"y{pair.reference.name}" for pair in pairs)


def test_innocent_models_are_paired_too_at_a_low_cosine(tmp_path):
    reference, suspect = write_model(tmp_path / "r", layers(4)), write_model(tmp_path / "s", layers(5))
    with open_model(reference) as ours, open_model(suspect) as theirs:
        pairs = pair_tensors(ours, ours.tensors.values(), theirs)
    assert len(pairs) == 8
    assert abs(mean_cosine(pairs)) < 0.1
    assert mean_cosine([]) == 0.0


def test_without_the_reference_names_and_shapes_must_both_agree(tmp_path):
    weights = layers(6, 3)
    weights["layer.1"] = weights["layer.1"][:, :50].copy()
    suspect = write_model(tmp_path / "s", weights)
    names = {"a": "layer.0", "b": "layer.1", "c": "nowhere"}
    with open_model(suspect) as theirs:
        found = pair_by_name(names, theirs, dict.fromkeys(names, (96, 96)))
    assert set(found) == {"a"}
