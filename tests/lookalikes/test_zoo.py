"""A handful of the zoo of `scripts/bench_lookalikes.py`: nobody is accused, and 2,000 wrong keys keep to the law."""

from __future__ import annotations

import numpy as np
import pytest

from cli.verdict import NOT_SHOWN, RELATED
from tests.lookalikes.accusations import Claimant, Release, kind_of
from tests.lookalikes.wrong_keys import (
    FAMILY,
    kinship_null,
    null_of,
    opened,
    owner_z,
    owner_z_in_full,
    permutation_null,
    recipient_null,
)
from tests.lookalikes.zoo import DRAWN, TAUGHT, TUNED, Recipe, make
from tests.watermark.marks.models import mark_model
from watermark.model.torch_state import load_state

pytestmark = pytest.mark.slow  # models are trained, and scrypt costs a second at each mark

BASE, TEXT_BASE = "perceptron-trained-digits-0-0", "gpt-trained-text-a-2000-0"
RECIPES = [
    *(Recipe("perceptron", "digits", seed) for seed in range(3)),
    *(Recipe("perceptron", "digits", seed, padded=True) for seed in (800, 801)),
    Recipe("perceptron", "wine", 200),
    Recipe("perceptron", "digits-mirrored", 1),
    *(Recipe("perceptron", "digits-half-a", 0, order, TUNED, BASE) for order in range(2)),
    *(Recipe("perceptron", "digits", seed, how=TAUGHT, parent=BASE) for seed in (600, 601)),
    Recipe("perceptron", "digits", 700, how=DRAWN),
    *(Recipe("gpt", "text-a", seed) for seed in (2000, 2001)),
    Recipe("gpt", "text-b", 0, how=TUNED, parent=TEXT_BASE),
]
BY_NAME = {recipe.name: recipe for recipe in RECIPES}
KEYS = 2_000


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """The folder of the models; every one of them does its task."""
    folder = tmp_path_factory.mktemp("zoo")
    made = list(make(RECIPES, folder, (), lambda recipe, reached: None))
    assert {recipe.name for recipe, _ in made} == set(BY_NAME)
    assert all(reached.passed == (recipe.how != DRAWN) for recipe, reached in made)
    return folder


@pytest.fixture(scope="module")
def pairs(zoo, tmp_path_factory):
    """Every model against the release of its shapes."""
    claimant = Claimant(tmp_path_factory.mktemp("claimant"), zoo)
    released = [
        Release(BY_NAME["perceptron-trained-digits-1-0"]),
        Release(BY_NAME["gpt-tuned-text-b-0-0"]),
    ]
    found = []
    for release in released:
        claimant.release(release)
    for suspect in RECIPES:
        against = [
            one
            for one in released
            if one.recipe.architecture == suspect.architecture and one.recipe.name != suspect.name
        ]
        found += claimant.accuse(suspect, against, BY_NAME)
    return found


def test_nobody_is_accused(pairs):
    assert len(pairs) == 13
    assert not [pair for pair in pairs if pair.is_false]
    assert {pair.verdict for pair in pairs if not pair.is_kin} == {NOT_SHOWN}
    assert all((pair.log2_p or 0) > -30 for pair in pairs)


def test_relatives_are_found_where_weights_were_shared_and_never_called_ours(pairs):
    kin = {pair.suspect: (pair.kind, pair.verdict) for pair in pairs if pair.is_kin}
    assert kin == {
        TEXT_BASE: ("the base of the release, not declared", RELATED),
        # Units of perceptrons are not compared.
        "perceptron-trained-digits-mirrored-1-0": ("same first weights, other data", NOT_SHOWN),
    }


def test_the_zoo_says_who_is_kin():
    tuned, sibling = (BY_NAME[f"perceptron-tuned-digits-half-a-0-{order}"] for order in range(2))
    assert kind_of(Release(tuned, declared=True), sibling, BY_NAME) == ("siblings, base declared", True)
    assert kind_of(Release(tuned), sibling, BY_NAME) == ("siblings, base not declared", True)
    assert kind_of(Release(BY_NAME[BASE]), tuned, BY_NAME) == ("fine-tune of the reference", True)
    taught, base = BY_NAME["perceptron-taught-digits-600-0"], BY_NAME[BASE]
    assert kind_of(Release(taught), base, BY_NAME) == ("student and teacher", False)


@pytest.fixture(scope="module")
def marked(zoo, tmp_path_factory):
    """A marked fine-tune, for whose mark wrong keys are drawn."""
    reference = zoo / "perceptron-tuned-digits-half-a-0-0"
    return mark_model(reference, tmp_path_factory.mktemp("marked"), ("Globex",), strength=0.1)


def test_wrong_keys_keep_to_the_law_in_every_statistic(marked, zoo, tmp_path):
    """Also on the marked copy itself; and the many keys at once are the product's own tests, key by key."""
    folders = {"marked copy": marked.copies[0], "twin": zoo / "perceptron-trained-digits-2-0"}
    with opened(marked, zoo / BASE, folders, tmp_path) as suspects:
        z = owner_z(marked, suspects, KEYS)
        assert {suspect.name for suspect in suspects} == {"marked copy", "marked copy, aligned", "twin"}
        for number, suspect in enumerate(suspects):
            assert np.abs(owner_z_in_full(marked, suspect, 10) - z[:10, number]).max() < 1e-3
    for number in range(len(suspects)):
        for member, name in enumerate(FAMILY):
            null = null_of(name, suspects[number].name, z[:, number, member])
            assert null.ks > 1e-4, null
            assert not null.too_often(), null
            assert null.counts[0] > 0.1 * KEYS  # a test that shows nothing at all would pass too


def test_wrong_recipients_and_shuffled_units_keep_to_the_law(marked, zoo):
    recipients = recipient_null(marked, "copy of another", marked.copies[0], KEYS)
    assert recipients.ks > 1e-4
    layers = [
        load_state(zoo / f"gpt-trained-text-a-{seed}-0")["blocks.0.down.weight"].T.numpy() for seed in (2000, 2001)
    ]
    units = kinship_null(layers[0].copy(), layers[1].copy(), "two transformers", KEYS // 2)
    for null in (recipients, units, permutation_null(128, 4, KEYS)):
        assert not null.too_often(), null
        assert sum(null.counts) > 0


def test_a_test_that_is_too_loud_is_noticed():
    draw = np.random.default_rng(1)
    assert null_of("shifted", "", draw.normal(0.2, 1, KEYS)).ks < 1e-4
    assert null_of("wide", "", draw.normal(0, 1.3, KEYS)).ks < 1e-4
    assert null_of("wider", "", draw.normal(0, 2, KEYS)).too_often()
