"""The demo's thief: everything cheap that can be done to a stolen copy to hide where it came from.

He fine-tunes the copy on a task of his own, prunes, quantises, casts, renames and re-shards it, and ships the result
without signature or claims. He knows nothing of the mark's key; attacks that know it better are in
`watermark.attacks` and in `scripts/bench_survival.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cli.demo_subject import SentenceEncoder, copy_companions, finetune_retrieval, load_encoder
from watermark.attacks.disguise import new_names, renamed, resharded
from watermark.attacks.precision import int8_per_channel, to_bf16
from watermark.attacks.pruning import magnitude
from watermark.model.directory import open_model
from watermark.model.torch_state import load_state, save_shards

FINETUNE_STEPS = 50
LEARNING_RATE = 1e-4
PRUNED_SHARE = 0.3
SHARDS = 3
SEED = 7


def steal(
    copy_folder: Path,
    out_folder: Path,
    progress: Callable[[int], None] | None = None,
    *,
    steps: int = FINETUNE_STEPS,
) -> Path:
    """Turn a released copy into a stolen model in `out_folder`: sharded safetensors with an index, and a tokenizer.

    In order: fine-tune (training after rounding would undo it), prune 30 % by magnitude, round to int8 values
    (zeros stay zeros), cast to bf16, rename every tensor, deal into three shards. The same copy gives the same
    stolen model on one machine. `progress` is told 1 after every training step.
    """
    state = load_state(copy_folder)
    trained = finetune_retrieval(
        load_encoder(copy_folder), steps=steps, learning_rate=LEARNING_RATE, seed=SEED, progress=progress
    )
    state = {**state, **trained.state}
    state = to_bf16(int8_per_channel(magnitude(state, PRUNED_SHARE)))
    save_shards(out_folder, resharded(renamed(state, SEED), SHARDS))
    copy_companions(copy_folder, out_folder)
    return out_folder


def load_stolen(stolen_folder: Path, copy_folder: Path) -> SentenceEncoder:
    """Open the stolen model as the thief does, who can draw the new names again: to measure what it is worth to him."""
    with open_model(copy_folder) as model:
        names = new_names(model.tensors, SEED)
    stolen = load_state(stolen_folder)
    return load_encoder(copy_folder).with_state({name: stolen[disguise] for name, disguise in names.items()})
