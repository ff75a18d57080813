"""One model from the differing copies of several recipients, to hide whose copies they were.

A coalition compares its copies weight by weight: where they differ is where recipients are marked. Each rule below
combines the values that the copies hold at one weight and never leaves the range between them by more than it says.
Rules of linear and order-statistic collusion as in Stone ("Analysis of Attacks on Image Watermarks with Randomized
Coefficients", NEC 1996) and Wu, Trappe, Wang and Liu ("Collusion-Resistant Fingerprinting for Multimedia", IEEE Signal
Processing Magazine 21(2), 2004).

It knows no reference and no key: coalitions that hold the unmarked weights need no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Protocol, TypeAlias

import torch

from watermark.attacks.interface import State, by_name, each_target, generator, require_share
from watermark.errors import InputError

# Weights of one slice: copies of it beside each other, (copies, weights), take some ten times their size on the way.
_SLICE = 1 << 20

Rule: TypeAlias = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""From the values of consecutive weights, (copies, weights), to one value a weight; may draw from the generator."""


class Collusion(Protocol):
    """A rule with all its settings chosen: copies of one release in, one model out."""

    def __call__(self, copies: Sequence[State], /, *, seed: int = 0) -> State:
        """Return the combined weights; the copies stay as they are."""
        ...


def _mean(values: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    return values.mean(dim=0)


def _median(values: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    # torch.quantile refuses more than 2^24 values, and torch.median takes the lower of the two in the middle.
    ordered, count = values.sort(dim=0).values, len(values)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def _minimum(values: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    return values.amin(dim=0)


def _maximum(values: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    return values.amax(dim=0)


def _mid_range(values: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    return (values.amin(dim=0) + values.amax(dim=0)) / 2


def _modified_negative(values: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return values.amin(dim=0) + values.amax(dim=0) - _median(values, draw)


def _random_pick(values: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    who = torch.randint(len(values), values.shape[1:], generator=draw)
    return values.gather(0, who[None])[0]


def _random_extreme(values: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    coin = torch.rand(values.shape[1:], generator=draw) < 0.5
    return torch.where(coin, values.amin(dim=0), values.amax(dim=0))


def _minority_extreme(values: torch.Tensor, _: torch.Generator, *, amplify: float) -> torch.Tensor:
    low, high, middle = values.amin(dim=0), values.amax(dim=0), values.mean(dim=0)
    extreme = torch.where(high - middle > middle - low, high, low)
    return middle + amplify * (extreme - middle)


def _zero_differing(values: torch.Tensor, _: torch.Generator, *, share: float) -> torch.Tensor:
    spread = values.amax(dim=0) - values.amin(dim=0)
    zeroed = values.mean(dim=0)
    zeroed[spread.topk(round(share * spread.numel())).indices] = 0
    return zeroed


def combine(copies: Sequence[State], rule: Rule, *, seed: int = 0) -> State:
    """Combine every target weight of the copies by a rule; all other tensors are carried from the first copy.

    Raises:
        InputError: there are fewer than two copies, or one lacks a tensor or has it in another shape.
    """
    _require_alike(copies)

    def change(name: str, rows: torch.Tensor) -> torch.Tensor:
        draw = generator(seed, name)
        flat = [copy[name].detach().reshape(-1) for copy in copies]
        into = rows.reshape(-1)
        for start in range(0, into.numel(), _SLICE):
            values = torch.stack([one[start : start + _SLICE].to(rows.dtype) for one in flat])
            into[start : start + _SLICE] = rule(values, draw)
        return into

    return each_target(copies[0], change)


def mosaic(copies: Sequence[State], *, seed: int = 0) -> State:
    """Take each tensor whole from one of the copies, drawn at random.

    Raises:
        InputError: there are fewer than two copies, or one lacks a tensor or has it in another shape.
    """
    _require_alike(copies)
    return {
        name: copies[int(torch.randint(len(copies), (), generator=generator(seed, name)))][name].detach().clone()
        for name in copies[0]
    }


def minority_extreme(amplify: float = 1.0) -> Collusion:
    """At each weight the extreme that lies farther from the mean, `amplify` times as far."""
    return partial(combine, rule=partial(_minority_extreme, amplify=amplify))


def zero_differing(share: float) -> Collusion:
    """The mean, with the share of weights zeroed at which the copies differ most.

    Raises:
        InputError: `share` is not a share.
    """
    return partial(combine, rule=partial(_zero_differing, share=require_share(share, what="share of zeroed weights")))


COLLUSIONS: Mapping[str, Collusion] = MappingProxyType(
    {
        "mean": partial(combine, rule=_mean),
        "median": partial(combine, rule=_median),
        "minimum": partial(combine, rule=_minimum),
        "maximum": partial(combine, rule=_maximum),
        "mid-range": partial(combine, rule=_mid_range),
        "modified-negative": partial(combine, rule=_modified_negative),
        "random-pick": partial(combine, rule=_random_pick),
        "random-extreme": partial(combine, rule=_random_extreme),
        "minority-extreme": minority_extreme(),
        "minority-extreme-x10": minority_extreme(10.0),
        "mosaic": mosaic,
        "zero-differing-20": zero_differing(0.2),
    }
)
"""Name to rule, every setting chosen; numbers in names are per cent, `x10` an amplification."""


def collusion(name: str) -> Collusion:
    """Return the rule of this name.

    Raises:
        InputError: there is none; the message lists the names.
    """
    return by_name(COLLUSIONS, name, what="collusion")


def _require_alike(copies: Sequence[State]) -> None:
    if len(copies) < 2:
        raise InputError(f"{len(copies)} copies cannot collude", hint="pass two or more copies of one release")
    for number, copy in enumerate(copies[1:], start=2):
        for name, tensor in copies[0].items():
            if name not in copy or copy[name].shape != tensor.shape:
                raise InputError(
                    f"copy {number} lacks {name!r} or has it in another shape", hint="pass copies of one release"
                )
