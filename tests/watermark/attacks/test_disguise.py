from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.states import CARRIED, MATRICES, same, small_state
from watermark.attacks import disguise
from watermark.errors import InputError


def test_renaming_keeps_every_tensor_under_a_name_that_says_nothing() -> None:
    state = small_state()
    names = disguise.new_names(state, seed=1)
    hidden = disguise.renamed(state, seed=1)
    assert set(hidden) == set(names.values())
    assert len(hidden) == len(state)
    assert not set(hidden) & set(state)
    assert all(same(hidden[names[name]], tensor) for name, tensor in state.items())
    assert list(hidden) == sorted(hidden)


def test_names_depend_on_the_seed_and_not_on_the_order() -> None:
    names = [f"layer.{index}" for index in range(40)]
    assert disguise.new_names(names, 1) == disguise.new_names(reversed(names), 1)
    assert disguise.new_names(names, 1) != disguise.new_names(names, 2)


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shards_hold_every_tensor_once_and_none_is_empty(shards: int) -> None:
    state = small_state()
    dealt = disguise.resharded(state, shards)
    assert len(dealt) == shards
    assert all(dealt)
    assert sorted(name for shard in dealt for name in shard) == sorted(state)
    assert all(same(tensor, state[name]) for shard in dealt for name, tensor in shard.items())


def test_shards_are_of_about_equal_size() -> None:
    state = {f"t{index}": torch.zeros(10 + index, 10) for index in range(30)}
    sizes = [sum(tensor.nbytes for tensor in shard.values()) for shard in disguise.resharded(state, 4)]
    assert max(sizes) < 1.1 * min(sizes)


def test_empty_tensors_leave_no_shard_empty() -> None:
    state = {"a": torch.zeros(0), "b": torch.zeros(0, 4), "c": torch.zeros(3)}
    assert [len(shard) for shard in disguise.resharded(state, 3)] == [1, 1, 1]


@pytest.mark.parametrize("shards", [0, 8])
def test_shards_that_cannot_be_filled_are_refused(shards: int) -> None:
    with pytest.raises(InputError, match=f"7 tensors do not fill {shards} shards"):
        disguise.resharded(small_state(), shards)


def test_transposed_copies_are_contiguous_and_undo_themselves() -> None:
    state = small_state()
    turned = disguise.transposed(state)
    assert turned["dense"].shape == (300, 64)
    assert turned["dense"].is_contiguous()
    assert same(turned["kernel"], state["kernel"])
    assert all(same(tensor, state[name]) for name, tensor in disguise.transposed(turned).items())


def test_mixed_types_are_all_used_and_keep_the_values() -> None:
    state = {f"t{index}": torch.randn(4, 4) for index in range(30)} | {
        name: small_state()[name] for name in (*MATRICES, *CARRIED)
    }
    mixed = disguise.dtype_mix(state, seed=1)
    types = {mixed[f"t{index}"].dtype for index in range(30)}
    assert types == {torch.float32, torch.float16, torch.bfloat16}
    for name in state:
        assert torch.allclose(mixed[name].float(), state[name].float(), rtol=2**-8)
    assert all(same(mixed[name], state[name]) for name in CARRIED)
