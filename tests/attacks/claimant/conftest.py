"""What a claimant works on: an innocent suspect, and two marks, his own and another owner's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli import evidence as evidence_job
from tests.attacks.claimant.claimant import STRETCHED, Claimant
from tests.watermark.marks.models import MarkedModel, mark_model, random_weights, write_model
from watermark.marks.secret import stretch_root


@pytest.fixture(autouse=True)
def scrypt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same few roots are judged again and again, and scrypt costs a second each time."""
    monkeypatch.setattr(evidence_job, "stretch_root", lambda root: STRETCHED.get(root) or stretch_root(root))


MANY = 600


def of_many_blocks(folder: Path, seed: int) -> Path:
    """A model of 600 blocks, enough for 160 bits of pure chance: rows of 8,200 are a block each."""
    weights = np.random.default_rng(seed).normal(0, 0.05, (MANY, 8_200)).astype(np.float32)
    return write_model(folder, {"w": weights}, {"w": "BF16"})


@pytest.fixture(scope="package")
def innocent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has nothing of anybody."""
    return write_model(tmp_path_factory.mktemp("innocent") / "model", random_weights(seed=301))


@pytest.fixture(scope="package")
def mallorys(tmp_path_factory: pytest.TempPathFactory) -> MarkedModel:
    """A model that Mallory really marked, 21 blocks."""
    folder = tmp_path_factory.mktemp("mallorys")
    return mark_model(write_model(folder / "r", random_weights(seed=302)), folder / "c", owner="mallory")


@pytest.fixture(scope="package")
def acmes(tmp_path_factory: pytest.TempPathFactory) -> MarkedModel:
    """Another owner's, shipped to Globex; Mallory knows of it what acme showed in a dispute."""
    folder = tmp_path_factory.mktemp("acmes")
    return mark_model(write_model(folder / "r", random_weights(seed=303)), folder / "c", ("Globex",), owner="acme")


@pytest.fixture
def mallory(tmp_path: Path) -> Claimant:
    """A fresh claimant with an empty log."""
    return Claimant(tmp_path / "mallory")
