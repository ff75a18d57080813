"""Products of weights that permutations and rotations leave alone, seen through the embeddings of some tokens.

Zeng et al., "HuRef: HUman-REadable Fingerprint for Large Language Models" (NeurIPS 2024). With X the embeddings of
some tokens, the invariant terms of the last two blocks are X Wq^T Wk X^T, X Wv^T Wo^T X^T and X Wup^T Wdown^T X^T. The
score is the mean cosine of the terms (ICS); the encoder and the pictures that the paper makes of them are left out.
Tokens are the most frequent bytes of a public text: bytes that training never met keep what the draw gave them.
"""

from __future__ import annotations

from collections import Counter

import torch

from scripts.peers.subject import Subject

BLOCKS = 2


def tokens(text: bytes, count: int = 64) -> list[int]:
    """The most frequent tokens of a text."""
    return [token for token, _ in Counter(text).most_common(count)]


def similarity(ours: Subject, theirs: Subject, chosen: list[int]) -> float | None:
    """Mean cosine of the invariant terms; None for what is no transformer."""
    if ours.layout is None or theirs.layout is None:
        return None
    pairs = zip(_terms(ours, chosen), _terms(theirs, chosen), strict=False)
    cosines = [torch.nn.functional.cosine_similarity(left.flatten(), right.flatten(), dim=0) for left, right in pairs]
    return float(torch.stack(cosines).mean())


def _terms(subject: Subject, chosen: list[int]) -> list[torch.Tensor]:
    assert subject.layout is not None
    seen = subject.state[subject.layout.embeddings[0]][chosen].double()
    shared = subject.layout.heads // subject.layout.key_heads
    found = []
    for layer in subject.layout.layers[: -BLOCKS - 1 : -1]:  # from the end: a shorter model has fewer
        query, key, value, output = (
            part.read(subject.state) for part in (layer.query, layer.key, layer.value, layer.output)
        )
        size = len(query) // subject.layout.heads
        key, value = (_repeated(part, size, shared) for part in (key, value))
        expert = layer.experts[0]
        up, down = expert.up.read(subject.state), expert.down.read(subject.state)
        found += [
            (seen @ query.T) @ (seen @ key.T).T,
            (seen @ value.T) @ (seen @ output).T,
            (seen @ up.T) @ (seen @ down).T,
        ]
    return found


def _repeated(part: torch.Tensor, size: int, times: int) -> torch.Tensor:
    """Each group's rows once for each of its heads."""
    return part.reshape(-1, size, part.shape[1]).repeat_interleave(times, dim=0).flatten(0, 1)
