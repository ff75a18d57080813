"""The two models that `bench_forensics` attacks by loss, training and merging, and their relatives, trained once.

A byte GPT of 1.25 million weights and the digits classifier of 154 thousand. Each is a base trained from its seed and
then trained further; siblings are the same base trained further on other batches, an independent model shares nothing
but recipe and data. Every training is kept in the folder, so that a run that was cut goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests import byte_gpt, subjects
from tests.attacks import other_tasks
from watermark.attacks import attention_heads, channels, hidden_units, residual_stream
from watermark.attacks.channels import Stage
from watermark.attacks.finetune import finetune
from watermark.attacks.interface import State
from watermark.attacks.layouts import gpt2_layout
from watermark.model.torch_state import load_state, save_state

Loss = Callable[[torch.nn.Module, Any], torch.Tensor]
_DIGITS = (Stage("0.weight", "0.bias"), Stage("2.weight", "2.bias"), Stage("6.weight", "6.bias"),
           Stage("8.weight", "8.bias"))  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model that is trained here: how it is drawn, fed and judged, and what leaves its function as it is.

    `module_of` gives the model with these weights, ready to run. `quality` is higher for better; an attack counts while
    `useful` of it is left. `steps` are those of the base, then those from the base to the model; `tuning_steps` those
    of a thief's short training.
    """

    name: str
    draw: Callable[[int], torch.nn.Module]
    module_of: Callable[[State], torch.nn.Module]
    batches: Callable[[int], Iterator[Any]]
    loss: Callable[..., torch.Tensor]
    quality: Callable[[State], float]
    measure: str
    useful: float
    disguise: Callable[[State, int], State]
    last_layer: tuple[str, ...]
    steps: tuple[int, int]
    tuning_steps: int
    learning_rate: float

    @property
    def original_steps(self) -> int:
        """What the whole training took."""
        return sum(self.steps)

    def tuned(self, state: State, steps: int, learning_rate: float, seed: int, loss: Loss | None = None) -> State:
        """The weights after further training of all layers."""
        batches = self.batches(seed)
        module, loss = self.module_of(state), loss or self.loss
        return finetune(module, batches, loss, steps=steps, learning_rate=learning_rate, seed=seed).state


class Trained:
    """The trainings of one subject, kept in a folder."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self.folder = subject, folder

    def kept(self, name: str, make: Callable[[], State]) -> State:
        """What `make` gives, made once."""
        path = self.folder / name
        if not path.exists():
            part = self.folder / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            save_state(part, make())
            part.rename(path)
        return load_state(path)

    def base(self, seed: int = 1) -> State:
        """What all siblings were trained from."""
        subject = self.subject
        fresh = subject.draw(seed).state_dict()
        return self.kept(f"base-{seed}", lambda: subject.tuned(fresh, subject.steps[0], subject.learning_rate, seed))

    def child(self, number: int, seed: int = 1) -> State:
        """The base, trained further on batches of its own; number 0 is the model that is marked."""
        subject = self.subject
        steps = subject.tuning_steps if number else subject.steps[1]
        return self.kept(
            f"child-{seed}-{number}",
            lambda: subject.tuned(self.base(seed), steps, subject.learning_rate / 2, 100 * seed + number),
        )

    def independent(self) -> State:
        """Alike in recipe and data, drawn and trained from another seed."""
        return self.child(0, seed=2)


def _gpt_symmetries(state: State, seed: int) -> State:
    layout = gpt2_layout(state, byte_gpt.HEADS, is_relu=True)
    for change in (
        residual_stream.rotate_stream,
        residual_stream.permute_stream,
        attention_heads.permute_heads,
        attention_heads.mix_query_key,
        attention_heads.mix_value_output,
        hidden_units.permute_hidden,
        hidden_units.scale_hidden,
    ):
        state = change(state, layout, seed)
    return state


def _digits_symmetries(state: State, seed: int) -> State:
    return channels.scale_channels(channels.permute_channels(state, _DIGITS, seed), _DIGITS, seed)


GPT = Subject(
    name="gpt",
    draw=byte_gpt.byte_gpt,
    module_of=byte_gpt.module_with,
    batches=byte_gpt.library_batches,
    loss=byte_gpt.next_byte_loss,
    quality=lambda state: 1 / byte_gpt.perplexity(state),
    measure="1 / perplexity a byte on held-out modules",
    useful=1 / 1.05,
    disguise=_gpt_symmetries,
    last_layer=("lm_head.weight",),
    steps=(400, 200),
    tuning_steps=60,
    learning_rate=2e-3,
)
CNN = Subject(
    name="cnn",
    draw=subjects.digits_network,
    module_of=subjects.digits_module,
    batches=subjects.digits_batches,
    loss=subjects.digits_loss,
    quality=other_tasks.digits_quality,
    measure="accuracy on held-out digits",
    useful=0.95,
    disguise=_digits_symmetries,
    last_layer=("8.weight", "8.bias"),
    steps=(60, 40),
    tuning_steps=100,
    learning_rate=3e-3,
)
SUBJECTS = {subject.name: subject for subject in (GPT, CNN)}
