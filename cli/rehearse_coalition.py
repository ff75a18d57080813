"""Class F of `rehearse`: recipients who put their copies together, by each rule and in growing numbers.

The recipients are invented and their copies made for the rehearsal, by the same throw-away owner from the same
reference. The copy that all other attacks work on is given to none of them: it must never be named here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from cli.rehearse_sweep import SEED, Point
from watermark.errors import InputError

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

#: Colluders at most, unless the caller wants more: each is a copy on disk, and in memory while copies are combined.
COLLUDERS = 8
_MOST = 64
#: The rules that differ in what they leave: others lie between these.
_RULES = ("mean", "random-pick", "minority-extreme", "mosaic")


def colluder(number: int) -> str:
    """The name of an invented recipient."""
    return f"colluder {number}"


def require_colluders(count: int) -> int:
    """The number, if so many can be tried.

    Raises:
        InputError: it is under 2 or over 64.
    """
    if not 2 <= count <= _MOST:
        raise InputError(f"{count} colluders cannot be tried", hint=f"pass 2 to {_MOST}")
    return count


def coalition_points(copies_of: Callable[[int], Sequence[State]], most: int) -> Iterator[Point]:
    """Each rule with 2, 4, 8 colluders and so on up to `most`, then the mean rounded to four bits.

    `copies_of` gives the copies of so many colluders.
    """
    from watermark.attacks import precision
    from watermark.attacks.collusion import collusion

    sizes = [size for size in (2, 4, 8, 16, 32, 64) if size <= most]
    if most not in sizes:
        sizes.append(most)

    def combined(rule: str, size: int) -> Callable[[State], State]:
        return lambda _: collusion(rule)(copies_of(size), seed=SEED)

    for rule in _RULES:
        for size in sizes:
            family = f"collusion, {rule.replace('-', ' ')}"
            yield Point(family, f"of {size}", combined(rule, size), letter="F", colluders=size)
    for size in sizes:

        def rounded(state: State, size: int = size) -> State:
            return precision.int4_groups(combined("mean", size)(state))

        yield Point("collusion, mean, int4", f"of {size}", rounded, letter="F", colluders=size)
