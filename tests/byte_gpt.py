"""A small language model of bytes, trained here on the sources of Python's standard library.

A GPT-2 of transformers (layer norm, learned positions, ReLU, untied output) with 1.25 million weights: over the million
from which a mark must hold everywhere, and trained in minutes. No download, no data file. Every fourth module is held
out: perplexity is measured there.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

from cli.demo_texts import HELD_OUT_EVERY, MODULES
from watermark.attacks.interface import State

HEADS, WIDTH, LAYERS, CONTEXT, BATCH = 4, 128, 6, 64, 8
HELD_OUT_WINDOWS = 256


def byte_gpt(seed: int = 0, *, layers: int = LAYERS, units: int | None = None) -> torch.nn.Module:
    """Untrained, drawn from `seed`; of another depth, or with another number of hidden units, if wanted."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    config = transformers.GPT2Config(
        vocab_size=256, n_positions=CONTEXT, n_embd=WIDTH, n_layer=layers, n_head=HEADS, n_inner=units,
        activation_function="relu",
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.GPT2LMHeadModel(config).eval()


def module_with(state: State) -> torch.nn.Module:
    """The model with these weights, of whatever depth and hidden width they are, ready to run."""
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer.h."))
    module = byte_gpt(layers=layers, units=state["transformer.h.0.mlp.c_fc.bias"].numel())
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return module


@cache
def library_bytes(*, held_out: bool) -> torch.Tensor:
    """The sources of the chosen modules one after another, as bytes; a module this Python lacks is passed over."""
    library = Path(sysconfig.get_paths()["stdlib"])
    text = b""
    for number, module in enumerate(MODULES):
        path = library / f"{module}.py"
        path = path if path.is_file() else library / module / "__init__.py"
        if path.is_file() and (number % HELD_OUT_EVERY == 0) == held_out:
            text += path.read_bytes()
    return torch.tensor(list(text), dtype=torch.long)


def library_batches(seed: int) -> Iterator[torch.Tensor]:
    """Pieces of the training modules without end, (BATCH, CONTEXT)."""
    text = library_bytes(held_out=False)
    stream = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - CONTEXT, (BATCH,), generator=stream)
        yield text[starts[:, None] + torch.arange(CONTEXT)]


def next_byte_loss(module: torch.nn.Module, batch: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
    """Mean cross entropy of each next byte, in nats."""
    logits = module(batch).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1), label_smoothing=smoothing
    )


def perplexity(state: State) -> float:
    """Perplexity a byte on windows of the held-out modules, always the same ones."""
    module = module_with(state)
    text = library_bytes(held_out=True)
    starts = torch.linspace(0, len(text) - CONTEXT, HELD_OUT_WINDOWS).long()
    with torch.inference_mode():
        pieces = text[starts[:, None] + torch.arange(CONTEXT)].split(64)
        return float(torch.stack([next_byte_loss(module, piece).double() for piece in pieces]).mean().exp())
