"""One model as the peers see it: its weights, where their parts lie, and what it computes on common inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from watermark.attacks.interface import State
from watermark.attacks.layouts import Layout


@dataclass(frozen=True)
class Activations:
    """For each block: what its hidden layer reads, (tokens, width), and the stream after it, (texts, places, width)."""

    hidden_inputs: tuple[torch.Tensor, ...]
    streams: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Subject:
    """A model under comparison.

    Attributes:
        kind: what a configuration file calls the model's type.
        state: the weights.
        units: what comes into the hidden units, (units, inputs), layer by layer.
        layout: where the parts lie; None for what is no transformer.
        run: what it computes on texts that are the same for all models; None likewise.
    """

    kind: str
    state: State
    units: tuple[torch.Tensor, ...]
    layout: Layout | None = None
    run: Callable[[], Activations] | None = None
