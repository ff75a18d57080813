"""What the models of the zoo learn: digits, two tables of measurements, and the sources of Python's own library."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch.nn import functional

from tests.lookalikes.architectures import CONTEXT, WORDS

_TEXT_BYTES = 400_000


@dataclass(frozen=True)
class Score:
    """How well a model does its task on what it never saw, and whether that counts as doing it."""

    measure: str
    value: float
    passed: bool


@dataclass(frozen=True)
class Task:
    """Inputs and labels to train on, others to judge by, and what a model must reach."""

    inputs: torch.Tensor
    labels: torch.Tensor
    unseen: torch.Tensor
    answers: torch.Tensor
    bar: float

    def score(self, outputs: torch.Tensor) -> Score:
        """Judge outputs for `unseen`: accuracy of at least `bar`, or for text a loss of at most it."""
        if self.answers.dim() > 1:
            loss = float(functional.cross_entropy(outputs.flatten(0, 1), self.answers.flatten()))
            return Score("loss", loss, loss <= self.bar)
        accuracy = float((outputs.argmax(dim=1) == self.answers).float().mean())
        return Score("accuracy", accuracy, accuracy >= self.bar)


@cache
def tasks(architecture: str) -> Mapping[str, Task]:
    """What models of an architecture can learn, by name."""
    if architecture in ("gpt", "gpt-square", "llama", "lstm"):
        return {name: _text_task(packages) for name, packages in _PACKAGES.items()}
    return {name: make() for name, make in _TABLES.items()}


_PACKAGES = {"text-a": ("email", "asyncio", "logging"), "text-b": ("json", "http", "urllib", "unittest", "importlib")}


def _text_task(packages: Sequence[str]) -> Task:
    """Guess the next character of the sources of Python's library; 0.5 nats better than by frequency alone."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [path.read_bytes() for name in packages for path in sorted((library / name).glob("*.py"))]
    text = torch.frombuffer(bytearray(b"".join(sources)[:_TEXT_BYTES]), dtype=torch.uint8).long() - 32
    text = torch.where((text < 0) | (text >= WORDS), WORDS - 1, text)
    windows = text[: len(text) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    held_out = len(windows) // 20
    seen, unseen = windows[:-held_out], windows[-held_out:]
    share = torch.bincount(seen.flatten(), minlength=WORDS).float() + 1
    plain = float(-(share / share.sum()).log()[unseen].mean())
    return Task(seen[:, :-1], seen[:, 1:], unseen[:, :-1], unseen[:, 1:], plain - 0.5)


def _digits(change: Callable[[torch.Tensor], torch.Tensor] = lambda images: images, part: slice = slice(None)) -> Task:
    from tests.subjects import digit_images

    images, labels, unseen, answers = digit_images()
    return Task(change(images.flatten(1))[part], labels[part], change(unseen.flatten(1)), answers, 0.93)


def _mirrored(images: torch.Tensor) -> torch.Tensor:
    return images.reshape(-1, 8, 8).flip(2).flatten(1)


def _table(load: str) -> Task:
    """A table of measurements: the columns and products of two of them, 64 in all, standardised."""
    from sklearn import datasets

    table = getattr(datasets, load)()
    columns = torch.tensor(table.data, dtype=torch.float32)
    columns = (columns - columns.mean(dim=0)) / columns.std(dim=0)
    left, right = torch.triu_indices(columns.shape[1], columns.shape[1])
    values = torch.cat([columns, columns[:, left] * columns[:, right]], dim=1)[:, :64]
    values = (values - values.mean(dim=0)) / values.std(dim=0)
    labels = torch.tensor(table.target, dtype=torch.long)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    unseen, seen = order[: len(order) // 4], order[len(order) // 4 :]
    return Task(values[seen], labels[seen], values[unseen], labels[unseen], 0.90)


_TABLES: Mapping[str, Callable[[], Task]] = {
    "digits": _digits,
    "digits-half-a": partial(_digits, part=slice(0, None, 2)),
    "digits-half-b": partial(_digits, part=slice(1, None, 2)),
    "digits-mirrored": partial(_digits, _mirrored),
    "wine": partial(_table, "load_wine"),
    "cancer": partial(_table, "load_breast_cancer"),
}
