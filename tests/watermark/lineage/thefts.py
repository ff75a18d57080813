"""What thieves do to the small models here: free of charge, at a price, and several on top of each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tests.watermark.lineage.chains import reordered
from tests.watermark.lineage.small_models import BLOCKS, layout_of
from watermark.attacks import (
    attention_heads,
    blocks,
    disguise,
    experts,
    hidden_units,
    noise,
    precision,
    projections,
    pruning,
    residual_stream,
    width,
)
from watermark.attacks.catalogue import ATTACKS, in_order
from watermark.attacks.interface import State

Theft = Callable[[State], State]
_LOSSY = ("bf16", "dtype-mix", "int8", "int4-g128", "nf4", "int2-g128", "prune-30", "prune-50", "prune-random-30",
          "prune-2:4", "noise-10", "noise-40", "svd-50", "svd-25")  # fmt: skip


def free_of_charge(kind: str) -> dict[str, Theft]:
    """Edits that leave a transformer's function as it is, and how its maps are stored."""

    def known(change: Callable[..., State], *arguments: int) -> Theft:
        return lambda state: change(state, layout_of(kind, state), *arguments)

    found: dict[str, Theft] = {
        "heads": known(attention_heads.permute_heads, 1),
        "query-key mix": known(attention_heads.mix_query_key, 1),
        "value-output mix": known(attention_heads.mix_value_output, 1),
        "hidden units": known(hidden_units.permute_hidden, 1),
        "stream reordered": known(residual_stream.permute_stream, 1),
        "rename": partial(disguise.renamed, seed=1),
        "transpose": disguise.transposed,
    }
    if kind != "bert":
        found["norms folded"] = known(residual_stream.fold_norms)
        found["rotation"] = known(residual_stream.rotate_stream, 1)
        found["stream scaled"] = known(residual_stream.scale_stream)
    if kind == "gpt":
        found["projections split"] = known(projections.split_projections)
    if kind in ("llama", "bert"):
        found["projections fused"] = known(projections.fuse_projections)
    if kind in ("llama", "moe"):
        found["units scaled"] = known(hidden_units.scale_hidden, 1)
        found["units turned round"] = known(hidden_units.flip_hidden, 1)
    if kind == "moe":
        found["experts"] = known(experts.permute_experts, 1)
        found["router"] = known(experts.shift_router, 1)
    else:
        found["idle units"] = known(width.add_idle_units, 1)
        found["split units"] = known(width.split_units, 1)
    found["all symmetries"] = partial(all_symmetries, kind)
    return found


def all_symmetries(kind: str, state: State, seed: int = 5) -> State:
    """Everything at once that this layout allows."""
    layout = layout_of(kind, state)
    turn = residual_stream.permute_stream if kind == "bert" else residual_stream.rotate_stream
    state = turn(state, layout, seed)
    for change in (attention_heads.permute_heads, attention_heads.mix_query_key, attention_heads.mix_value_output,
                   hidden_units.permute_hidden):  # fmt: skip
        state = change(state, layout, seed)
    if kind in ("llama", "moe"):
        state = hidden_units.flip_hidden(hidden_units.scale_hidden(state, layout, seed), layout, seed)
    if kind == "moe":
        state = experts.shift_router(experts.permute_experts(state, layout, seed), layout, seed)
    return disguise.renamed(state, seed)


def lossy() -> Mapping[str, Theft]:
    """Rounding, pruning, noise and truncation up to where such models stop being useful."""
    return {name: ATTACKS[name] for name in _LOSSY}


def on_top_of_each_other(kind: str) -> dict[str, Theft]:
    """Noise and pruning under symmetries and int4, and a third or a quarter of the blocks dropped."""

    def dropped(state: State) -> State:
        return blocks.rearrange_blocks(state, BLOCKS[kind], [0, 2, 3])

    hide = partial(all_symmetries, kind)
    return {
        "a block dropped": dropped,
        "blocks moved": lambda state: blocks.rearrange_blocks(state, BLOCKS[kind], [0, 2, 1, 3]),
        "prune-50, all symmetries, int4": in_order(partial(pruning.magnitude, share=0.5), hide, precision.int4_groups),
        "noise-10, all symmetries, int4": in_order(
            partial(noise.gaussian, sigma=0.1, seed=3), hide, precision.int4_groups
        ),
        "noise-40, all symmetries, int4, a block dropped": in_order(
            dropped, partial(noise.gaussian, sigma=0.4, seed=3), hide, precision.int4_groups
        ),
    }


def chain_thefts(kind: str) -> dict[str, Theft]:
    """The same for plain networks."""
    hide = partial(reordered, kind, seed=5)
    return {
        **{name: ATTACKS[name] for name in _LOSSY if name != "svd-25"},
        "rename": partial(disguise.renamed, seed=1),
        "transpose": disguise.transposed,
        "units reordered and scaled": hide,
        "noise-10, reordered, int4": in_order(partial(noise.gaussian, sigma=0.1, seed=3), hide, precision.int4_groups),
        "prune-50, reordered": in_order(partial(pruning.magnitude, share=0.5), hide),
    }
