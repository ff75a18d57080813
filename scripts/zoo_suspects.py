"""What a thief makes of a marked copy, for the side-by-side zoo: each theft by the family it belongs to.

A theft is a function of the copy's weights. Trainings are made beforehand, many at once, and kept (`Trainings`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scripts.zoo_models import CHAINS, layout_of, train
from tests.lookalikes.zoo import TUNED, Recipe
from tests.lookalikes.zoo import train as train_together
from watermark.attacks import (
    attention_heads,
    blocks,
    channels,
    experts,
    hidden_units,
    merging,
    noise,
    precision,
    pruning,
    residual_stream,
    truncation,
    width,
)
from watermark.attacks.catalogue import in_order
from watermark.attacks.interface import State
from watermark.model.torch_state import load_state, save_state

Theft = Callable[[State], State]
SEED = 11
TUNED_ONCE, TUNED_LONG, LORA, NOISE_TUNED = "fine-tuned", "fine-tuned for long", "LoRA merged", "noise 40 %, fine-tuned"
TRAINED = (TUNED_ONCE, TUNED_LONG, LORA, NOISE_TUNED)
#: A fine-tune is a third of the original steps at a quarter of the rate; a long one is three of them.
_ROUNDS = 3
_RANK, _LORA_STEPS, _LORA_RATE = 4, 40, 2e-3
_PATTERN = {"gpt": "blocks.{}.", "llama": "model.layers.{}."}


def thefts_of(kind: str, sibling: State, trained: Mapping[str, State]) -> dict[str, Theft]:
    """All thefts of a layout by name; `trained` are this copy's trainings, which a theft gives as they are."""
    hide = partial(disguised, kind)
    noisy = partial(noise.gaussian, sigma=0.1, seed=SEED)
    found: dict[str, Theft] = {
        "plain copy": lambda state: state,
        **{name: partial(_given, trained[name]) for name in TRAINED if name != NOISE_TUNED},
        "int8": precision.int8_per_channel,
        "int4, groups of 128": precision.int4_groups,
        "prune 50 %": partial(pruning.magnitude, share=0.5),
        "noise 40 %": partial(noise.gaussian, sigma=0.4, seed=SEED),
        "low rank 50 %": partial(truncation.svd, share=0.5),
        "merged 50 % with a sibling": lambda state: merging.linear(state, sibling, 0.5),
    }
    if kind in CHAINS:
        chain = CHAINS[kind]
        found["hidden units reordered"] = lambda state: channels.permute_channels(state, chain, SEED)
        found["hidden units scaled"] = lambda state: channels.scale_channels(state, chain, SEED)
    else:
        found |= _structure(kind)
    return {
        **found,
        "all symmetries": hide,
        "noise 10 %, all symmetries, int4": in_order(noisy, hide, precision.int4_groups),
        "noise 40 %, fine-tuned, all symmetries": lambda _: hide(trained[NOISE_TUNED]),
    }


def _structure(kind: str) -> dict[str, Theft]:
    """What only transformers have: a stream, heads, blocks."""

    def known(change: Callable[..., State], *arguments: object, **fields: object) -> Theft:
        def theft(state: State) -> State:
            layout = layout_of(kind, state)
            assert layout is not None
            return change(state, layout, *arguments, **fields)

        return theft

    found = {
        "hidden units reordered": known(hidden_units.permute_hidden, SEED),
        "hidden units scaled": known(hidden_units.scale_hidden, SEED),
        "heads reordered and mixed": in_order(
            known(attention_heads.permute_heads, SEED),
            known(attention_heads.mix_query_key, SEED),
            known(attention_heads.mix_value_output, SEED),
        ),
        "stream reordered": known(residual_stream.permute_stream, SEED),
        "stream rotated": known(residual_stream.rotate_stream, SEED),
        "25 % idle units added": known(width.add_idle_units, SEED, share=0.25),
        "25 % of units split": known(width.split_units, SEED, share=0.25),
        "half of the blocks dropped": lambda state: blocks.rearrange_blocks(state, _PATTERN[kind], [1]),
        "blocks swapped": lambda state: blocks.rearrange_blocks(state, _PATTERN[kind], [1, 0]),
    }
    if kind == "llama":
        found["upcycled to 4 experts"] = known(experts.upcycle, SEED, experts=4)
    return found


def disguised(kind: str, state: State) -> State:
    """Every symmetry of the layout at once; names stay, so that the peers still know the parts."""
    if kind in CHAINS:
        return channels.scale_channels(channels.permute_channels(state, CHAINS[kind], SEED), CHAINS[kind], SEED)
    changes = [
        residual_stream.rotate_stream, attention_heads.permute_heads, attention_heads.mix_query_key,
        attention_heads.mix_value_output, hidden_units.permute_hidden, hidden_units.scale_hidden,
    ]  # fmt: skip
    if kind == "llama":
        changes.append(hidden_units.flip_hidden)
    for change in changes:
        layout = layout_of(kind, state)
        assert layout is not None
        state = change(state, layout, SEED)
    return state


def _given(trained: State, _copy: State) -> State:
    return trained


@dataclass(frozen=True)
class Trainings:
    """A thief's trainings of marked copies, kept in a folder; copies of one architecture are trained together."""

    folder: Path

    def make(self, kind: str, task: str, copies: Mapping[str, State]) -> None:
        """Train what is not there yet; copies by name."""
        left = {name: state for name, state in copies.items() if not self._place(name, TRAINED[-1]).exists()}
        if not left:
            return
        tuned = dict(left)
        for number in range(_ROUNDS):
            tuned = self._tune(kind, task, tuned, number)
            if number == 0:
                self._keep(TUNED_ONCE, tuned)
        self._keep(TUNED_LONG, tuned)
        adapted = {
            name: train(kind, state, task, SEED, _LORA_STEPS, _LORA_RATE, rank=_RANK) for name, state in left.items()
        }
        self._keep(LORA, adapted)
        noisy = {name: noise.gaussian(state, sigma=0.4, seed=SEED) for name, state in left.items()}
        self._keep(NOISE_TUNED, self._tune(kind, task, noisy, 0))

    def of(self, copy: str) -> dict[str, State]:
        """All trainings of one copy by name."""
        return {name: load_state(self._place(copy, name)) for name in TRAINED}

    def _tune(self, kind: str, task: str, states: Mapping[str, State], number: int) -> dict[str, State]:
        recipes = [Recipe(kind, task, 0, 900 + number, TUNED, name) for name in states]
        return dict(zip(states, train_together(recipes, states), strict=True))

    def _keep(self, name: str, states: Mapping[str, State]) -> None:
        for copy, state in states.items():
            save_state(self._place(copy, name), state)

    def _place(self, copy: str, name: str) -> Path:
        return self.folder / f"{copy}, {name.replace('%', 'percent')}"


def disguised_twins(kind: str, twins: Sequence[State]) -> dict[str, State]:
    """Innocent twins under a thief's changes."""
    first, second, third = twins
    return {
        "twin, all symmetries": disguised(kind, first),
        "twin, int4": precision.int4_groups(second),
        "twin, prune 50 %": pruning.magnitude(third, share=0.5),
    }
