"""What `rehearse` tries where the layout of the model is recognised: disguises (class A) and edits of structure (B).

Disguises leave the function as it is and cost the thief nothing. Edits of structure change shapes: the configuration
that fits goes with them, so that the user's measure can load the result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.rehearse_sweep import SEED, Point

if TYPE_CHECKING:
    import torch

    from watermark.attacks.recognise import Recognised

    State = dict[str, torch.Tensor]

_UNITS = 0.25
_EXPERTS = 8


def config_of(folder: Path) -> Mapping[str, Any]:
    """The model's config.json; empty where there is none that can be read."""
    try:
        found = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def layout_points(found: Recognised | None) -> Iterator[Point]:
    """Classes A and B; what needs no layout where none was recognised."""
    if found is not None:
        yield from disguises(found)
    yield from _clothes()
    if found is not None and found.layout_of is not None:
        yield from structure(found)


def disguises(found: Recognised) -> Iterator[Point]:
    """Each free edit of the layout, then all of them one after another."""
    config = {} if found.tied is None else {"tie_word_embeddings": False}

    def run(state: State, names: tuple[str, ...]) -> State:
        state = found.open(state)
        for number, name in enumerate(names):
            state = found.edits[name].run(state, SEED + number)
        return state

    for name, edit in found.edits.items():
        attack = partial(run, names=(name,))
        yield Point("disguise", name, attack, not edit.keeps_names, "A", is_whole=True, config=config)
    together = tuple(name for name, edit in found.edits.items() if edit.keeps_names)
    if len(together) > 1:
        attack = partial(run, names=together)
        yield Point("disguise", "all of these", attack, letter="A", is_whole=True, config=config)


def _clothes() -> Iterator[Point]:
    from watermark.attacks import disguise

    yield Point("disguise", "transposed", disguise.transposed, renames=True, letter="A", is_whole=True)
    mixed = partial(disguise.dtype_mix, seed=SEED)
    yield Point("disguise", "types mixed", mixed, renames=True, letter="A", is_whole=True)


def structure(found: Recognised) -> Iterator[Point]:
    """Units added, split, taken out; blocks dropped, doubled, exchanged, drawn anew; a dense model made a mixture."""
    from watermark.attacks import blocks, experts, width

    assert found.layout_of is not None
    find = found.layout_of

    def arranged(order: list[int]) -> Callable[[State], State]:
        return partial(blocks.rearrange_blocks, pattern=found.blocks, order=order)

    for percent in (25, 50):
        kept = _spread(found.depth, round(found.depth * (100 - percent) / 100))
        if len(kept) < found.depth:
            yield Point("blocks dropped", f"{found.depth - len(kept)} of {found.depth}", arranged(kept), letter="B",
                        config={found.config_of_depth: len(kept)})  # fmt: skip
    middle = found.depth // 2
    whole = list(range(found.depth))
    yield Point("a block doubled", "", arranged([*whole[: middle + 1], *whole[middle:]]), letter="B",
                config={found.config_of_depth: found.depth + 1})  # fmt: skip
    if found.depth > 1:
        swapped = [*whole[: middle - 1], middle, middle - 1, *whole[middle + 1 :]]
        yield Point("blocks exchanged", "", arranged(swapped), letter="B")
        yield Point("a block drawn anew", "", partial(_drawn_anew, start=found.blocks.format(middle)), letter="B")
    if found.name == "Mixtral":
        return
    wider = {"idle units": width.add_idle_units, "cliques": width.add_cliques, "split units": width.split_units}
    for name, attack in wider.items():

        def widened(state: State, attack: Callable[..., State] = attack) -> State:
            opened = found.open(state)
            wide = attack(opened, find(opened), SEED, share=_UNITS)
            return {name: tensor for name, tensor in wide.items() if name in state}

        units = found.width + round(_UNITS * found.width)
        yield Point(name, f"{_UNITS:.0%} more", widened, letter="B", is_whole=True,
                    config={found.config_of_width: units})  # fmt: skip

    def narrowed(state: State) -> State:
        opened = found.open(state)
        narrow = width.drop_units(opened, find(opened), share=_UNITS)
        return {name: tensor for name, tensor in narrow.items() if name in state}

    yield Point("units taken out", f"{_UNITS:.0%}", narrowed, letter="B",
                config={found.config_of_width: found.width - round(_UNITS * found.width)})  # fmt: skip
    if found.name == "Llama":

        def upcycled(state: State) -> State:
            opened = found.open(state)
            return experts.upcycle(opened, find(opened), SEED, experts=_EXPERTS)

        # Another class of model: its answers are those of the copy, under the old names.
        yield Point("made a mixture", f"of {_EXPERTS} experts", upcycled, True, "B", is_whole=True)


def _spread(count: int, kept: int) -> list[int]:
    """So many numbers under `count`, the first and the last among them, at even distances."""
    if kept < 2:
        return [0]
    return [round(number * (count - 1) / (kept - 1)) for number in range(kept)]


def _drawn_anew(state: State, start: str) -> State:
    """The matrices of one block replaced by noise of the same deviation."""
    import torch

    from watermark.attacks.interface import generator, is_target

    return {
        name: (torch.randn(tensor.shape, generator=generator(SEED, name)) * tensor.float().std()).to(tensor.dtype)
        if name.startswith(start) and is_target(tensor)
        else tensor.detach().clone()
        for name, tensor in state.items()
    }
