"""A low-rank adapter keeps its mark through every way of storing it that costs nothing; others show none of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.attacks.marked_victims import Victim
from tests.attacks.victims import edits_of, module_of, write
from watermark.attacks.adapters import add_to_base, factor_names, mix_inner_dimension, widen_inner_dimension
from watermark.attacks.disguise import renamed, transposed
from watermark.attacks.interface import State
from watermark.attacks.precision import int8_per_channel

RANK, SCALE = 16, 2.0


def base_state(seed: int = 3) -> State:
    return dict(module_of("llama", seed, hidden_size=256, intermediate_size=512).state_dict())


def adapter(base: State, seed: int) -> State:
    """Factors as training leaves them: the one that reads near its start, the one that writes no longer zero."""
    stream = torch.Generator().manual_seed(seed)
    factors: State = {}
    for name, weight in base.items():
        if "_proj" in name:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            outputs, inputs = weight.shape
            spread = torch.linspace(1, 0.3, RANK)  # some directions are used more
            factors[f"{stem}.lora_A.weight"] = torch.randn(RANK, inputs, generator=stream) / inputs**0.5
            factors[f"{stem}.lora_B.weight"] = 0.01 * spread * torch.randn(outputs, RANK, generator=stream)
    return factors


@pytest.fixture(scope="module")
def victim(tmp_path_factory) -> tuple[Victim, Path]:
    folder = tmp_path_factory.mktemp("adapter")
    base = base_state()
    return Victim(folder, adapter(base, 1)), write(folder / "base", base)


def test_mixed_and_widened_inner_dimensions_cost_almost_nothing(victim):
    marked, _ = victim
    mixed = mix_inner_dimension(marked.state, 1)
    assert marked.plain(mixed).log2_p > -16  # as it stands, nothing is left
    assert marked.shown_in(mixed).z > 0.9 * marked.untouched_z
    wider = mix_inner_dimension(widen_inner_dimension(marked.state, 2), 3)
    assert marked.shown_in(wider).z > 0.9 * marked.untouched_z
    assert "inner dimension of adapters mixed in" in marked.shown_in(wider).alignment.undone[0]


def test_names_layout_and_rounding_on_top(victim):
    marked, _ = victim
    hidden = int8_per_channel(transposed(renamed(mix_inner_dimension(marked.state, 4), 5)))
    assert marked.shown_in(hidden).test.log2_p < -1_000


def test_an_adapter_added_to_its_base_is_found_in_the_difference(victim):
    marked, base = victim
    merged = add_to_base(marked.state, base_state(), SCALE)
    assert marked.shown_in(merged, base).test.log2_p < -1_000
    assert marked.shown_in({name: values.bfloat16() for name, values in merged.items()}, base).test.log2_p < -1_000
    for seed, name in enumerate(("hidden permuted", "heads permuted")):
        merged = edits_of("llama")[name].run(merged, seed)
    assert marked.shown_in(merged, base).test.log2_p < -1_000


def test_other_adapters_and_wrong_keys_show_nothing(victim):
    marked, base = victim
    for seed in range(3):
        other = adapter(base_state(), 100 + seed)
        assert marked.shown_in(mix_inner_dimension(other, seed), base).test.log2_p > -16
        assert marked.shown_in(add_to_base(other, base_state(), SCALE), base).test.log2_p > -16
    reference = adapter(base_state(), 1)  # unmarked
    assert marked.shown_in(mix_inner_dimension(reference, 7), base).test.log2_p > -16
    assert marked.shown_in(add_to_base(reference, base_state(), SCALE), base).test.log2_p > -16
    tests = marked.wrong_keys(mix_inner_dimension(marked.state, 1), 2_000)
    spread = torch.tensor([test.z for test in tests]).std().item()
    assert 0.94 < spread < 1.06
    assert min(test.log2_p for test in tests) > -20


def test_every_factor_of_the_reference_finds_its_own(victim):
    marked, _ = victim
    found = marked.shown_in(mix_inner_dimension(marked.state, 1)).alignment
    assert len(found.placements) == 2 * sum(1 for _ in factor_names(marked.state))
    assert found.explained > 0.95
