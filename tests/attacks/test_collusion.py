"""Coalitions of recipients: somebody of them is named, whatever the rule, and nobody else ever is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.watermark.marks.models import MarkedModel, mark_model, random_weights, write_model
from watermark.attacks import precision
from watermark.attacks.collusion import COLLUSIONS, collusion
from watermark.attacks.interface import State
from watermark.evidence import THRESHOLD_RECIPIENT_LOG2_P
from watermark.marks.trace import Scores
from watermark.model.torch_state import load_state, save_state

COALITION = tuple(f"colluder {number}" for number in range(8))
INNOCENTS = tuple(f"innocent {number}" for number in range(2_000))
NAMED = THRESHOLD_RECIPIENT_LOG2_P - math.log2(len(COALITION) + len(INNOCENTS))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> MarkedModel:
    folder = tmp_path_factory.mktemp("pool")
    return mark_model(write_model(folder / "reference", random_weights()), folder / "copies", COALITION)


@pytest.fixture(scope="module")
def copies(pool: MarkedModel) -> list[State]:
    return [load_state(copy / "model.safetensors") for copy in pool.copies]


def scores_of(pool: MarkedModel, state: State, folder: Path) -> Scores:
    save_state(folder, state)
    return pool.folded(folder)


def log2_p_of_each(pool: MarkedModel, scores: Scores, names: tuple[str, ...]) -> list[float]:
    return [scores.test(pool.code(name)).log2_p for name in names]


@pytest.mark.parametrize("name", COLLUSIONS)
def test_somebody_of_the_coalition_is_named_and_no_innocent(
    pool: MarkedModel, copies: list[State], name: str, tmp_path: Path
) -> None:
    # By the law of the code 330,000 carriers name one of eight at up to E = 40; amplified tenfold, E is 250.
    size = 2 if name.endswith("x10") else len(COALITION)
    scores = scores_of(pool, collusion(name)(copies[:size], seed=3), tmp_path)
    assert min(log2_p_of_each(pool, scores, COALITION[:size])) < NAMED
    assert min(log2_p_of_each(pool, scores, COALITION[size:] + INNOCENTS)) > -32


@pytest.mark.parametrize("name", ["mean", "mid-range", "minority-extreme"])
def test_two_are_named_after_int4_and_no_innocent(
    pool: MarkedModel, copies: list[State], name: str, tmp_path: Path
) -> None:
    scores = scores_of(pool, precision.int4_groups(collusion(name)(copies[:2], seed=3)), tmp_path)
    assert max(log2_p_of_each(pool, scores, COALITION[:2])) < NAMED
    assert min(log2_p_of_each(pool, scores, COALITION[2:] + INNOCENTS)) > -32


def test_a_model_that_nobody_was_given_names_nobody(pool: MarkedModel, tmp_path: Path) -> None:
    innocent = load_state(write_model(tmp_path / "other", random_weights(seed=9)) / "model.safetensors")
    scores = scores_of(pool, innocent, tmp_path / "suspect")
    assert min(log2_p_of_each(pool, scores, COALITION + INNOCENTS)) > -32
