"""The models of the side-by-side zoo: what the owner releases, what a thief trains on, and who is innocent.

Models are those of `tests.lookalikes`: two transformers (GPT-like and Llama-like) that learn the characters of Python's
library, a convolutional network and a perceptron that learn digits. Each victim is a fine-tune of a base that is not
declared, with siblings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from scripts.peers.subject import Activations, Subject
from tests.lookalikes.architectures import ARCHITECTURES, WORDS, run_gpt
from tests.lookalikes.llama_like import HEADS, KEY_HEADS, run_llama
from tests.lookalikes.tasks import tasks
from tests.lookalikes.zoo import DRAWN, TAUGHT, TUNED, Recipe
from watermark.attacks.channels import Stage
from watermark.attacks.finetune import finetune
from watermark.attacks.interface import State
from watermark.attacks.layouts import Expert, Layer, Layout, Linear, Norm, llama_layout
from watermark.attacks.lora import finetune_low_rank

TRANSFORMERS = ("gpt", "llama")
GPT_HEADS = 2
CHAINS = {
    "perceptron": tuple(Stage(f"{number}.weight", f"{number}.bias") for number in (0, 2, 4)),
    "convolutional": tuple(Stage(f"{number}.weight", f"{number}.bias") for number in (0, 3, 6, 8)),
}
#: The layer that carries a message in its mean weights: the one with the most inputs.
_CARRIER = {"perceptron": "2.weight", "convolutional": "6.weight"}
_TEXTS, _PLACES = 200, 12


@dataclass(frozen=True)
class Family:
    """One configuration: first seeds, the tasks of base and victims, and what is trained for it.

    `victims` are orders of fine-tunes with the seed of their base; the next two orders are siblings.
    """

    architecture: str
    seed: int
    task: str
    other: str
    tuned_on: str
    drawn: int
    taught: int
    victims: tuple[tuple[int, int], ...]
    twins: int

    def base(self, seed: int) -> Recipe:
        """Trained from its own first weights."""
        return Recipe(self.architecture, self.task, seed)

    def child(self, order: int, seed: int) -> Recipe:
        """A fine-tune of a base."""
        return Recipe(self.architecture, self.tuned_on, 0, order, TUNED, self.base(seed).name)

    def kin(self, order: int, seed: int) -> dict[str, Recipe]:
        """What shares first weights with a victim and is not ours."""
        return {
            "sibling": self.child(order + 1, seed),
            "the base": self.base(seed),
            "same first weights, other data": Recipe(self.architecture, self.other, seed),
        }

    def innocents(self) -> dict[str, list[Recipe]]:
        """Those that share nothing with any victim."""
        make = partial(Recipe, self.architecture, self.task)
        first = self.seed + 10
        return {
            "twin": [make(first + number) for number in range(self.twins)],
            "other data": [Recipe(self.architecture, self.other, self.seed + 100 + number) for number in range(2)],
            "random weights": [make(self.drawn + number, how=DRAWN) for number in range(2)],
            "taught by the base": [
                make(self.taught + number, how=TAUGHT, parent=self.base(self.seed).name) for number in range(2)
            ],
        }

    def to_disguise(self) -> list[Recipe]:
        """Twins that are attacked like a stolen model."""
        return [self.base(self.seed + 20 + number) for number in range(3)]

    def recipes(self) -> list[Recipe]:
        """All of it, each once."""
        found = [recipe for members in self.innocents().values() for recipe in members] + self.to_disguise()
        for order, seed in self.victims:
            found += [self.child(order, seed), *self.kin(order, seed).values()]
        return list({recipe.name: recipe for recipe in found}.values())


FAMILIES = (
    Family("gpt", 2000, "text-a", "text-b", "text-b", 2200, 2500, ((0, 2000), (10, 2001)), 6),
    Family("llama", 9000, "text-a", "text-b", "text-b", 9200, 9500, ((0, 9000), (10, 9001)), 6),
    Family("perceptron", 0, "digits", "digits-mirrored", "digits-half-a", 700, 600, ((0, 0),), 10),
    Family("convolutional", 1000, "digits", "digits-mirrored", "digits-half-a", 1200, 1300, ((0, 1000),), 10),
)


def layout_of(kind: str, state: State) -> Layout | None:
    """Where the parts of a transformer lie."""
    if kind in CHAINS:
        return None
    if kind == "llama":
        return llama_layout(state, HEADS, KEY_HEADS)
    layers = []
    while (at := f"blocks.{len(layers)}.") + "up.weight" in state:
        parts = (Linear(f"{at}attention.{part}.weight") for part in ("query", "key", "value", "output"))
        expert = Expert(Linear(at + "up.weight"), Linear(at + "down.weight"))
        layers.append(Layer(Norm(at + "norm1.weight"), *parts, Norm(at + "norm2.weight"), (expert,)))
    return Layout(
        ("embedding.weight", "positions.weight"),
        tuple(layers),
        GPT_HEADS,
        GPT_HEADS,
        (Norm("norm.weight"), Linear("head.weight")),
        is_pre_norm=True,
        is_centred=False,
        is_rotary=False,
        is_scalable=True,
    )


def subject_of(kind: str, state: State) -> Subject:
    """The model as the peers see it."""
    layout = layout_of(kind, state)
    if layout is None:
        weights = [tensor.flatten(1) for tensor in state.values() if tensor.dim() > 1]
        return Subject(kind, state, tuple(weights[:-1]))
    is_mixture = layout.layers[0].router is not None
    units = () if is_mixture else tuple(layer.experts[0].up.read(state) for layer in layout.layers)
    return Subject("mixtral" if is_mixture else kind, state, units, layout, partial(_run, kind, state))


@torch.inference_mode()
def _run(kind: str, state: State) -> Activations:
    hidden: list[torch.Tensor] = []
    streams: list[torch.Tensor] = []

    def tap(seen: torch.Tensor, stream: torch.Tensor) -> None:
        hidden.append(seen.flatten(0, 1))
        streams.append(stream)

    texts = torch.randint(WORDS, (_TEXTS, _PLACES), generator=torch.Generator().manual_seed(7))
    (run_gpt if kind == "gpt" else run_llama)(state, texts, tap)
    return Activations(tuple(hidden), tuple(streams))


def carrier_of(kind: str, state: State) -> tuple[str, torch.Tensor | None]:
    """The layer that carries a message, by its name and as (outputs, inputs); None where it cannot be read."""
    if kind in CHAINS:
        return _CARRIER[kind], state[_CARRIER[kind]].flatten(1)
    layout = layout_of(kind, state)
    assert layout is not None
    down = layout.layers[0].experts[0].down
    return down.weight, down.read(state)


class Model(torch.nn.Module):
    """Weights as a module, for trainings that need one; a module's parameters bear no dots in their names."""

    def __init__(self, kind: str, state: State) -> None:
        super().__init__()
        self.kind, self.names = kind, list(state)
        for name, tensor in state.items():
            self.register_parameter(name.replace(".", "__"), torch.nn.Parameter(tensor.clone()))

    def weights(self) -> State:
        """Under their own names."""
        return {name: getattr(self, name.replace(".", "__")) for name in self.names}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the architecture makes of them."""
        return ARCHITECTURES[self.kind].run(self.weights(), inputs)


def train(
    kind: str,
    state: State,
    task: str,
    seed: int,
    steps: int,
    rate: float,
    *,
    rank: int | None = None,
    extra: Callable[[State], torch.Tensor] | None = None,
) -> State:
    """Train a copy further, all weights or (with a rank) low-rank additions that are merged; `extra` joins the loss."""

    def loss(student: torch.nn.Module, batch: Any) -> torch.Tensor:
        assert isinstance(student, Model)
        plain = functional.cross_entropy(student(batch[0]).flatten(0, -2), batch[1].flatten())
        return plain + (extra(student.weights()) if extra is not None else 0.0)

    module, data = Model(kind, state), _batches(kind, task, seed)
    if rank is None:
        done = finetune(module, data, loss, steps=steps, learning_rate=rate, seed=seed)
    else:
        done = finetune_low_rank(module, data, loss, rank=rank, steps=steps, learning_rate=rate, seed=seed)
    return {name: done.state[name.replace(".", "__")] for name in state}


def _batches(kind: str, task: str, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    data = tasks(kind)[task]
    stream = torch.Generator().manual_seed(seed)
    while True:
        picked = torch.randint(len(data.labels), (ARCHITECTURES[kind].batch,), generator=stream)
        yield data.inputs[picked], data.labels[picked]
