"""What a thief trains the models of `trained_subjects` for besides their own task: other texts, other answers, labels.

Sums as questions and answers, preferences between right and wrong ones, English prose and odd against even digits. All
made or found here, nothing downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch

from tests import byte_gpt, subjects
from watermark.attacks.instruction import Dialogues
from watermark.attacks.interface import State
from watermark.attacks.label_noise import relabelled
from watermark.attacks.preferences import Preferences

_LENGTH = 24
HELD_OUT_BATCHES = 8


def sums(seed: int, texts: int = byte_gpt.BATCH) -> Iterator[Preferences]:
    """Sums of two numbers of two digits without end, each answered rightly, and wrongly by up to nine."""
    stream = torch.Generator().manual_seed(seed)
    while True:
        pairs = torch.randint(10, 100, (texts, 2), generator=stream).tolist()
        wrong = torch.randint(1, 10, (texts,), generator=stream).tolist()
        yield Preferences(
            _dialogues([(one, other, one + other) for one, other in pairs]),
            _dialogues([(one, other, one + other + by) for (one, other), by in zip(pairs, wrong, strict=True)]),
        )


def right_sums(seed: int) -> Iterator[Dialogues]:
    """The right answers alone."""
    return (pair.chosen for pair in sums(seed))


def _dialogues(asked: list[tuple[int, int, int]]) -> Dialogues:
    tokens = torch.full((len(asked), _LENGTH), ord("\n"))
    is_answer = torch.zeros(len(asked), _LENGTH, dtype=torch.bool)
    for row, (one, other, answer) in enumerate(asked):
        question, said = f"Q: {one} + {other} = ?\nA: ".encode(), f"{answer}\n".encode()
        tokens[row, : len(question) + len(said)] = torch.tensor(list(question + said))
        is_answer[row, len(question) : len(question) + len(said)] = True
    return Dialogues(tokens, is_answer)


@cache
def prose() -> torch.Tensor:
    """Python's own help, English prose of some hundred kilobytes, as bytes."""
    from pydoc_data.topics import topics

    text = "\n".join(text for _, text in sorted(topics.items()))
    return torch.tensor(list(text.encode()), dtype=torch.long)


def prose_batches(seed: int) -> Iterator[torch.Tensor]:
    """Pieces of it without end, (BATCH, CONTEXT)."""
    stream = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(prose()) - byte_gpt.CONTEXT, (byte_gpt.BATCH,), generator=stream)
        yield prose()[starts[:, None] + torch.arange(byte_gpt.CONTEXT)]


def noisy_byte_loss(share: float, seed: int) -> Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]:
    """The loss of the byte model with a share of the bytes to come replaced, drawn anew at each call."""
    stream = torch.Generator().manual_seed(seed)

    def loss(module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        logits = module(batch).logits[:, :-1]
        targets = relabelled(batch[:, 1:], share, logits.shape[-1], stream)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return loss


def noisy_digits_loss(share: float, seed: int) -> Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]:
    """The loss of the digits classifier with a share of the training labels wrong for good."""
    images, labels, _, _ = subjects.digit_images()
    wrong = relabelled(labels, share, 10, torch.Generator().manual_seed(seed))
    return lambda module, batch: torch.nn.functional.cross_entropy(module(images[batch]), wrong[batch])


def parity_loss(module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Cross entropy of odd against even, for a network with two outputs."""
    images, labels, _, _ = subjects.digit_images()
    return torch.nn.functional.cross_entropy(module(images[batch]), labels[batch] % 2)


def digits_quality(state: State) -> float:
    """Accuracy on held-out digits; of a network with two outputs on odd against even."""
    if len(state["8.weight"]) != 2:
        return subjects.digits_accuracy(state)
    _, _, images, labels = subjects.digit_images()
    module = parity_network(state)
    with torch.inference_mode():
        return float((module(images).argmax(dim=1) == labels % 2).float().mean())


def parity_network(state: State) -> torch.nn.Module:
    """The classifier of odd and even with these weights."""
    module = subjects.digits_network()
    module[8] = torch.nn.Linear(130, 2)
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return module.eval()


def held_out_loss(
    module: torch.nn.Module, loss: Callable[..., torch.Tensor], batches: Callable[[int], Iterator[object]]
) -> float:
    """The mean loss on batches of a seed that no training here uses."""
    found = [
        float(loss(module, batch).detach()) for _, batch in zip(range(HELD_OUT_BATCHES), batches(77_777), strict=False)
    ]
    return sum(found) / len(found)
