"""Plain networks for sketches, a convolutional one with batch norm and a perceptron, and what hides them."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch

from tests.subjects import digit_images
from watermark.attacks.finetune import finetune
from watermark.attacks.interface import State

KINDS = ("cnn", "mlp")


def network(kind: str) -> torch.nn.Sequential:
    """Untrained, on images of 8 x 8."""
    if kind == "mlp":
        widths = (64, 96, 96, 48, 10)
        layers: list[torch.nn.Module] = [torch.nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])
    layers = []
    for before, after in ((1, 24), (24, 32), (32, 32)):
        layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.BatchNorm2d(after), torch.nn.ReLU()]
    return torch.nn.Sequential(
        *layers, torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(32 * 16, 64), torch.nn.ReLU(),
        torch.nn.Linear(64, 10),
    )  # fmt: skip


@cache
def trained_chain(kind: str, seed: int, steps: int = 80) -> State:
    """The state of a digit classifier drawn and trained from `seed`; shared, not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = network(kind)
    return _trained(module, seed, steps, 3e-3)


@cache
def sibling_chain(kind: str, seed: int, number: int, steps: int = 40) -> State:
    """A fine-tune of `trained_chain(kind, seed)` in another order of the images."""
    module = network(kind)
    module.load_state_dict(trained_chain(kind, seed))
    return _trained(module, 1_000 + number, steps, 1e-3)


def _trained(module: torch.nn.Module, seed: int, steps: int, rate: float) -> State:
    images, labels, _, _ = digit_images()
    stream = torch.Generator().manual_seed(seed)
    batches = (torch.randint(len(labels), (64,), generator=stream) for _ in range(steps))

    def loss(student: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(student(images[batch]), labels[batch])

    return finetune(module, batches, loss, steps=steps, learning_rate=rate, seed=seed).state


def answers(kind: str, state: State) -> torch.Tensor:
    """What the classifier says of the images it never saw, (images, 10)."""
    module = network(kind)
    module.load_state_dict(state)
    module.eval()
    with torch.inference_mode():
        found: torch.Tensor = module(digit_images()[2])
    return found


def reordered(kind: str, state: State, seed: int, *, scaled: bool = True) -> State:
    """Reorder all hidden units and channels, with their biases and norms, and scale them where ReLU lets it pass."""
    stream = torch.Generator().manual_seed(seed)
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    names = [name.removesuffix(".weight") for name, tensor in state.items() if tensor.dim() >= 2]
    order = None
    factor = torch.ones(1)
    for name in names:
        weight = attacked[name + ".weight"]
        if order is not None:
            shape = weight.shape
            weight = weight.reshape(len(weight), len(order), -1)[:, order] / factor.reshape(1, -1, 1)
            weight = weight.reshape(shape)
        if name == names[-1]:
            attacked[name + ".weight"] = weight.clone()
            break
        order = torch.randperm(len(weight), generator=stream)
        factor = torch.exp(torch.randn(len(weight), generator=stream)) if scaled else torch.ones(len(weight))
        norm = f"{int(name) + 1}"
        is_normed = norm + ".running_var" in state
        own = torch.ones(len(weight)) if is_normed else factor
        attacked[name + ".weight"] = weight[order] * own.reshape(-1, *[1] * (weight.dim() - 1))
        attacked[name + ".bias"] = attacked[name + ".bias"][order] * own
        if is_normed:  # the factor goes into the norm's gain and bias
            for part in ("weight", "bias"):
                attacked[f"{norm}.{part}"] = attacked[f"{norm}.{part}"][order] * factor
            for part in ("running_mean", "running_var"):
                attacked[f"{norm}.{part}"] = attacked[f"{norm}.{part}"][order]
    return attacked


def folded(state: State) -> State:
    """Fold each batch norm into the layer before it and leave it without effect."""
    attacked = {name: tensor.detach().clone() for name, tensor in state.items()}
    for name in [name.removesuffix(".running_var") for name in state if name.endswith(".running_var")]:
        layer = f"{int(name) - 1}"
        gain = state[name + ".weight"] / (state[name + ".running_var"] + 1e-5).sqrt()
        attacked[layer + ".weight"] = state[layer + ".weight"] * gain.reshape(-1, 1, 1, 1)
        attacked[layer + ".bias"] = (state[layer + ".bias"] - state[name + ".running_mean"]) * gain + state[
            name + ".bias"
        ]
        attacked[name + ".weight"] = torch.full_like(gain, (1 + 1e-5) ** 0.5)
        attacked[name + ".bias"] = torch.zeros_like(gain)
        attacked[name + ".running_mean"] = torch.zeros_like(gain)
        attacked[name + ".running_var"] = torch.ones_like(gain)
    return attacked
