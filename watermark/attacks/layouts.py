"""Where the parts of a transformer lie in its state dict: what a thief knows of the model that he runs.

Attacks that leave the function unchanged must treat the parts of a layer together. They are written once over these
parts: embeddings, norms, query, key, value and output, hidden units, experts. Only attacks read names like this; the
defence never does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from watermark.attacks.interface import State
from watermark.errors import InputError


@dataclass(frozen=True)
class Linear:
    """A linear map, or some outputs of one, or one entry of a stack: read and written as (outputs, inputs)."""

    weight: str
    bias: str | None = None
    is_transposed: bool = False
    start: int = 0
    stop: int | None = None
    entry: int | None = None

    def read(self, state: State) -> torch.Tensor:
        """A copy in float64."""
        whole = state[self.weight] if self.entry is None else state[self.weight][self.entry]
        return (whole.T if self.is_transposed else whole)[self.start : self.stop].double()

    def write(self, state: State, values: torch.Tensor) -> None:
        """Put values of the same shape back."""
        whole = state[self.weight] if self.entry is None else state[self.weight][self.entry]
        (whole.T if self.is_transposed else whole)[self.start : self.stop] = values.to(whole.dtype)

    def read_bias(self, state: State) -> torch.Tensor | None:
        """A copy of the bias in float64; None without one."""
        return None if self.bias is None else state[self.bias][self.start : self.stop].double()

    def write_bias(self, state: State, values: torch.Tensor) -> None:
        """Put a bias of the same length back."""
        if self.bias is not None:
            state[self.bias][self.start : self.stop] = values.to(state[self.bias].dtype)


@dataclass(frozen=True)
class Norm:
    """A layer norm (with a bias) or RMS norm (without)."""

    weight: str
    bias: str | None = None


@dataclass(frozen=True)
class Expert:
    """One set of hidden units; `gate` only where the layer is gated."""

    up: Linear
    down: Linear
    gate: Linear | None = None

    @property
    def readers(self) -> tuple[Linear, ...]:
        """What reads the stream."""
        return (self.up,) if self.gate is None else (self.gate, self.up)


@dataclass(frozen=True)
class Layer:
    """One block."""

    before_attention: Norm
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    before_hidden: Norm
    experts: tuple[Expert, ...]
    router: Linear | None = None

    @property
    def readers(self) -> tuple[tuple[Norm, tuple[Linear, ...]], ...]:
        """Each norm with what reads its output (pre-norm layouts)."""
        hidden = tuple(linear for expert in self.experts for linear in expert.readers)
        router = () if self.router is None else (self.router,)
        return (
            (self.before_attention, (self.query, self.key, self.value)),
            (self.before_hidden, (*hidden, *router)),
        )

    @property
    def writers(self) -> tuple[Linear, ...]:
        """What writes to the stream."""
        return (self.output, *(expert.down for expert in self.experts))


@dataclass(frozen=True)
class Layout:
    """A whole transformer.

    Attributes:
        embeddings: tables whose rows are added to the stream.
        layers: the blocks in order.
        heads: query heads.
        key_heads: key and value heads, as many or fewer.
        final: the last norm and the output matrix, where there are.
        is_pre_norm: norms stand before the readers, so that their gains can be folded and the stream be turned.
        is_centred: layer norm, which takes the mean out, and not RMS norm.
        is_rotary: queries and keys are turned by position.
        other: further norms and readers of the stream (an embedding's norm, a pooler).
        is_scalable: hidden units can be scaled (ReLU, or the up projection of a gated layer).
    """

    embeddings: tuple[str, ...]
    layers: tuple[Layer, ...]
    heads: int
    key_heads: int
    final: tuple[Norm, Linear] | None
    is_pre_norm: bool
    is_centred: bool
    is_rotary: bool
    is_scalable: bool
    other: tuple[Norm | Linear, ...] = ()


def _layers(state: State, pattern: str) -> range:
    count = 0
    while pattern.format(count) in state:
        count += 1
    if not count:
        raise InputError(
            f"no tensor is called {pattern.format(0)!r}: this is another layout",
            hint="name the layout that the state dict has",
        )
    return range(count)


def gpt2_layout(state: State, heads: int, *, is_relu: bool = False, prefix: str = "transformer.") -> Layout:
    """GPT-2 of transformers: pre-norm, learned positions, fused projections stored (inputs, outputs)."""
    layers = []
    for number in _layers(state, prefix + "h.{}.ln_1.weight"):
        at = f"{prefix}h.{number}."
        width = len(state[at + "ln_1.weight"])
        fused = [
            Linear(at + "attn.c_attn.weight", at + "attn.c_attn.bias", True, part * width, (part + 1) * width)
            for part in range(3)
        ]
        layers.append(
            Layer(
                Norm(at + "ln_1.weight", at + "ln_1.bias"),
                fused[0],
                fused[1],
                fused[2],
                Linear(at + "attn.c_proj.weight", at + "attn.c_proj.bias", True),
                Norm(at + "ln_2.weight", at + "ln_2.bias"),
                (
                    Expert(
                        Linear(at + "mlp.c_fc.weight", at + "mlp.c_fc.bias", True),
                        Linear(at + "mlp.c_proj.weight", at + "mlp.c_proj.bias", True),
                    ),
                ),
            )
        )
    final = (Norm(prefix + "ln_f.weight", prefix + "ln_f.bias"), Linear("lm_head.weight"))
    return Layout(
        (prefix + "wte.weight", prefix + "wpe.weight"),
        tuple(layers),
        heads,
        heads,
        final,
        is_pre_norm=True,
        is_centred=True,
        is_rotary=False,
        is_scalable=is_relu,
    )


def llama_layout(state: State, heads: int, key_heads: int) -> Layout:
    """Llama of transformers: RMS norm, rotary positions, grouped queries, gated hidden units; Mixtral's experts too."""
    layers = []
    for number in _layers(state, "model.layers.{}.input_layernorm.weight"):
        at = f"model.layers.{number}."
        experts, router = _llama_hidden(state, at)
        query, key, value, output = (Linear(f"{at}self_attn.{name}_proj.weight") for name in "qkvo")
        layers.append(
            Layer(
                Norm(at + "input_layernorm.weight"),
                query,
                key,
                value,
                output,
                Norm(at + "post_attention_layernorm.weight"),
                experts,
                router,
            )
        )
    return Layout(
        ("model.embed_tokens.weight",),
        tuple(layers),
        heads,
        key_heads,
        (Norm("model.norm.weight"), Linear("lm_head.weight")),
        is_pre_norm=True,
        is_centred=False,
        is_rotary=True,
        is_scalable=True,
    )


def _llama_hidden(state: State, at: str) -> tuple[tuple[Expert, ...], Linear | None]:
    if at + "mlp.up_proj.weight" in state:
        up, down, gate = (Linear(f"{at}mlp.{name}_proj.weight") for name in ("up", "down", "gate"))
        return (Expert(up, down, gate),), None
    fused, down_name = at + "mlp.experts.gate_up_proj", at + "mlp.experts.down_proj"
    units = state[fused].shape[1] // 2
    experts = tuple(
        Expert(
            Linear(fused, start=units, stop=2 * units, entry=entry),
            Linear(down_name, entry=entry),
            Linear(fused, start=0, stop=units, entry=entry),
        )
        for entry in range(len(state[fused]))
    )
    return experts, Linear(at + "mlp.gate.weight")


def bert_layout(state: State, heads: int) -> Layout:
    """BERT of transformers: norms after each sum, so that the stream can only be reordered."""
    layers = []
    for number in _layers(state, "encoder.layer.{}.attention.self.query.weight"):
        at = f"encoder.layer.{number}."

        def linear(name: str, at: str = at) -> Linear:
            return Linear(f"{at}{name}.weight", f"{at}{name}.bias")

        layers.append(
            Layer(
                _norm(at + "attention.output.LayerNorm"),
                linear("attention.self.query"),
                linear("attention.self.key"),
                linear("attention.self.value"),
                linear("attention.output.dense"),
                _norm(at + "output.LayerNorm"),
                (Expert(linear("intermediate.dense"), linear("output.dense")),),
            )
        )
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    pooler = (Linear("pooler.dense.weight", "pooler.dense.bias"),) if "pooler.dense.weight" in state else ()
    return Layout(
        tuple(f"embeddings.{name}.weight" for name in tables),
        tuple(layers),
        heads,
        heads,
        None,
        is_pre_norm=False,
        is_centred=True,
        is_rotary=False,
        is_scalable=False,
        other=(_norm("embeddings.LayerNorm"), *pooler),
    )


def _norm(name: str) -> Norm:
    return Norm(name + ".weight", name + ".bias")
