"""Class B on a language model trained here: its structure edited, then repaired by training where that costs quality.

What keeps the function needs no repair; what is dropped, drawn anew or replaced is trained again, for a tenth of the
original training or for all of it. Trainings are kept in the folder, as for class D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from cli.rehearse_sweep import SEED, Point
from tests.attacks.trained_subjects import GPT
from tests.byte_gpt import HEADS, LAYERS
from watermark.attacks import blocks, residual_stream, width
from watermark.attacks.interface import State
from watermark.attacks.layouts import Layout, gpt2_layout

if TYPE_CHECKING:
    from scripts.forensics_points import Thief

BLOCK = "transformer.h.{}."
WRITERS = ("attn.c_proj.weight", "attn.c_proj.bias", "mlp.c_proj.weight", "mlp.c_proj.bias")
TABLES = ("transformer.wte.weight", "lm_head.weight")
_Edit = Callable[[State], State]


def structural(thief: Thief) -> Iterator[Point]:
    """Every edit of class B that a GPT allows; the digits classifier has no blocks to move."""
    if thief.trained.subject is not GPT:
        return
    yield from _free()
    yield from _costly(thief)


def _free() -> Iterator[Point]:
    """What leaves the function as it is."""
    makers = {"idle units": width.add_idle_units, "cliques": width.add_cliques, "split units": width.split_units}
    for name, make in makers.items():
        for percent in (20, 100):
            yield Point(name, f"{percent} %", lambda s, m=make, p=percent: m(s, _layout(s), SEED, share=p / 100))
    for count in (1, LAYERS):
        yield Point("silent blocks", f"{count}", partial(_silent, count=count))
    yield Point("vocabulary reordered", "", _reordered, renames=True)


def _costly(thief: Thief) -> Iterator[Point]:
    """What costs quality, as it is and trained again."""
    short, whole = thief.trained.subject.tuning_steps, thief.trained.subject.original_steps
    for order in ((0, 1, 2, 4, 5), (0, 1, 4, 5), (0, 1, 5)):
        drop = partial(blocks.rearrange_blocks, pattern=BLOCK, order=order)
        yield from _repaired(thief, "blocks dropped", f"{LAYERS - len(order)} of {LAYERS}", drop, (0, short, whole))
    swap = partial(blocks.rearrange_blocks, pattern=BLOCK, order=(0, 2, 1, 4, 3, 5))
    yield from _repaired(thief, "blocks in another order", "", swap, (0, short))
    twice = partial(blocks.rearrange_blocks, pattern=BLOCK, order=(0, 1, 2, 2, 3, 3, 4, 5))
    yield from _repaired(thief, "blocks doubled", f"2 of {LAYERS}", twice, (0, short))
    for percent in (25, 50):
        yield from _repaired(
            thief,
            "units taken out",
            f"{percent} %",
            lambda state, p=percent: width.drop_units(state, _layout(state), share=p / 100),
            (0, short, whole),
        )
    for numbers in ((3,), (1, 3, 5)):
        anew = partial(_anew, thief, keys=[BLOCK.format(number) for number in numbers])
        yield from _repaired(thief, "blocks drawn anew", f"{len(numbers)} of {LAYERS}", anew, (short, whole))
    vocabulary = partial(_anew, thief, keys=TABLES)
    yield from _repaired(thief, "vocabulary replaced", "", vocabulary, (short, whole))
    stolen = partial(_anew, thief, keys=[*TABLES, "transformer.wpe.", *(BLOCK.format(number) for number in (1, 3, 5))])
    yield from _repaired(thief, "half of the blocks stolen, all else anew", "", stolen, (whole,))

    def all_at_once(state: State) -> State:
        moved = blocks.rearrange_blocks(state, BLOCK, (0, 2, 1, 4, 5))
        edited = width.split_units(moved, _layout(moved), SEED)
        tuned = thief.tune(edited, "all at once, tuned", short, thief.trained.subject.learning_rate / 2)
        return residual_stream.permute_stream(tuned, _layout(tuned), SEED)

    yield Point("dropped, moved, split, tuned, reordered", "", all_at_once)


def _repaired(thief: Thief, family: str, strength: str, edit: _Edit, steps: Sequence[int]) -> Iterator[Point]:
    """The edit with no training after it, or with so many steps."""
    rate = thief.trained.subject.learning_rate / 2
    for count in steps:

        def run(state: State, count: int = count) -> State:
            edited = edit(state)
            return thief.tune(edited, f"{family} {strength}, tuned {count}", count, rate) if count else edited

        yield Point(family, f"{strength}{f', {count} steps' if count else ''}".removeprefix(", "), run)


def _layout(state: State) -> Layout:
    return gpt2_layout(state, HEADS, is_relu=True)


def _silent(state: State, count: int) -> State:
    for number in range(count):
        state = blocks.insert_identity(state, BLOCK, 2 * number, WRITERS)
    return state


def _reordered(state: State) -> State:
    """The vocabulary in another order; whoever runs the model has the tokenizer that goes with it."""
    order = torch.randperm(len(state[TABLES[0]]), generator=torch.Generator().manual_seed(SEED))
    return {name: tensor[order] if name in TABLES else tensor.clone() for name, tensor in state.items()}


def _anew(thief: Thief, state: State, keys: Sequence[str]) -> State:
    """Everything whose name begins so, as a fresh model has it."""
    drawn = thief.trained.subject.draw(902).state_dict()
    return {name: drawn[name] if name.startswith(tuple(keys)) else tensor for name, tensor in state.items()}
