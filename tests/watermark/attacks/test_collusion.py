from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.states import same, small_state
from watermark.attacks.collusion import COLLUSIONS, collusion, minority_extreme, zero_differing
from watermark.errors import InputError


def copies_of(count: int) -> list[dict[str, torch.Tensor]]:
    """Copies that differ a little in each float weight, as those of several recipients do."""
    found = []
    for number in range(count):
        draw = torch.Generator().manual_seed(number)
        found.append(
            {
                name: tensor + 0.01 * torch.randn(tensor.shape, generator=draw).to(tensor.dtype)
                if tensor.is_floating_point()
                else tensor
                for name, tensor in small_state(0).items()
            }
        )
    return found


def of_rows(*rows: list[float]) -> list[dict[str, torch.Tensor]]:
    return [{"w": torch.tensor([row])} for row in rows]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean", [3.0, 1.0]),
        ("median", [2.0, 2.0]),
        ("minimum", [1.0, -3.0]),
        ("maximum", [6.0, 4.0]),
        ("mid-range", [3.5, 0.5]),
        ("modified-negative", [5.0, -1.0]),
        ("minority-extreme", [6.0, -3.0]),
        ("minority-extreme-x10", [33.0, -39.0]),
    ],
)
def test_each_rule_by_hand(name: str, expected: list[float]) -> None:
    assert collusion(name)(of_rows([1.0, 4.0], [2.0, -3.0], [6.0, 2.0]))["w"].tolist() == [expected]


def test_median_of_an_even_number_lies_between() -> None:
    assert collusion("median")(of_rows([1.0], [2.0], [4.0], [9.0]))["w"].item() == 3.0


def test_random_pick_takes_each_copy_about_as_often() -> None:
    copies = [{"w": torch.full((100, 100), float(number))} for number in range(4)]
    picked = collusion("random-pick")(copies, seed=1)["w"]
    shares = [(picked == number).float().mean().item() for number in range(4)]
    assert sum(shares) == pytest.approx(1.0)
    assert all(0.22 < share < 0.28 for share in shares)


def test_random_extreme_never_takes_what_lies_between() -> None:
    copies = [{"w": torch.full((100, 100), float(number))} for number in range(4)]
    picked = collusion("random-extreme")(copies, seed=1)["w"]
    assert set(picked.unique().tolist()) == {0.0, 3.0}


def test_mosaic_takes_each_tensor_whole_and_not_all_from_one() -> None:
    copies = [{str(place): torch.full((4, 4), float(number)) for place in range(20)} for number in range(3)]
    taken = collusion("mosaic")(copies, seed=1)
    assert all(len(tensor.unique()) == 1 for tensor in taken.values())
    assert {tensor[0, 0].item() for tensor in taken.values()} == {0.0, 1.0, 2.0}


def test_zeroed_are_the_weights_that_differ_most() -> None:
    found = zero_differing(0.25)(of_rows([1.0, 1.0, 1.0, 1.0], [1.0, 1.5, 9.0, 1.0]))["w"]
    assert found.tolist() == [[1.0, 1.25, 0.0, 1.0]]


@pytest.mark.parametrize("name", COLLUSIONS)
def test_same_seed_same_model_and_copies_untouched(name: str) -> None:
    copies = copies_of(4)
    first, again = collusion(name)(copies, seed=5), collusion(name)(copies, seed=5)
    assert list(first) == list(copies[0])
    assert all(same(first[key], again[key]) for key in first)
    assert all(first[key].dtype == copies[0][key].dtype and first[key].shape == copies[0][key].shape for key in first)
    assert all(same(copy[key], fresh[key]) for copy, fresh in zip(copies, copies_of(4), strict=True) for key in copy)


def test_slices_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = collusion("mid-range")(copies_of(3))
    monkeypatch.setattr("watermark.attacks.collusion._SLICE", 1_000)
    assert all(same(tensor, whole[name]) for name, tensor in collusion("mid-range")(copies_of(3)).items())


def test_one_copy_is_no_coalition() -> None:
    with pytest.raises(InputError, match="1 copies cannot collude"):
        collusion("mean")(copies_of(1))


def test_copies_of_different_models_are_refused() -> None:
    copies = copies_of(3)
    copies[2]["dense"] = torch.zeros(2, 2)
    for name in ("mean", "mosaic"):
        with pytest.raises(InputError, match="copy 3 lacks 'dense' or has it in another shape"):
            collusion(name)(copies)


def test_unknown_rule_is_named() -> None:
    with pytest.raises(InputError, match="no collusion is called 'majority'"):
        collusion("majority")


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"share of zeroed weights is 1\.5"):
        zero_differing(1.5)


def test_amplified_by_one_is_the_extreme() -> None:
    copies = of_rows([1.0, 4.0], [2.0, -3.0], [6.0, 2.0])
    assert same(minority_extreme(1.0)(copies)["w"], collusion("minority-extreme")(copies)["w"])
