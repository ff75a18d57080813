"""What every attack promises: a new dict, the same each time, the input and the untargeted tensors untouched."""

from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.states import CARRIED, MATRICES, same, small_state
from watermark.attacks.catalogue import ATTACKS, attack, in_order
from watermark.attacks.interface import each_target, generator, is_target, require_share
from watermark.errors import InputError

CASTS = {"bf16", "fp16"}


@pytest.mark.parametrize("name", ATTACKS)
def test_input_is_untouched_and_shares_no_memory(name: str) -> None:
    state, pristine = small_state(), small_state()
    attacked = ATTACKS[name](state)
    assert list(state) == list(pristine)
    for key, tensor in pristine.items():
        assert same(state[key], tensor), key
    for tensor in attacked.values():
        tensor.zero_()
    for key, tensor in pristine.items():
        assert same(state[key], tensor), key


@pytest.mark.parametrize("name", ATTACKS)
def test_same_input_gives_same_bits(name: str) -> None:
    first, second = ATTACKS[name](small_state()), ATTACKS[name](small_state())
    assert list(first) == list(second)
    assert all(same(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"rename"}))
def test_result_does_not_depend_on_the_order_of_the_dict(name: str) -> None:
    state = small_state()
    reordered = {key: state[key] for key in reversed(state)}
    first, second = ATTACKS[name](state), ATTACKS[name](reordered)
    assert all(same(first[key], second[key]) for key in state)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"rename"}))
def test_vectors_and_integers_are_carried(name: str) -> None:
    state = small_state()
    attacked = ATTACKS[name](state)
    carried = set(CARRIED) - {"bias"} if name in CASTS else CARRIED
    assert all(same(attacked[key], state[key]) for key in carried)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"none", "rename", "transpose", "dtype-mix", *CASTS}))
def test_every_matrix_changes_and_keeps_shape_and_type(name: str) -> None:
    state = small_state()
    attacked = ATTACKS[name](state)
    for key in MATRICES:
        assert attacked[key].dtype == state[key].dtype
        assert attacked[key].shape == state[key].shape
        assert not same(attacked[key], state[key]), key
        assert bool(torch.isfinite(attacked[key].float()).all())


def test_none_changes_nothing() -> None:
    state = small_state()
    assert all(same(tensor, state[key]) for key, tensor in attack("none")(state).items())


def test_unknown_attack_is_refused_with_the_names() -> None:
    with pytest.raises(InputError) as refused:
        attack("prune-33")
    assert "'prune-33'" in str(refused.value)
    assert "prune-30" in (refused.value.hint or "")


def test_chain_runs_the_first_attack_first() -> None:
    state = small_state()
    chained = in_order(attack("prune-30"), attack("bf16"))(state)
    by_hand = attack("bf16")(attack("prune-30")(state))
    other_order = attack("prune-30")(attack("bf16")(state))
    assert all(same(chained[key], by_hand[key]) for key in state)
    assert not all(same(chained[key], other_order[key]) for key in state)


def test_targets_are_float_tensors_of_two_dimensions() -> None:
    state = small_state()
    assert {name for name, tensor in state.items() if is_target(tensor)} == set(MATRICES)
    assert not is_target(torch.empty(0, 4))


def test_double_precision_is_not_narrowed_on_the_way() -> None:
    weights = torch.full((2, 2), 1.0 + 2.0**-40, dtype=torch.float64)
    assert same(each_target({"w": weights}, lambda _name, rows: rows)["w"], weights)


def test_each_tensor_has_its_own_random_stream() -> None:
    first = torch.randn(4, generator=generator(1, "a"))
    assert not torch.equal(first, torch.randn(4, generator=generator(1, "b")))
    assert not torch.equal(first, torch.randn(4, generator=generator(2, "a")))
    assert torch.equal(first, torch.randn(4, generator=generator(1, "a")))


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan"), float("inf")])
def test_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="the share to prune"):
        require_share(share, what="the share to prune")
