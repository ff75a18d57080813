"""Class A and B: what a thief does at no cost leaves the mark, and the innocent stay innocent on the very same path."""

from __future__ import annotations

import numpy as np
import pytest

from tests.attacks.marked_victims import Victim
from tests.attacks.victims import KINDS, composition, edits_of, layout_of, state_of
from watermark.attacks import blocks, experts, width
from watermark.attacks.noise import gaussian
from watermark.attacks.precision import int4_groups
from watermark.evidence import THRESHOLD_LOG2_P

CASES = [(kind, name) for kind in KINDS for name in edits_of(kind)]
#: Shares of the untouched z that must be left.
KEPT, KEPT_WHERE_FREE = 0.95, 0.70
#: 2,000 null keys reach 11 bits or so; 16 more leave no room for luck.
NULL_LOG2_P = -27


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_each_disguise_alone_leaves_the_mark(victim, kind, name):
    edit = edits_of(kind)[name]
    found = victim(kind).shown_in(edit.run(victim(kind).state, 1))
    assert found.z >= (KEPT_WHERE_FREE if edit.is_free else KEPT) * victim(kind).untouched_z


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_compositions_of_six_leave_the_mark(victim, kind, seed):
    names, disguise = composition(kind, seed)
    is_free = any(edits_of(kind)[name].is_free for name in names)
    attacked = disguise(victim(kind).state, seed)
    found = victim(kind).shown_in(attacked)
    assert found.z >= (KEPT_WHERE_FREE if is_free else KEPT) * victim(kind).untouched_z, names
    assert found.test.log2_p < THRESHOLD_LOG2_P


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_composition_with_noise_or_int4_is_still_found(victim, kind):
    noisy = composition(kind, 3)[1](gaussian(victim(kind).state, sigma=0.2, seed=1), 3)
    assert victim(kind).shown_in(noisy).test.log2_p < THRESHOLD_LOG2_P
    rounded = int4_groups(composition(kind, 4)[1](victim(kind).state, 4))
    assert victim(kind).shown_in(rounded).test.log2_p < 10 * THRESHOLD_LOG2_P


@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_wrong_keys_find_nothing_on_the_same_path(victim, kind):
    _, disguise = composition(kind, 5)
    for suspect in (disguise(victim(kind).state, 5), disguise(state_of(kind, 7), 5)):
        tests = victim(kind).wrong_keys(suspect, 2_000)
        if not tests:
            continue  # nothing of an independent model was recognised: no key was tried
        z = np.array([test.z for test in tests])
        assert abs(z.mean()) < 0.1
        assert 0.9 < z.std() < 1.1
        assert min(test.log2_p for test in tests) > NULL_LOG2_P


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_independent_models_show_nothing(victim, kind):
    for seed in (7, 8, 9):
        assert victim(kind).shown_in(state_of(kind, seed)).test.log2_p > -16
        attacked = composition(kind, seed)[1](state_of(kind, seed), seed)
        assert victim(kind).shown_in(attacked).test.log2_p > -16


@pytest.mark.slow
@pytest.mark.parametrize("build", ["near", "disguised", "mixed"])
def test_a_reference_made_from_the_suspect_gains_nothing(tmp_path, build):
    """The claimant builds his reference from an innocent model, marks that, and accuses the innocent of copying it."""
    innocent = state_of("llama", 11)
    made = {
        "near": lambda: gaussian(innocent, sigma=0.05, seed=1),
        "disguised": lambda: gaussian(composition("llama", 2)[1](innocent, 2), sigma=0.02, seed=2),
        "mixed": lambda: {name: 0.7 * values + 0.3 * state_of("llama", 12)[name] for name, values in innocent.items()},
    }[build]()
    claimant = Victim(tmp_path, made)
    for seed in range(3):
        for suspect in (innocent, composition("llama", seed)[1](innocent, seed)):
            found = claimant.shown_in(suspect)
            assert found.alignment is not None  # it is aligned, closely, and shows nothing all the same
            assert found.test.log2_p > -16
            assert claimant.plain(suspect).log2_p > -16


@pytest.mark.parametrize(("kind", "order"), [("gpt", [1]), ("llama", [1, 0]), ("bert", [0, 0, 1]), ("moe", [1])])
def test_dropped_moved_and_doubled_blocks(victim, kind, order):
    pattern = {"gpt": "transformer.h.{}.", "bert": "encoder.layer.{}."}.get(kind, "model.layers.{}.")
    state = victim(kind).state
    if kind == "llama":
        state = edits_of(kind)["stream rotated"].run(state, 1)
    attacked = blocks.rearrange_blocks(state, pattern, order)
    share = len(set(order)) / 2
    assert victim(kind).shown_in(attacked).z > 0.7 * np.sqrt(share) * victim(kind).untouched_z


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_units_that_change_nothing_hide_nothing(victim, kind):
    layout = layout_of(kind, victim(kind).state)
    for attack in (width.add_idle_units, width.add_cliques, width.split_units):
        attacked = attack(edits_of(kind)["stream rotated"].run(victim(kind).state, 2), layout, 1, share=0.25)
        assert victim(kind).shown_in(attacked).z > KEPT * victim(kind).untouched_z


def test_upcycling(victim):
    state = victim("llama").state
    attacked = experts.upcycle(state, layout_of("llama", state), 1, experts=8)
    assert victim("llama").shown_in(attacked).z > KEPT * victim("llama").untouched_z


def test_what_was_undone_is_said_in_plain_words(victim):
    kind = victim("llama")
    for name, words in (
        ("stream rotated", "the residual stream rotated"),
        ("stream permuted", "the residual stream reordered"),
        ("hidden permuted", "rows reordered in 6 matrices"),
        ("query-key mixed", "heads reordered and rotary pairs mixed in 4 matrices"),
        ("value-output mixed", "heads reordered and mixed in 4 matrices"),
    ):
        found = kind.shown_in(edits_of("llama")[name].run(kind.state, 1)).alignment
        assert found is not None
        assert found.undone == (words,)
    assert kind.shown_in(kind.state).alignment.undone == ()
