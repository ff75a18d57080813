from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.states import same, small_state
from watermark.attacks.merging import dare, linear, slerp, soup, task_arithmetic, ties
from watermark.errors import InputError


def test_merge_is_the_weighted_mean_of_every_float_tensor() -> None:
    ours, other = small_state(0), small_state(1)
    merged = linear(ours, other, 0.3)
    for name in ("embedding", "dense", "kernel", "bias"):
        assert torch.allclose(merged[name], 0.7 * ours[name] + 0.3 * other[name])
    assert merged["half"].dtype == torch.bfloat16
    assert same(merged["codes"], ours["codes"])


def test_share_of_none_and_of_all() -> None:
    ours, other = small_state(0), small_state(1)
    assert same(linear(ours, other, 0.0)["dense"], ours["dense"])
    assert same(linear(ours, other, 1.0)["dense"], other["dense"])


def test_negative_share_extrapolates() -> None:
    merged = linear({"w": torch.tensor([[3.0]])}, {"w": torch.tensor([[1.0]])}, -1.0)
    assert merged["w"].item() == 5.0


def test_inputs_are_untouched() -> None:
    ours, other = small_state(0), small_state(1)
    linear(ours, other, 0.5)
    assert all(same(ours[name], tensor) for name, tensor in small_state(0).items())
    assert all(same(other[name], tensor) for name, tensor in small_state(1).items())


def test_missing_partner_is_named() -> None:
    with pytest.raises(InputError, match=r"'dense' \(64, 300\): the other model lacks it"):
        linear(small_state(), {k: v for k, v in small_state().items() if k != "dense"}, 0.5)


def test_partner_of_another_shape_is_named() -> None:
    other = small_state() | {"dense": torch.zeros(64, 299)}
    with pytest.raises(InputError, match=r"has it as \(64, 299\)"):
        linear(small_state(), other, 0.5)


def test_soup_is_the_mean_of_all() -> None:
    models = [small_state(seed) for seed in range(4)]
    found = soup(models[0], models[1:])
    assert torch.allclose(found["bias"], torch.stack([model["bias"] for model in models]).mean(dim=0))
    assert same(found["codes"], models[0]["codes"])


def test_slerp_keeps_the_length_and_divides_the_angle() -> None:
    ours, other = small_state(0), small_state(1)
    for name in ("embedding", "kernel", "bias"):
        own, theirs = ours[name].double(), other[name].double() * ours[name].norm() / other[name].norm()
        found = slerp(ours, {**other, name: theirs.float()}, 0.25)[name].double()
        assert float(found.norm() / own.norm()) == pytest.approx(1, abs=1e-4)
        assert float(angle(own, found) / angle(own, theirs)) == pytest.approx(0.25, abs=1e-3)


def angle(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return ((left * right).sum() / left.norm() / right.norm()).acos()


def test_slerp_between_parallel_tensors_is_straight() -> None:
    found = slerp({"w": torch.ones(2, 2), "z": torch.zeros(2)}, {"w": 3 * torch.ones(2, 2), "z": torch.ones(2)}, 0.5)
    assert torch.allclose(found["w"], torch.full((2, 2), 2.0))
    assert torch.allclose(found["z"], torch.full((2,), 0.5))


def test_task_arithmetic_adds_differences_to_the_base() -> None:
    ours, other, base = ({"w": torch.tensor([value])} for value in (3.0, 5.0, 1.0))
    assert task_arithmetic(ours, [other], base, 0.5)["w"].item() == 1 + 0.5 * (2 + 4)


def test_ties_keeps_the_largest_and_averages_what_agrees() -> None:
    base = {"w": torch.tensor([10.0, 10.0, 10.0, 10.0])}
    ours = {"w": torch.tensor([13.0, 10.1, 10.0, 8.0])}
    other = {"w": torch.tensor([12.0, 9.0, 14.0, 10.2])}
    # Kept of ours: +3 and -2; of the other: +2 and +4. The one weight where both speak agrees: (3 + 2) / 2.
    assert ties(ours, [other], base, keep=0.5)["w"].tolist() == [12.5, 10.0, 14.0, 8.0]
    against = {"w": torch.tensor([9.0, 9.0, 10.0, 10.2])}
    # -1 against +3: the sum is positive, so only +3 counts.
    assert ties(ours, [against], base, keep=0.5)["w"].tolist() == [13.0, 9.0, 10.0, 8.0]


def test_dare_drops_its_share_and_keeps_the_mean() -> None:
    base, ours = {"w": torch.zeros(200, 200)}, {"w": torch.ones(200, 200)}
    found = dare(ours, [], base, drop=0.9, seed=1)["w"]
    assert found.unique().tolist() == pytest.approx([0.0, 10.0])
    assert float(found.mean()) == pytest.approx(1.0, abs=0.06)
    again, other = (dare(ours, [], base, drop=0.9, seed=seed)["w"] for seed in (1, 2))
    assert torch.equal(found, again)
    assert not torch.equal(found, other)


@pytest.mark.parametrize("merge", [
    lambda ours, other: soup(ours, [other]),
    lambda ours, other: slerp(ours, other, 0.5),
    lambda ours, other: task_arithmetic(ours, [], other, 1.0),
    lambda ours, other: ties(ours, [ours], other),
    lambda ours, other: dare(ours, [ours], other, 0.5, 1),
])  # fmt: skip
def test_every_merge_names_the_partner_that_is_missing_and_leaves_its_input(merge) -> None:  # type: ignore[no-untyped-def]
    ours, other = small_state(0), small_state(1)
    merge(ours, other)
    assert all(same(ours[name], tensor) for name, tensor in small_state(0).items())
    assert all(same(other[name], tensor) for name, tensor in small_state(1).items())
    with pytest.raises(InputError, match="'dense'"):
        merge(ours, {name: tensor for name, tensor in other.items() if name != "dense"})


def test_dropping_everything_is_refused() -> None:
    with pytest.raises(InputError, match="all differences"):
        dare(small_state(), [], small_state(1), drop=1.0, seed=1)
