from __future__ import annotations

import pytest
import torch

from watermark.attacks.calibrated import Inputs, awq, gptq, inputs_of
from watermark.attacks.interface import State
from watermark.attacks.precision import integer_groups

LAYERS = ("0.weight", "2.weight")


@pytest.fixture
def module() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(64, 200), torch.nn.ReLU(), torch.nn.Linear(200, 32))


@pytest.fixture
def examples() -> torch.Tensor:
    stream = torch.Generator().manual_seed(4)
    mixing = torch.logspace(-1, 1, 64)[:, None] * torch.randn(64, 64, generator=stream)
    mixing[:, ::20] *= 30  # a few inputs are far larger than the others, as in language models
    return torch.randn(500, 64, generator=stream) @ mixing


@pytest.fixture
def inputs(module: torch.nn.Module, examples: torch.Tensor) -> dict[str, Inputs]:
    return inputs_of(module, lambda seen: [seen(piece) for piece in examples.split(100)])


def output_error(weight: torch.Tensor, attacked: torch.Tensor, fed: torch.Tensor) -> float:
    return float((fed @ (attacked - weight).T).norm())


def test_inputs_are_those_of_each_layer(
    module: torch.nn.Module, examples: torch.Tensor, inputs: dict[str, Inputs]
) -> None:
    assert set(inputs) == set(LAYERS)
    hidden = module[1](module[0](examples)).detach().double()  # type: ignore[index]
    assert torch.allclose(inputs["2.weight"].gram, hidden.T @ hidden, rtol=1e-4)
    assert not module[0]._forward_pre_hooks  # type: ignore[index]


def test_transposed_layers_are_known() -> None:
    from transformers.pytorch_utils import Conv1D

    layer = torch.nn.Sequential(Conv1D(8, 8))
    found = inputs_of(layer, lambda seen: seen(torch.randn(3, 8)))
    assert found["0.weight"].is_transposed
    state = {name: tensor.detach() for name, tensor in layer.state_dict().items()}
    turned = {"w": state["0.weight"].T.contiguous()}
    straight = gptq(turned, {"w": Inputs(found["0.weight"].gram, is_transposed=False)}, group=4)
    assert torch.equal(gptq(state, found, group=4)["0.weight"], straight["w"].T)


@pytest.mark.parametrize("attack", [gptq, awq])
def test_errs_less_on_what_the_layer_is_fed_than_rounding_to_nearest(
    module: torch.nn.Module, examples: torch.Tensor, inputs: dict[str, Inputs], attack
) -> None:
    state: State = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    attacked, nearest = attack(state, inputs, bits=3), integer_groups(state, bits=3)
    error = output_error(state["0.weight"], attacked["0.weight"], examples)
    assert error < 0.8 * output_error(state["0.weight"], nearest["0.weight"], examples)
    assert torch.equal(attacked["0.bias"], state["0.bias"])


def test_gptq_leaves_as_many_values_a_group_as_its_bits_allow(
    module: torch.nn.Module, inputs: dict[str, Inputs]
) -> None:
    state: State = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    rounded = gptq(state, inputs, bits=4, group=128)["2.weight"]
    for row in rounded:
        assert len(row[:128].unique()) <= 16
        assert len(row[128:].unique()) <= 16


def test_gptq_on_unrelated_inputs_is_rounding_to_nearest() -> None:
    stream = torch.Generator().manual_seed(5)
    state = {"w": torch.randn(10, 64, generator=stream)}
    even = {"w": Inputs(torch.eye(64, dtype=torch.float64), is_transposed=False)}
    assert torch.allclose(gptq(state, even, group=128)["w"], integer_groups(state, bits=4)["w"], atol=1e-6)
