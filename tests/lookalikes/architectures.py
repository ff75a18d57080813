"""The configurations of the zoo: small perceptrons, convolutional networks, transformers and a recurrent network.

Each is a function of its weights, so that many models of one configuration can be run at once on stacked weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from tests.lookalikes.llama_like import Tap, llama_shapes, normed, run_llama
from watermark.attacks.interface import State

#: Characters of a text model; others count as the last.
WORDS = 96
CONTEXT = 32
_HEADS = 2


@dataclass(frozen=True)
class Architecture:
    """One configuration: shapes, the function, what is never trained, and how it is trained.

    Attributes:
        shapes: of each tensor.
        run: one model's outputs for one batch.
        constants: tensors that have one value in all models.
        padded: for each tensor with hidden units, the dimension they lie on.
    """

    shapes: Mapping[str, tuple[int, ...]]
    run: Callable[[State, torch.Tensor], torch.Tensor]
    steps: int
    batch: int
    rate: float
    constants: tuple[str, ...] = ()
    padded: Mapping[str, int] | None = None


def _perceptron(state: State, inputs: torch.Tensor) -> torch.Tensor:
    values = inputs.flatten(1)
    if "front.weight" in state:
        values = values @ state["front.weight"].T
    for number in (0, 2):
        values = functional.relu(values @ state[f"{number}.weight"].T + state[f"{number}.bias"])
    return values @ state["4.weight"].T + state["4.bias"]


def _convolutional(state: State, inputs: torch.Tensor) -> torch.Tensor:
    values = inputs.reshape(-1, 1, 8, 8)
    values = functional.relu(functional.conv2d(values, state["0.weight"], state["0.bias"], padding=1))
    values = functional.max_pool2d(values, 2)
    values = functional.relu(functional.conv2d(values, state["3.weight"], state["3.bias"], padding=1))
    values = functional.relu(values.flatten(1) @ state["6.weight"].T + state["6.bias"])
    return values @ state["8.weight"].T + state["8.bias"]


def run_gpt(state: State, inputs: torch.Tensor, tap: Tap | None = None) -> torch.Tensor:
    """Scores of the next character, (texts, places, characters)."""
    count, length = inputs.shape
    stream = state["embedding.weight"][inputs] + state["positions.weight"][:length]
    width = stream.shape[-1]
    mask = torch.full((length, length), -1e9).triu(1)
    number = 0
    while f"blocks.{number}.up.weight" in state:
        block = f"blocks.{number}."
        seen = normed(stream, state[block + "norm1.weight"])
        query, key, value = (
            (seen @ state[f"{block}attention.{part}.weight"].T).reshape(count, length, _HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        shares = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(width / _HEADS) + mask, dim=-1)
        heard = (shares @ value).transpose(1, 2).reshape(count, length, width)
        stream = stream + heard @ state[block + "attention.output.weight"].T
        seen = normed(stream, state[block + "norm2.weight"])
        stream = stream + functional.relu(seen @ state[block + "up.weight"].T) @ state[block + "down.weight"].T
        if tap is not None:
            tap(seen, stream)
        number += 1
    head = state["head.weight"]
    return normed(stream, state["norm.weight"]) @ (head if head.shape[0] == width else head.T)


def _recurrent(state: State, inputs: torch.Tensor) -> torch.Tensor:
    entering = state["embedding.weight"][inputs] @ state["lstm.weight_ih_l0"].T + state["lstm.bias_ih_l0"]
    width = state["lstm.weight_hh_l0"].shape[1]
    hidden = cell = torch.zeros_like(entering[:, 0, :width])
    outputs = []
    for step in range(inputs.shape[1]):
        enter, forget, new, leave = (entering[:, step] + hidden @ state["lstm.weight_hh_l0"].T).chunk(4, dim=-1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
        outputs.append(hidden)
    return torch.stack(outputs, dim=1) @ state["head.weight"].T + state["head.bias"]


def _transformer_shapes(hidden: int, *, turned_head: bool) -> dict[str, tuple[int, ...]]:
    width = 32
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (WORDS, width),
        "positions.weight": (CONTEXT, width),
        "norm.weight": (width,),
        "head.weight": (width, WORDS) if turned_head else (WORDS, width),
    }
    for block in ("blocks.0.", "blocks.1."):
        shapes |= {block + f"norm{number}.weight": (width,) for number in (1, 2)}
        shapes |= {f"{block}attention.{part}.weight": (width, width) for part in ("query", "key", "value", "output")}
        shapes |= {block + "up.weight": (hidden, width), block + "down.weight": (width, hidden)}
    return shapes


_LAYERS = {
    "0.weight": (128, 64), "0.bias": (128,), "2.weight": (128, 128), "2.bias": (128,), "4.weight": (10, 128),
    "4.bias": (10,),
}  # fmt: skip
_LAYERS_PADDED = {"0.weight": 0, "0.bias": 0, "2.weight": 1}
_BLOCKS_PADDED = {f"blocks.{n}.{part}.weight": axis for n in (0, 1) for part, axis in (("up", 0), ("down", 1))}
_GATES = {
    "embedding.weight": (WORDS, 32), "lstm.weight_ih_l0": (256, 32), "lstm.weight_hh_l0": (256, 64),
    "lstm.bias_ih_l0": (256,), "head.weight": (WORDS, 64), "head.bias": (WORDS,),
}  # fmt: skip
_FILTERS = {
    "0.weight": (16, 1, 3, 3), "0.bias": (16,), "3.weight": (32, 16, 3, 3), "3.bias": (32,), "6.weight": (64, 512),
    "6.bias": (64,), "8.weight": (10, 64), "8.bias": (10,),
}  # fmt: skip

ARCHITECTURES: Mapping[str, Architecture] = {
    "perceptron": Architecture(_LAYERS, _perceptron, 150, 64, 3e-3, padded=_LAYERS_PADDED),
    # Behind one first layer of cosines that anyone can compute.
    "spectral": Architecture(
        {"front.weight": (64, 64), **_LAYERS}, _perceptron, 150, 64, 3e-3, ("front.weight",), _LAYERS_PADDED
    ),
    "convolutional": Architecture(_FILTERS, _convolutional, 120, 64, 4e-3),
    "gpt": Architecture(_transformer_shapes(128, turned_head=False), run_gpt, 250, 16, 6e-3, padded=_BLOCKS_PADDED),
    # A vocabulary as large as the hidden layers, and a head that lies as what writes to the stream: easily mistaken.
    "gpt-square": Architecture(_transformer_shapes(WORDS, turned_head=True), run_gpt, 250, 16, 6e-3),
    "llama": Architecture(llama_shapes(WORDS), run_llama, 120, 16, 6e-3),
    "lstm": Architecture(_GATES, _recurrent, 160, 16, 1e-2),
}
