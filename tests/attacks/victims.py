"""Small models of the layouts that thieves disguise, marked with a real key, and the disguises that fit each.

Weights are drawn, not trained, with gains and biases that are not trivial: what a disguise keeps and what an alignment
undoes does not depend on training.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from watermark.attacks import free_edits, recurrent
from watermark.attacks.channels import Stage
from watermark.attacks.disguise import renamed, transposed
from watermark.attacks.interface import State
from watermark.attacks.layouts import Layout, bert_layout, gpt2_layout, llama_layout
from watermark.attacks.recurrent import Recurrence
from watermark.model.torch_state import save_state

HEADS, KEY_HEADS, WIDTH, WORDS = 4, 2, 80, 384
TRANSFORMERS = ("gpt", "llama", "moe", "bert")
CHAINS = ("mlp", "cnn")
RECURRENT = ("lstm", "gru")
KINDS = (*TRANSFORMERS, *CHAINS, *RECURRENT)

Disguise = Callable[[State, int], State]
_MLP = tuple(Stage(f"{number}.weight", f"{number}.bias") for number in (1, 3, 5, 7))
_CNN = (
    Stage("0.weight", "0.bias", "1"),
    Stage("3.weight", "3.bias", "4"),
    Stage("7.weight", "7.bias"),
    Stage("10.weight", "10.bias"),
    Stage("12.weight", "12.bias"),
)
_CELLS = Recurrence("cells.", 2, "words.weight", ("head.weight",))


def module_of(kind: str, seed: int = 0, **changes: Any) -> torch.nn.Module:
    """A model that can be run; `changes` override its configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _drawn(kind, changes)
        for name, values in module.named_parameters():
            if values.dim() == 1:
                is_gain = name.endswith("weight")
                values.data = float(is_gain) + 0.2 * torch.randn(values.shape)
        for name, values in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                values.copy_(
                    0.5 + torch.rand(values.shape) if name.endswith("var") else 0.1 * torch.randn(values.shape)
                )
    return module.eval()


def _drawn(kind: str, changes: Mapping[str, Any]) -> torch.nn.Module:
    if kind in RECURRENT:
        return Speaker(torch.nn.LSTM if kind == "lstm" else torch.nn.GRU)
    return _chain(kind) if kind in CHAINS else _transformer(kind, changes)


class Speaker(torch.nn.Module):
    """Words in, scores of words out, two layers of recurrent cells between."""

    def __init__(self, cells: type[torch.nn.LSTM | torch.nn.GRU]) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(WORDS, 48)
        self.cells = cells(48, 64, num_layers=2, batch_first=True)
        self.head = torch.nn.Linear(64, WORDS)

    def forward(self, words: torch.Tensor) -> tuple[torch.Tensor]:
        """Scores, (batch, words, vocabulary), as the transformers here give them."""
        return (self.head(self.cells(self.words(words))[0]),)


def _transformer(kind: str, changes: Mapping[str, Any]) -> torch.nn.Module:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    ends = {"bos_token_id": None, "eos_token_id": None, "vocab_size": WORDS}
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    if kind == "gpt":
        fields = {
            "n_embd": WIDTH, "n_layer": 2, "n_head": HEADS, "n_positions": 64, "activation_function": "relu",
            "tie_word_embeddings": False,
        }  # fmt: skip
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**fields, **ends, **changes}))
    if kind == "bert":
        fields = {"intermediate_size": 240, "vocab_size": WORDS, "max_position_embeddings": 64}
        return transformers.BertModel(transformers.BertConfig(**{**sizes, **fields, **changes}))
    fields = {**sizes, **ends, "num_key_value_heads": KEY_HEADS, "rms_norm_eps": 1e-8, "max_position_embeddings": 64}
    if kind == "llama":
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**{**fields, "intermediate_size": 208, **changes})
        )
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**{**fields, "intermediate_size": 112, "num_local_experts": 4, **changes})
    )


def _chain(kind: str) -> torch.nn.Module:
    nn = torch.nn
    if kind == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 192), nn.ReLU(),
            nn.Linear(192, 10),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(64 * 16, 96), nn.ReLU(), nn.Linear(96, 10),
    )  # fmt: skip


@cache
def state_of(kind: str, seed: int = 0) -> State:
    """Its weights; shared, not to be changed."""
    return {name: values.clone() for name, values in module_of(kind, seed).state_dict().items()}


@cache
def _runnable(kind: str) -> torch.nn.Module:
    return module_of(kind)


def output(kind: str, state: State, module: torch.nn.Module | None = None) -> torch.Tensor:
    """What a model of these weights answers to one fixed input."""
    module = module if module is not None else _runnable(kind)
    module.load_state_dict(state)
    stream = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        if kind in CHAINS:
            return module(torch.rand(8, 1, 8, 8, generator=stream))
        answer: torch.Tensor = module(torch.randint(WORDS, (2, 24), generator=stream))[0]
        return answer


def layout_of(kind: str, state: State) -> Layout:
    """Where the parts of a transformer lie."""
    if kind == "gpt":
        return gpt2_layout(state, HEADS, is_relu=True)
    return bert_layout(state, HEADS) if kind == "bert" else llama_layout(state, HEADS, KEY_HEADS)


@dataclass(frozen=True)
class Edit:
    """A disguise of class A: does it keep shapes and names, and does it mix so freely that a fit costs evidence."""

    run: Disguise
    can_be_run: bool = True
    is_free: bool = False


def edits_of(kind: str) -> dict[str, Edit]:
    """All class A edits of a layout by name, those that need no layout among them."""
    shared = {
        "renamed": Edit(lambda state, seed: renamed(state, seed), can_be_run=False),
        "transposed": Edit(lambda state, _: transposed(state), can_be_run=False),
    }
    if kind in RECURRENT:
        return {"units permuted": Edit(lambda state, seed: recurrent.permute_units(state, _CELLS, seed)), **shared}
    if kind in CHAINS:
        known = free_edits.of_chain(_MLP if kind == "mlp" else _CNN, is_scalable=True)
    else:
        known = free_edits.of_layout(partial(layout_of, kind), state_of(kind))
    # The stream is what BERT answers with: reordered, its answer is.
    found = {
        name: Edit(edit.run, edit.keeps_names and (kind, name) != ("bert", "stream permuted"), edit.is_free)
        for name, edit in known.items()
    }
    return {**found, **shared}


def composition(kind: str, seed: int, edits: int = 6) -> tuple[list[str], Disguise]:
    """A random composition of class A edits, those that leave the names to the layout first."""
    known = edits_of(kind)
    draw = random.Random(seed)
    in_place = [name for name, edit in known.items() if edit.can_be_run or name == "stream permuted"]
    last = [name for name in known if name not in in_place]
    names = draw.sample(in_place, min(len(in_place), edits - draw.randint(0, min(2, len(last)))))
    names += draw.sample(last, min(len(last), edits - len(names)))
    names.sort(key=lambda name: (name in last, name == "transposed", name == "renamed"))

    def run(state: State, seed: int) -> State:
        for number, name in enumerate(names):
            state = known[name].run(state, seed + number)
        return state

    return names, run


def write(folder: Path, state: State) -> Path:
    """Save a state as a folder of its own."""
    save_state(folder, state)
    return folder
