"""Direct preference optimisation: of two answers to a question, the better one becomes more likely.

Rafailov et al., "Direct Preference Optimization", NeurIPS 2023: the second stage of tuning an assistant, without a
model of rewards. A frozen copy of the model holds it near where it was, so that weights move little.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch

from watermark.attacks.instruction import Dialogues, answer_log_p

BETA = 0.1


@dataclass(frozen=True)
class Preferences:
    """Pairs of answers to the same questions, the better one in `chosen`."""

    chosen: Dialogues
    rejected: Dialogues


def preference_loss(
    reference: torch.nn.Module, *, beta: float = BETA
) -> Callable[[torch.nn.Module, Preferences], torch.Tensor]:
    """The loss to pass to `finetune`; `reference` is the model before, of which a frozen copy is taken."""
    frozen = copy.deepcopy(reference).requires_grad_(requires_grad=False).eval()

    def loss(module: torch.nn.Module, pairs: Preferences) -> torch.Tensor:
        gains = []
        for texts in (pairs.chosen, pairs.rejected):
            with torch.no_grad():
                before = answer_log_p(frozen, texts)
            gains.append(answer_log_p(module, texts) - before)
        return -torch.nn.functional.logsigmoid(beta * (gains[0] - gains[1])).mean()

    return loss
