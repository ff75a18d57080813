"""Every edit of a recognised layout that leaves its function as it is, by name.

What one costs the thief is a line of code; see the modules it comes from. For rehearsals, benches and tests that try
all of them, alone or one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from watermark.attacks import attention_heads, channels, experts, hidden_units, projections, residual_stream
from watermark.attacks.channels import Stage
from watermark.attacks.interface import State
from watermark.attacks.layouts import Layout


@dataclass(frozen=True)
class FreeEdit:
    """One edit, called with the weights and a seed.

    `is_free`: it mixes so freely that undoing it is a fit, which costs some evidence. `keeps_names`: a loader of the
    layout takes the result as it is.
    """

    run: Callable[[State, int], State]
    is_free: bool = False
    keeps_names: bool = True


def of_layout(layout_of: Callable[[State], Layout], sample: State) -> Mapping[str, FreeEdit]:
    """The edits of a transformer like `sample`; `layout_of` finds the parts of each state that is given."""
    layout = layout_of(sample)

    def on(attack: Callable[..., State], *, seeded: bool = True, **fields: Any) -> FreeEdit:
        is_free = fields.pop("is_free", False)

        def run(state: State, seed: int) -> State:
            return attack(state, layout_of(state), *([seed] if seeded else []), **fields)

        return FreeEdit(run, is_free)

    found = {
        "hidden permuted": on(hidden_units.permute_hidden),
        "heads permuted": on(attention_heads.permute_heads),
        "query-key mixed": on(attention_heads.mix_query_key, is_free=True),
        "value-output mixed": on(attention_heads.mix_value_output, is_free=True),
        "stream permuted": on(residual_stream.permute_stream),
    }
    if layout.is_pre_norm:
        found |= {
            "norms folded": on(residual_stream.fold_norms),
            "stream rotated": on(residual_stream.rotate_stream, is_free=True),
        }
    if layout.is_scalable:
        found["hidden scaled"] = on(hidden_units.scale_hidden)
    if all(expert.gate is not None for layer in layout.layers for expert in layer.experts):
        found["hidden flipped"] = on(hidden_units.flip_hidden)
    if not layout.is_centred:
        found["stream scaled"] = on(residual_stream.scale_stream, seeded=False)
    if all(layer.router is not None for layer in layout.layers):
        found |= {"experts permuted": on(experts.permute_experts), "router shifted": on(experts.shift_router)}
    is_fused = layout.layers[0].query.stop is not None
    other = on(projections.split_projections if is_fused else projections.fuse_projections, seeded=False)
    found[f"projections {'split' if is_fused else 'fused'}"] = FreeEdit(other.run, keeps_names=False)
    return found


def of_chain(chain: Sequence[Stage], *, is_scalable: bool) -> Mapping[str, FreeEdit]:
    """The edits of layers one after another; `is_scalable` where ReLU stands between them."""

    def on(attack: Callable[..., State]) -> FreeEdit:
        return FreeEdit(lambda state, seed: attack(state, chain, seed))

    found = {"channels permuted": on(channels.permute_channels)}
    if is_scalable:
        found["channels scaled"] = on(channels.scale_channels)
    if any(stage.norm for stage in chain):
        fold = partial(channels.fold_batch_norms, chain=chain)
        found["batch norm folded"] = FreeEdit(lambda state, _: fold(state))
    return found
