"""Training on labels of which some are wrong.

Noise in the labels keeps a model from learning anything by heart, a mark that was trained in among it (Lukas et al.,
S&P 2022); the softer form is label smoothing. A mark in the weights was not learned: what moves it is the training.
"""

from __future__ import annotations

import torch

from watermark.attacks.interface import require_share
from watermark.errors import InputError


def relabelled(labels: torch.Tensor, share: float, classes: int, stream: torch.Generator) -> torch.Tensor:
    """Labels of which a random `share` are another class, each other one as likely.

    Raises:
        InputError: `share` is none, or there is no other class.
    """
    require_share(share, what="the share of wrong labels")
    if classes < 2:
        raise InputError(f"with {classes} classes no label can be wrong", hint="pass the number of classes")
    is_wrong = torch.rand(labels.shape, generator=stream) < share
    other = torch.randint(1, classes, labels.shape, generator=stream)
    return torch.where(is_wrong, (labels + other) % classes, labels)
