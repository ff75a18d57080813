"""Class D of `rehearse`: the stolen copy trained on by the user's own loop, alone and after damage.

The loop is a function of the user's, called with the folder of a model and a share: it trains for that share of what
the model's own training took, and gives the trained state dict, or the folder where it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.rehearse_sweep import SEED, Point
from watermark.errors import InputError

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

#: What a thief trains for, in shares of the original training.
SHARES = (0.1, 0.3, 1.0)
#: After damage he repairs for this share.
_REPAIR = 0.3


def training_points(train: Callable[[State, float], State], shares: tuple[float, ...]) -> Iterator[Point]:
    """Training alone for each share, then after noise, pruning, truncation and shrinking: the strongest removals.

    `train` gets weights and a share.
    """
    from watermark.attacks import noise, pruning, truncation

    for share in shares:
        yield Point("trained on", f"{share:g} x", partial(_after, train, share, None), letter="D")
    damages: dict[str, Callable[[State], State]] = {
        "noise 40 %": partial(noise.gaussian, sigma=0.4, seed=SEED),
        "noise 80 %": partial(noise.gaussian, sigma=0.8, seed=SEED),
        "prune 50 %": partial(pruning.magnitude, share=0.5),
        "rank 25 %": partial(truncation.svd, share=0.25),
    }
    for name, damage in damages.items():
        yield Point("damaged, then trained on", f"{name}, {_REPAIR:g} x", partial(_after, train, _REPAIR, damage),
                    letter="D")  # fmt: skip


def _after(
    train: Callable[[State, float], State], share: float, damage: Callable[[State], State] | None, state: State
) -> State:
    return train(state if damage is None else damage(state), share)


def in_folders(
    function: Callable[..., Any], name: str, work: Path, write: Callable[[Path, State], None]
) -> Callable[[State, float], State]:
    """The user's loop as a function of weights: `write` puts them into a folder of `work` as it wants models.

    Raises (when called):
        InputError: the loop gave no weights.
    """

    def train(state: State, share: float) -> State:
        from watermark.model.torch_state import load_state

        shutil.rmtree(work, ignore_errors=True)
        write(work, state)
        found = function(work, share)
        if isinstance(found, (str, Path)):
            found = load_state(Path(found), allow_torch=True)
        if not isinstance(found, Mapping) or not found:
            raise InputError(
                f"{name} gave {type(found).__name__}", hint="give the trained state dict, or the folder where it is"
            )
        shutil.rmtree(work, ignore_errors=True)
        return {key: tensor.detach().cpu() for key, tensor in found.items()}

    return train


def require_shares(shares: tuple[float, ...]) -> tuple[float, ...]:
    """The shares, each more than none.

    Raises:
        InputError: one is not.
    """
    for share in shares:
        if not share > 0:
            raise InputError(f"{share} x the training is none", hint="pass 0.1, 1 or 10")
    return shares
