"""The strength map: cheaper at no fewer bits, in prediction and as found; nulls as silent as ever."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.watermark.marks.models import SECRET, mark_model, random_weights, read_weights, write_model
from watermark.evidence import predicted_bits_with_reference
from watermark.marks.detect import BLIND, DIFFERENCE, detect, score_span
from watermark.marks.geometry import Geometry
from watermark.marks.plan import plan_mark
from watermark.marks.secret import ReleaseKey
from watermark.marks.shaping import CAP, FLOOR, Sensitivity, group_tensors, predicted_cost, shape_strengths
from watermark.marks.spans import ChipSource, Sources, read_values
from watermark.marks.statistic import weighted_sum
from watermark.marks.survey import Survey, survey
from watermark.model.digest import spans_of
from watermark.model.directory import open_model

UNIFORM = 0.03


@pytest.fixture(scope="module")
def surveys(tmp_path_factory):
    draw = np.random.default_rng(1)
    weights = {
        f"layer.{n}.{name}": draw.normal(0, 0.05, (rows, 64)).astype(np.float32)
        for n in range(4)
        for name, rows in (("up", 256), ("mix", 64))
    }
    with open_model(write_model(tmp_path_factory.mktemp("shaping") / "model", weights)) as model:
        return survey(model).tensors


def bits(tensors, strengths, beta):
    """The law of the evidence against the reference, owner's layer, as it stands in the design."""
    return sum(
        predicted_bits_with_reference(t.survey.carriers, a * (2 / 3) ** 0.5, math.hypot(beta, a * (1 / 3) ** 0.5))
        for t, a in zip(tensors, strengths, strict=True)
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_shaped_mark_costs_less_and_shows_no_fewer_bits(surveys, seed):
    draw = np.random.default_rng(seed)
    tensors = [Sensitivity(one, one.carriers * 10.0 ** draw.uniform(-8, -6)) for one in surveys]
    ppm = shape_strengths(tensors, UNIFORM)
    alphas = [strength / 1e6 for strength in ppm]
    everywhere = [30_000] * len(tensors)
    assert predicted_cost(tensors, ppm) < predicted_cost(tensors, everywhere)
    for beta in (0.1, 0.2, 0.4):
        assert bits(tensors, alphas, beta) >= bits(tensors, [UNIFORM] * len(tensors), beta)
    key = ReleaseKey.of(SECRET, bytes(32))
    found = Survey(surveys, bytes(32))
    shape = {t.survey.digest.hex(): strength for t, strength in zip(tensors, ppm, strict=True)}
    uniform, shaped = (plan_mark(key, found, strength=UNIFORM, shape=given) for given in (None, shape))
    assert shaped.expected_log2_p <= uniform.expected_log2_p
    assert all(FLOOR * UNIFORM <= alpha <= CAP for alpha in alphas)
    # Where neither floor nor cap is met, every weight pays the same.
    paid = [
        a * a * t.cost / t.survey.carriers
        for t, a in zip(tensors, alphas, strict=True)
        if 1.001 * FLOOR * UNIFORM < a < CAP * 0.999
    ]
    assert max(paid) < 1.001 * min(paid)


def test_without_differences_without_knowledge_and_at_the_cap_strengths_stay_alike(surveys):
    alike = [Sensitivity(one, one.carriers * 1e-7) for one in surveys]
    assert set(shape_strengths(alike, UNIFORM)) <= {30_000, 30_001}
    unknown = [Sensitivity(one, None) for one in surveys]
    assert set(shape_strengths(unknown, UNIFORM)) == {30_000}
    differing = [Sensitivity(one, one.carriers * 10.0**-n) for n, one in enumerate(surveys)]
    assert set(shape_strengths(differing, CAP)) == {100_000}
    one_unknown = [Sensitivity(surveys[0], None), *differing[1:]]
    assert shape_strengths(one_unknown, UNIFORM)[0] == 30_000


def test_of_marks_of_one_cost_the_shaped_one_is_the_hardest_to_drown():
    # A thief who knows the map and the costs spends his own cost where it takes most: noise y_t with sum C y = D that
    # makes sum N x / y least leaves (sum N sqrt(c x))^2 / D.
    draw = np.random.default_rng(3)
    for _ in range(200):
        count, cost = draw.integers(1, 100, 12) * 1e3, 10.0 ** draw.uniform(-8, -5, 12)
        marks = {
            "shaped": 1 / cost,
            "uniform": np.ones(12),
            "least cost": np.where(cost == cost.min(), 1.0, 0.0),
            "half way": cost**-0.5,
        }
        left = {}
        for name, power in marks.items():
            x = power / (count * cost * power).sum()
            best = np.sqrt(x / cost)
            noise = best / (count * cost * best).sum()
            shown = np.divide(count * x, noise, out=np.zeros(12), where=noise > 0).sum()
            assert shown == pytest.approx((count * np.sqrt(cost * x)).sum() ** 2)
            # Other noise of the same cost leaves him more to explain.
            other = best * draw.uniform(0.5, 2, 12)
            other /= (count * cost * other).sum()
            assert np.divide(count * x, other, out=np.zeros(12), where=other > 0).sum() >= 0.999 * shown
            left[name] = shown
        assert left["shaped"] == max(left.values())
        assert left["least cost"] == min(left.values())


def test_tensors_are_grouped_by_shape_role_and_depth_within_a_bound(surveys):
    for most in (1, 2, 3, 4, 7, 8, 32):
        groups = group_tensors(surveys, most)
        assert len(groups) <= most
        assert sorted(t.digest for group in groups for t in group) == [t.digest for t in surveys]
    assert [len(group) for group in group_tensors(surveys, 8)] == [1] * 8
    halves = group_tensors(surveys, 5)
    assert [[t.names[0] for t in group] for group in halves] == [
        ["layer.0.mix", "layer.1.mix"],
        ["layer.2.mix", "layer.3.mix"],
        ["layer.0.up", "layer.1.up"],
        ["layer.2.up", "layer.3.up"],
    ]
    renamed = [replace(t, names=(f"w{chr(97 + n)}",)) for n, t in enumerate(surveys)]
    assert [len(group) for group in group_tensors(renamed, 4)] == [2, 2, 2, 2]


@pytest.fixture(scope="module")
def shaped(tmp_path_factory):
    """Three matrices marked at 1.5, 3 and 10 %."""
    folder = tmp_path_factory.mktemp("shaped")
    reference = write_model(folder / "reference", random_weights(seed=5))
    return mark_model(reference, folder / "copies", shape={"up": 15_000, "down": 30_000, "mix": 100_000})


def shown_in(marked, folder, chips=None, weights=True):
    with open_model(marked.reference) as reference, open_model(folder) as suspect:
        sources, carriers = Sources(suspect, reference), marked.carriers(reference, suspect)
        if not weights:
            carriers = [replace(one, marked=replace(one.marked, weight=1.0)) for one in carriers]
        return {test.name: test for test in detect(sources, carriers, chips or marked.chips, [BLIND, DIFFERENCE])}


def noisy(folder, out, sigma):
    draw = np.random.default_rng(8)
    weights = {name: w + draw.normal(0, sigma * w.std(), w.shape) for name, w in read_weights(folder).items()}
    return write_model(out, {name: w.astype(np.float32) for name, w in weights.items()})


def test_tensors_weigh_by_their_strength_and_show_what_the_law_says(shaped, tmp_path):
    suspect = noisy(shaped.copies[0], tmp_path / "noisy", 0.4)
    found, flat = shown_in(shaped, suspect), shown_in(shaped, suspect, weights=False)
    law = sum(
        predicted_bits_with_reference(t.layout.count, t.alpha * (2 / 3) ** 0.5, 0.4)
        for t in shaped.plan.geometry.marked
    )
    assert -found[DIFFERENCE].log2_p == pytest.approx(law, rel=0.25)
    assert found[DIFFERENCE].log2_p < 1.3 * flat[DIFFERENCE].log2_p
    untouched = shown_in(shaped, shaped.copies[0])[BLIND]
    assert untouched.z == pytest.approx(math.sqrt(-shaped.plan.expected_log2_p * 2 * math.log(2)), abs=4.5)


def test_a_shaped_mark_accuses_nobody_else(shaped, tmp_path):
    wrong = ChipSource.of(ReleaseKey(b"w" * 32).block_secrets(), shaped.embedder.stretched)
    innocent = write_model(tmp_path / "innocent", random_weights(seed=500))
    for found in (
        shown_in(shaped, shaped.copies[0], wrong),
        shown_in(shaped, innocent),
        shown_in(shaped, noisy(shaped.reference, tmp_path / "noisy", 0.1)),
    ):
        assert all(test.log2_p > -20 for test in found.values())


def test_under_wrong_keys_the_weighted_statistic_is_normal(shaped):
    # z under keys that nobody marked with: mean 0 and deviation 1 whatever the weights are.
    with open_model(shaped.reference) as reference, open_model(shaped.copies[0]) as suspect:
        carriers = shaped.carriers(reference, suspect)
        values = [
            (read_values(Sources(suspect, reference), one, span), one, span)
            for one in carriers
            for span in spans_of(one.suspect)
        ]
        z = []
        for number in range(100):
            chips = ChipSource.of(ReleaseKey(number.to_bytes(32, "big")).block_secrets(), shaped.embedder.stretched)
            for name in (BLIND, DIFFERENCE):
                total, energy, _ = weighted_sum([score_span(*one, chips, [name])[name] for one in values])
                z.append(total / math.sqrt(energy))
    assert abs(np.mean(z)) < 4.5 / math.sqrt(len(z))
    assert np.std(z) == pytest.approx(1, abs=4.5 / math.sqrt(2 * len(z)))


def test_only_a_shaped_geometry_states_the_weighted_statistic(shaped, marked):
    plain, formed = marked.plan.geometry, shaped.plan.geometry
    assert b'"statistic":1' in plain.document()
    assert b'"statistic":2' in formed.document()
    assert {tensor.weight for tensor in plain.marked} == {1.0}
    assert sorted(tensor.weight for tensor in formed.marked) == [0.15, 0.3, 1.0]
    assert Geometry.from_document(formed.document()) == formed
