"""From statistics to log2 p: bounds, extremes, and what multiplicity costs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watermark.evidence import (
    KeyedTest,
    add_multiplicity,
    default_strength,
    log2_p_subgaussian,
    predicted_bits_blind,
    predicted_bits_with_reference,
)


def test_known_values():
    assert log2_p_subgaussian(10, 100) == pytest.approx(-0.5 / math.log(2))
    assert log2_p_subgaussian(-10, 100) == 0.0
    assert log2_p_subgaussian(0, 0) == 0.0
    assert log2_p_subgaussian(5, 0) == 0.0


def test_the_bound_covers_every_sign_pattern_of_few_terms():
    weights = [3, 5, 7, 1, 1, 2]
    energy = sum(w * w for w in weights)
    totals = [sum(w if n >> i & 1 else -w for i, w in enumerate(weights)) for n in range(64)]
    for total in totals:
        exact = sum(t >= total for t in totals) / 64
        assert 2 ** log2_p_subgaussian(total, energy) >= exact or total <= 0


@given(st.integers(-(2**4000), 2**4000), st.integers(0, 2**8000))
def test_no_size_of_integers_gives_nan_or_a_positive_number(total, energy):
    log2_p = log2_p_subgaussian(total, energy)
    assert not math.isnan(log2_p)
    assert log2_p <= 0


@given(st.integers(1, 2**200), st.integers(1, 2**200), st.integers(0, 500))
def test_the_unit_of_the_statistic_does_not_matter(total, energy, shift):
    plain, scaled = log2_p_subgaussian(total, energy), log2_p_subgaussian(total << shift, energy << (2 * shift))
    assert scaled == pytest.approx(plain, rel=1e-9)


def test_multiplicity_is_added_and_never_makes_p_exceed_one():
    assert add_multiplicity(-100.0, [8, 4, 1, 0]) == -95.0
    assert add_multiplicity(-1.0, [1024]) == 0.0


def test_strength_follows_the_number_of_carriers_within_its_bounds():
    assert default_strength(22_500_000) == pytest.approx(0.0096, abs=2e-4)
    assert default_strength(10**12) == 0.005
    assert default_strength(1_000) == 0.10
    assert default_strength(0) == 0.10


def test_the_two_laws_agree_with_their_published_form():
    assert predicted_bits_blind(22_500_000, 0.01) == pytest.approx(0.7213 * 2250, rel=1e-3)
    assert predicted_bits_with_reference(22_500_000, 0.01, 0.4) == pytest.approx(0.7213 * 22.5e6 / 1601, rel=1e-3)


def test_a_test_tells_its_z_and_an_empty_one_has_none():
    assert KeyedTest("t", 30, 100, 5).z == 3.0
    assert KeyedTest("t", 0, 0, 0).z == 0.0
