"""Supervised fine-tuning on questions and answers: the loss counts the answers only.

How a base model becomes an assistant (Ouyang et al., "Training language models to follow instructions with human
feedback", NeurIPS 2022), and what most stolen language models go through next: other texts in another form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Dialogues:
    """Texts as numbers, (texts, length), and which places of them belong to an answer."""

    tokens: torch.Tensor
    is_answer: torch.Tensor


def answer_log_p(module: torch.nn.Module, texts: Dialogues) -> torch.Tensor:
    """Log probability of each answer after what stands before it, in nats, (texts,); `module` is a causal model."""
    scores = module(texts.tokens).logits[:, :-1].log_softmax(dim=-1)
    of_next = scores.gather(2, texts.tokens[:, 1:, None])[..., 0]
    log_p: torch.Tensor = (of_next * texts.is_answer[:, 1:]).sum(dim=1)
    return log_p


def answer_loss(module: torch.nn.Module, texts: Dialogues) -> torch.Tensor:
    """Mean negative log probability of a token of an answer: pass it to `finetune`."""
    return -answer_log_p(module, texts).sum() / texts.is_answer[:, 1:].sum()
