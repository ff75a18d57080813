"""Small models of the layouts that sketches know, trained for a moment on Python's own manual, and their siblings.

A state dict each, under the names that `watermark.attacks.layouts` expects. Training is short: what a sketch must tell
apart is two trainings, not two good models.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from functools import cache
from pydoc_data.topics import topics

import torch

from watermark.attacks.finetune import finetune
from watermark.attacks.interface import State
from watermark.attacks.layouts import Layout, bert_layout, gpt2_layout, llama_layout

HEADS, KEY_HEADS, WIDTH, LAYERS = 4, 2, 64, 4
TRANSFORMERS = ("gpt", "bert", "llama", "moe")
BLOCKS = {
    "gpt": "transformer.h.{}.",
    "bert": "encoder.layer.{}.",
    "llama": "model.layers.{}.",
    "moe": "model.layers.{}.",
}
_MASK = 256


def layout_of(kind: str, state: State) -> Layout:
    """Where the parts lie, as the thief who runs the model knows."""
    if kind == "gpt":
        return gpt2_layout(state, HEADS)
    return bert_layout(state, HEADS) if kind == "bert" else llama_layout(state, HEADS, KEY_HEADS)


@cache
def trained(kind: str, seed: int, steps: int = 60) -> State:
    """The state of a model that was drawn and trained from `seed`; shared, not to be changed."""
    return _state(kind, _trained_module(kind, seed, steps))


@cache
def sibling(kind: str, seed: int, number: int, steps: int = 30) -> State:
    """A fine-tune of `trained(kind, seed)` on other pieces of the text."""
    return _state(kind, _train(_trained_module(kind, seed, 60), kind, 1_000 + number, steps, 1e-3))


@cache
def _trained_module(kind: str, seed: int, steps: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _module(kind)
    return _train(module, kind, seed, steps, 3e-3)


def _module(kind: str) -> torch.nn.Module:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    ends = {"bos_token_id": None, "eos_token_id": None}
    if kind == "gpt":
        config = transformers.GPT2Config(
            vocab_size=260, n_positions=48, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, resid_pdrop=0, embd_pdrop=0,
            attn_pdrop=0, **ends,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config)
    if kind == "bert":
        config = transformers.BertConfig(
            vocab_size=260, intermediate_size=4 * WIDTH, max_position_embeddings=48, hidden_dropout_prob=0,
            attention_probs_dropout_prob=0, **sizes,
        )  # fmt: skip
        return transformers.BertForMaskedLM(config)
    sizes |= {"vocab_size": 260, "num_key_value_heads": KEY_HEADS, **ends}
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(intermediate_size=176, **sizes))
    config = transformers.MixtralConfig(intermediate_size=96, num_local_experts=4, num_experts_per_tok=2, **sizes)
    return transformers.MixtralForCausalLM(config)


def _train(module: torch.nn.Module, kind: str, seed: int, steps: int, rate: float) -> torch.nn.Module:
    def loss(student: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        if kind != "bert":
            return student(input_ids=batch, labels=batch).loss
        hidden = torch.rand(batch.shape, generator=torch.Generator().manual_seed(int(batch.sum()))) < 0.2
        return student(input_ids=batch.masked_fill(hidden, _MASK), labels=batch.masked_fill(~hidden, -100)).loss

    found = finetune(module, _batches(seed), loss, steps=steps, learning_rate=rate, seed=seed)
    student = copy.deepcopy(module)
    student.load_state_dict(found.state)
    return student


def _batches(seed: int) -> Iterator[torch.Tensor]:
    text = torch.tensor(list("\n".join(topics[name] for name in sorted(topics)).encode()), dtype=torch.long)
    stream = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - 48, (8,), generator=stream)
        yield torch.stack([text[start : start + 48] for start in starts.tolist()])


def _state(kind: str, module: torch.nn.Module) -> State:
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    if kind != "bert":
        return state
    return {name.removeprefix("bert."): tensor for name, tensor in state.items() if name.startswith("bert.")}
