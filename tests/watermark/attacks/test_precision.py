from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.states import MATRICES, rows_of, same, small_state
from watermark.attacks import precision
from watermark.attacks.interface import State
from watermark.errors import InputError


def test_bf16_casts_every_float_tensor() -> None:
    state = small_state()
    cast = precision.to_bf16(state)
    for name in (*MATRICES, "bias"):
        assert same(cast[name], state[name].to(torch.bfloat16))
    assert cast["positions"].dtype == torch.int64


def test_fp16_clamps_what_it_cannot_hold() -> None:
    cast = precision.to_fp16({"w": torch.tensor([[1e6, -1e6, 0.5]])})["w"]
    assert cast.tolist() == [[65504.0, -65504.0, 0.5]]


def test_casts_read_8_bit_floats() -> None:
    weights = torch.randn(4, 4).to(torch.float8_e4m3fn)
    assert torch.equal(precision.to_bf16({"w": weights})["w"].float(), weights.float())


@pytest.mark.parametrize("name", ["embedding", "dense", "kernel"])
def test_int8_leaves_255_even_steps_a_row(name: str) -> None:
    before = rows_of(small_state()[name])
    after = rows_of(precision.int8_per_channel(small_state())[name])
    step = before.abs().amax(dim=1, keepdim=True) / 127
    codes = after / step
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert bool((codes.round().abs() <= 127).all())
    assert bool(((after - before).abs() <= step * 0.5001).all())
    # Equality of the largest weight shows that the whole range is used.
    assert torch.allclose(after.abs().amax(dim=1), before.abs().amax(dim=1))


def test_int8_codes_times_scales_are_the_simulated_weights() -> None:
    state = small_state()
    codes, simulated = precision.int8_codes(state), precision.int8_per_channel(state)
    for name in ("embedding", "dense", "kernel"):
        assert codes[name].dtype == torch.int8
        assert codes[name].shape == state[name].shape
        scale = codes[f"{name}.scale"]
        assert scale.dtype == torch.float32
        assert scale.shape == (state[name].shape[0],)
        restored = rows_of(codes[name]).float() * scale[:, None]
        assert torch.equal(restored, simulated[name].reshape(restored.shape))
    assert "bias.scale" not in codes


def test_int8_codes_do_not_overwrite_a_tensor() -> None:
    state = {"w": torch.randn(2, 2), "w.scale": torch.randn(2)}
    with pytest.raises(InputError, match=r"'w\.scale' exists already"):
        precision.int8_codes(state)


@pytest.mark.parametrize(("bits", "levels"), [(4, 16), (2, 4), (8, 256)])
def test_groups_hold_as_many_levels_as_their_bits_allow(bits: int, levels: int) -> None:
    before = rows_of(small_state()["dense"])
    after = rows_of(precision.integer_groups(small_state(), bits=bits, group=128)["dense"])
    for row in (0, 63):
        for start in (0, 128, 256):
            was, now = before[row, start : start + 128], after[row, start : start + 128]
            assert len(now.unique()) <= levels
            step = (was.max() - was.min()) / (levels - 1)
            assert bool(((now - was).abs() <= step * 0.501).all())
            assert torch.allclose(torch.stack([now.min(), now.max()]), torch.stack([was.min(), was.max()]))


def test_int4_uses_all_sixteen_levels_of_a_full_group() -> None:
    after = precision.int4_groups({"w": torch.linspace(-1, 1, 256).reshape(2, 128)})["w"]
    assert [len(row.unique()) for row in after] == [16, 16]


@pytest.mark.parametrize(("bits", "group"), [(0, 128), (9, 128), (4, 0)])
def test_impossible_groups_are_refused(bits: int, group: int) -> None:
    with pytest.raises(InputError, match="cannot quantise"):
        precision.integer_groups(small_state(), bits=bits, group=group)


def test_nf4_rounds_to_its_nearest_value() -> None:
    before = small_state()["embedding"].reshape(-1)
    after = precision.nf4(small_state())["embedding"].reshape(-1)
    values = torch.tensor(precision.NF4_VALUES)
    for start in (0, 64, 300 * 40 - 300 * 40 % 64 - 64):
        was, now = before[start : start + 64], after[start : start + 64]
        scale = was.abs().max()
        nearest = values[(was[:, None] / scale - values).abs().argmin(dim=1)] * scale
        assert torch.allclose(now, nearest)
        assert len(now.unique()) <= 16


@pytest.mark.parametrize(
    "attack",
    [
        precision.int8_per_channel,
        precision.int8_codes,
        precision.int4_groups,
        precision.nf4,
        precision.ternary,
        lambda state: precision.fp8(state, "e4m3"),
    ],
)
def test_zero_weights_stay_zero(attack) -> None:  # type: ignore[no-untyped-def]
    state: State = {"w": torch.zeros(4, 200)}
    assert not bool(attack(state)["w"].any())


@pytest.mark.parametrize(("form", "bits"), [("e4m3", 3), ("e5m2", 2)])
def test_fp8_keeps_as_many_bits_of_each_weight(form: str, bits: int) -> None:
    before = small_state()["embedding"]
    after = precision.fp8(small_state(), form)["embedding"]
    scale = before.abs().max() / torch.finfo(precision.FP8[form]).max
    ordinary = before.abs() > before.abs().max() / 100
    assert bool(((after - before).abs()[ordinary] <= before.abs()[ordinary] * 2.0**-bits * 0.5001).all())
    assert torch.equal((after / scale).to(precision.FP8[form]).float() * scale, after)
    assert after.abs().max() == pytest.approx(float(before.abs().max()))


def test_fp8_of_an_unknown_form_is_refused() -> None:
    with pytest.raises(InputError, match="no 8-bit float is called 'e3m4'"):
        precision.fp8(small_state(), "e3m4")


def test_three_values_a_row_and_the_signs_of_the_large() -> None:
    before = rows_of(small_state()["dense"])
    after = rows_of(precision.ternary(small_state())["dense"])
    for was, now in zip(before, after, strict=True):
        levels = now.unique()
        assert len(levels) == 3
        assert levels[1] == 0
        assert levels[0] == -levels[2]
        large = was.abs() > 0.7 * was.abs().mean()
        assert torch.equal(now.sign(), was.sign() * large)
        assert float(levels[2]) == pytest.approx(float(was.abs()[large].mean()), rel=1e-5)
