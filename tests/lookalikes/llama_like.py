"""A small Llama-like model as a function of its weights: RMS norm, rotary positions, grouped queries, gated layers.

Names are those of transformers, so that attacks and peers know where the parts lie; a mixture whose experts are all
one dense layer, as upcycling leaves it, is run by its first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional

from watermark.attacks.interface import State

HEADS, KEY_HEADS, WIDTH, HIDDEN, BLOCKS = 4, 2, 64, 128, 2
#: Told for each block what its hidden layer reads and the stream after it, both (texts, places, width).
Tap = Callable[[torch.Tensor, torch.Tensor], None]


def llama_shapes(
    words: int, *, width: int = WIDTH, hidden: int = HIDDEN, blocks: int = BLOCKS
) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    keys = width * KEY_HEADS // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (words, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (words, width),
    }
    for number in range(blocks):
        at = f"model.layers.{number}."
        shapes |= {f"{at}{norm}_layernorm.weight": (width,) for norm in ("input", "post_attention")}
        sizes = {"q": (width, width), "k": (keys, width), "v": (keys, width), "o": (width, width)}
        shapes |= {f"{at}self_attn.{part}_proj.weight": size for part, size in sizes.items()}
        shapes |= {f"{at}mlp.{part}_proj.weight": (hidden, width) for part in ("gate", "up")}
        shapes[at + "mlp.down_proj.weight"] = (width, hidden)
    return shapes


def run_llama(state: State, inputs: torch.Tensor, tap: Tap | None = None) -> torch.Tensor:
    """Scores of the next token, (texts, places, words)."""
    count, length = inputs.shape
    stream = state["model.embed_tokens.weight"][inputs]
    width = stream.shape[-1]
    size = width // HEADS
    mask = torch.full((length, length), -1e9).triu(1)
    number = 0
    while f"model.layers.{number}.input_layernorm.weight" in state:
        at = f"model.layers.{number}."
        seen = normed(stream, state[at + "input_layernorm.weight"])
        query, key, value = (
            (seen @ state[f"{at}self_attn.{part}_proj.weight"].T).reshape(count, length, -1, size).transpose(1, 2)
            for part in "qkv"
        )
        key, value = (part.repeat_interleave(HEADS // KEY_HEADS, dim=1) for part in (_turned(key), value))
        shares = torch.softmax(_turned(query) @ key.transpose(-1, -2) / math.sqrt(size) + mask, dim=-1)
        heard = (shares @ value).transpose(1, 2).reshape(count, length, width)
        stream = stream + heard @ state[at + "self_attn.o_proj.weight"].T
        seen = normed(stream, state[at + "post_attention_layernorm.weight"])
        gate, up, down = _hidden(state, at + "mlp.")
        stream = stream + (functional.silu(seen @ gate.T) * (seen @ up.T)) @ down.T
        if tap is not None:
            tap(seen, stream)
        number += 1
    return normed(stream, state["model.norm.weight"]) @ state["lm_head.weight"].T


def normed(values: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """RMS norm."""
    return values * torch.rsqrt(values.square().mean(dim=-1, keepdim=True) + 1e-5) * gain


def _hidden(state: State, at: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if at + "experts.down_proj" in state:
        gate, up = state[at + "experts.gate_up_proj"][0].chunk(2)
        return gate, up, state[at + "experts.down_proj"][0]
    gate, up, down = (state[f"{at}{part}_proj.weight"] for part in ("gate", "up", "down"))
    return gate, up, down


def _turned(values: torch.Tensor) -> torch.Tensor:
    """Rotary positions: number i of a head turns with number i + half."""
    length, size = values.shape[-2:]
    speeds = 10_000.0 ** (-torch.arange(size // 2) / (size // 2))
    angles = torch.arange(length)[:, None] * speeds
    first, second = values.chunk(2, dim=-1)
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1
    )
