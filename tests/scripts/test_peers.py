"""Methods of others, stated again: each finds a plain fine-tune and passes independents, as its paper says it does."""

from __future__ import annotations

import math

import pytest
import torch

from scripts import zoo_models, zoo_tables
from scripts.bench_zoo import common_tokens, message_for, peers, strength_of, with_message
from scripts.peers import awm, configuration, huref, independence, reef, spread_spectrum
from scripts.peers.subject import Subject
from scripts.zoo_suspects import thefts_of
from tests.lookalikes.zoo import Recipe, first_weights
from watermark.attacks.interface import State

STEPS, TUNING_STEPS = 30, 10


class Models:
    """A base, its fine-tune on other data, and a twin from a seed of its own, of one architecture."""

    def __init__(self, kind: str, task: str, other: str, rate: float) -> None:
        self.kind, self.other = kind, other
        states = [first_weights(Recipe(kind, task, seed)) for seed in (1, 2)]
        self.base, self.twin = (
            zoo_models.train(kind, state, task, seed, STEPS, rate) for seed, state in enumerate(states)
        )
        self.tuned = self.tune(self.base)

    def tune(self, state: State) -> State:
        return zoo_models.train(self.kind, state, self.other, 7, TUNING_STEPS, 1e-3)

    def subject(self, state: State) -> Subject:
        return zoo_models.subject_of(self.kind, state)

    def score(self, method: str, state: State) -> float:
        found = peers(common_tokens())[method](self.subject(self.base), self.subject(state))
        assert found is not None
        return found

    def stolen(self, name: str) -> State:
        return thefts_of(self.kind, self.tuned, dict.fromkeys(("fine-tuned", "fine-tuned for long", "LoRA merged")))[
            name
        ](self.base)


@pytest.fixture(scope="module")
def llama():
    return Models("llama", "text-a", "text-b", 6e-3)


@pytest.fixture(scope="module")
def perceptron():
    return Models("perceptron", "digits", "digits-half-a", 3e-3)


@pytest.mark.parametrize(
    ("method", "tuned_from", "twin_to"),
    [
        ("independence, constrained", 500, 10),
        ("independence, robust", 100, 10),
        ("AWM", 0.9, 0.2),
        ("HuRef", 0.8, 0.3),
        ("configuration, weights only", 0.9, 0.75),
        ("REEF", 0.8, 0.7),
    ],
)
def test_a_fine_tune_is_found_and_a_twin_is_not(llama, method, tuned_from, twin_to):
    assert llama.score(method, llama.tuned) > tuned_from
    assert llama.score(method, llama.twin) < twin_to


def test_the_constrained_test_answers_for_any_layers_and_is_void_after_a_reordering(perceptron):
    ours = perceptron.subject(perceptron.base)
    assert independence.constrained(ours, perceptron.subject(perceptron.tuned)) > 500
    for other in (perceptron.twin, perceptron.stolen("hidden units reordered")):
        assert independence.constrained(ours, perceptron.subject(other)) < 10
    wider = Subject("perceptron", {}, (torch.randn(40, 64), torch.randn(40, 40)))
    assert independence.constrained(ours, wider) is None


def test_its_p_values_are_those_of_chance_on_random_layers():
    stream = torch.Generator().manual_seed(3)

    def drawn() -> Subject:
        return Subject("", {}, tuple(torch.randn(24, 16, generator=stream) for _ in range(3)))

    bits = sorted(independence.constrained(drawn(), drawn()) for _ in range(200))
    assert 0.5 < bits[100] < 1.7  # the median of a uniform p is one bit
    assert bits[-1] < 14


def test_equal_layers_count_as_all_their_orders():
    units = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    same = Subject("", {}, (units,))
    assert independence.constrained(same, same) == pytest.approx(math.log2(math.factorial(12)))


def test_the_robust_test_stands_a_rotation_and_has_no_answer_without_gates(llama, perceptron):
    assert llama.score("independence, robust", llama.stolen("stream rotated")) > 500
    assert llama.score("independence, robust", llama.stolen("hidden units reordered")) > 500
    assert independence.robust(perceptron.subject(perceptron.base), perceptron.subject(perceptron.base)) is None


def test_awm_stands_signs_and_order_but_no_free_rotation_of_the_stream(llama):
    assert llama.score("AWM", llama.stolen("stream reordered")) > 0.99
    assert llama.score("AWM", llama.stolen("stream rotated")) < 0.3


def test_its_estimator_is_unbiased():
    stream = torch.Generator().manual_seed(5)

    def drawn() -> torch.Tensor:
        rows = torch.randn(32, 64, generator=stream).double()
        return awm._centred(rows @ rows.T)

    found = [float((drawn() * drawn()).sum()) for _ in range(100)]
    mean = torch.tensor(found)
    assert abs(mean.mean()) < 3 * mean.std() / 10


def test_invariant_terms_do_not_see_permutations_and_rotations(llama):
    for name in ("hidden units reordered", "stream reordered"):
        assert llama.score("HuRef", llama.stolen(name)) > 0.999
    # Gains stand between the embeddings and what reads them: without them a rotation is not seen either.
    plain = {name: torch.ones_like(one) if "norm" in name else one for name, one in llama.base.items()}
    turned = thefts_of("llama", plain, dict.fromkeys(("fine-tuned", "fine-tuned for long", "LoRA merged")))
    ours, theirs = (llama.subject(one) for one in (plain, turned["stream rotated"](plain)))
    assert huref.similarity(ours, theirs, common_tokens()) > 0.999


def test_one_configuration_is_a_match_whatever_the_weights(llama):
    assert llama.score("configuration", llama.twin) == 1.0
    assert llama.score("configuration", llama.stolen("25 % idle units added")) == 0.9
    assert configuration.describe(llama.subject(llama.base))["hidden"] == 128


def test_representations_do_not_see_what_leaves_the_function_alone(llama):
    assert llama.score("REEF", llama.stolen("stream rotated")) > 0.999
    assert reef.similarity(Subject("", {}, ()), Subject("", {}, ())) is None


def test_a_message_is_read_after_fine_tuning_and_nowhere_else(perceptron):
    kind = perceptron.kind
    marked = with_message(kind, "digits", perceptron.base)
    message = message_for(kind, marked)
    for state in (marked, perceptron.tune(marked)):
        assert message.found(zoo_models.carrier_of(kind, state)[1]) > 50
    for state in (perceptron.base, perceptron.twin):
        assert message.found(zoo_models.carrier_of(kind, state)[1]) < 14
    assert message.found(torch.randn(10, 9)) is None


def test_a_spread_pattern_is_found_in_place_and_by_its_key_alone(perceptron):
    marked = spread_spectrum.embed(perceptron.base, b"key", strength_of(perceptron.base))
    assert spread_spectrum.found(perceptron.tune(marked), perceptron.base, b"key") > 500
    assert spread_spectrum.found(marked, perceptron.base, b"another") < 14
    assert spread_spectrum.found(perceptron.twin, perceptron.base, b"key") < 14
    assert spread_spectrum.found({}, perceptron.base, b"key") == 0.0


def test_areas_and_rates_are_counted_over_what_is_answered_and_over_all():
    def pair(truth: str, score: float | None) -> dict[str, object]:
        return {"truth": truth, "suspect": "s", "answers": {"REEF": {"score": score}}}

    pairs = [pair("related", 3.0), pair("related", 1.0), pair("related", None), pair("unrelated", 2.0)]
    answered = zoo_tables.scores(pairs, "REEF", "related")
    every = zoo_tables.scores(pairs, "REEF", "related", answered=False)
    assert zoo_tables.area(answered, [2.0]) == 0.5
    assert zoo_tables.area(every, [2.0]) == pytest.approx(1 / 3)
    assert [zoo_tables.is_found(pairs, "REEF", one) for one in pairs] == [True, False, None, False]
