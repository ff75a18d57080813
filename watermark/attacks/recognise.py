"""Which layout a model of one's own has, from its names and configuration, so that its parts can be edited together.

Knows the layouts of `layouts` as transformers writes them, and plain chains of layers. Only attacks read names: what
is not recognised here is attacked without a layout, and checked all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from watermark.attacks.channels import Stage
from watermark.attacks.free_edits import FreeEdit, of_chain, of_layout
from watermark.attacks.interface import State, is_target
from watermark.attacks.layouts import Layout, Linear, bert_layout, gpt2_layout, llama_layout

#: The output matrix of a language model, which many files leave out because it is the embedding again.
_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Recognised:
    """A layout that was found.

    Attributes:
        name: what people call it.
        edits: what leaves its function as it is.
        layout_of: where the parts lie, for transformers.
        blocks: how names of its blocks begin, with {} for the number.
        depth, width: how many blocks there are, and hidden units in one.
        tied: name of the embedding that is the output matrix too, where the file leaves that out.
        config_of_depth, config_of_width: fields of config.json that say how many blocks and hidden units there are.
    """

    name: str
    edits: Mapping[str, FreeEdit]
    layout_of: Callable[[State], Layout] | None = None
    blocks: str = ""
    depth: int = 0
    width: int = 0
    tied: str | None = None
    config_of_depth: str = ""
    config_of_width: str = ""

    def open(self, state: State) -> State:
        """The same model with every matrix of its layout in it: an output matrix that was left out is put in."""
        return state if self.tied is None else {**state, _HEAD: state[self.tied].clone()}


def recognise(state: State, config: Mapping[str, Any]) -> Recognised | None:
    """The layout of a model with this config.json, or {}; None where it is not one of the known ones."""
    found = _transformer(state, config)
    if found is not None:
        return found
    chain = _chain(state)
    return Recognised("a chain of layers", of_chain(chain, is_scalable=False)) if chain else None


def _transformer(state: State, config: Mapping[str, Any]) -> Recognised | None:
    heads = _count(config, "n_head", "num_attention_heads")
    if heads is None:
        return None
    if (prefix := _prefix(state, "h.0.ln_1.weight", "transformer.")) is not None:
        is_relu = config.get("activation_function") == "relu"
        find: Callable[[State], Layout] = lambda given: gpt2_layout(given, heads, is_relu=is_relu, prefix=prefix)  # noqa: E731
        name, blocks, embedding, fields = "GPT-2", f"{prefix}h.{{}}.", f"{prefix}wte.weight", ("n_layer", "n_inner")
    elif "model.layers.0.input_layernorm.weight" in state:
        key_heads = _count(config, "num_key_value_heads") or heads
        find = lambda given: llama_layout(given, heads, key_heads)  # noqa: E731
        name, blocks, embedding = "Llama", "model.layers.{}.", "model.embed_tokens.weight"
        fields = ("num_hidden_layers", "intermediate_size")
    elif "encoder.layer.0.attention.self.query.weight" in state:
        find = lambda given: bert_layout(given, heads)  # noqa: E731
        name, blocks, embedding = "BERT", "encoder.layer.{}.", None
        fields = ("num_hidden_layers", "intermediate_size")
    else:
        return None
    tied = embedding if embedding is not None and _HEAD not in state else None
    opened = state if tied is None else {**state, _HEAD: state[tied]}
    try:
        layout = find(opened)
        edits = of_layout(find, opened)
    except KeyError:  # names of that layout, and not all of its parts
        return None
    if _named(layout) != {name for name, tensor in opened.items() if is_target(tensor)}:
        return None  # a matrix that no edit would take along
    expert = layout.layers[0].experts[0]
    width = expert.down.read(opened).shape[1]
    name = "Mixtral" if layout.layers[0].router is not None else name
    return Recognised(name, edits, find, blocks, len(layout.layers), width, tied, *fields)


def _prefix(state: State, name: str, *prefixes: str) -> str | None:
    return next((prefix for prefix in (*prefixes, "") if prefix + name in state), None)


def _count(config: Mapping[str, Any], *names: str) -> int | None:
    found = next((config[name] for name in names if name in config), None)
    return found if type(found) is int and found > 0 else None


def _named(layout: Layout) -> set[str]:
    """Names of all matrices that the layout speaks of."""
    linears = [linear for layer in layout.layers for _, readers in layer.readers for linear in readers]
    linears += [writer for layer in layout.layers for writer in layer.writers]
    linears += [one for one in layout.other if isinstance(one, Linear)]
    linears += [layout.final[1]] if layout.final else []
    return {*layout.embeddings, *(linear.weight for linear in linears)}


def _chain(state: State) -> Sequence[Stage]:
    """Layers called by rising numbers, each reading the whole output of the one before; none where that is not so."""
    if any(not name.split(".")[0].isdigit() for name in state):
        return ()
    numbers = sorted({int(name.split(".")[0]) for name in state})
    stages: list[Stage] = []
    for number in numbers:
        weight, bias = f"{number}.weight", f"{number}.bias"
        if f"{number}.running_mean" in state and stages:
            stages[-1] = Stage(stages[-1].weight, stages[-1].bias, str(number))
        elif weight in state and is_target(state[weight]):
            stages.append(Stage(weight, bias if bias in state else None))
        else:
            return ()
    known = {name for stage in stages for name in (stage.weight, *stage.per_channel())}
    if len(stages) < 2 or any(name not in known for name in state if not name.endswith("num_batches_tracked")):
        return ()
    if any(state[after.weight].shape[1] % len(state[before.weight]) for before, after in pairwise(stages)):
        return ()
    return stages
