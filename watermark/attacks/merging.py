"""Weights merged with those of other models of the same layout.

Merging with the public base, or with siblings that were tuned from it, dilutes a mark and keeps quality; it costs the
thief the other models. Merges change float tensors of any number of dimensions, norms and biases too; integer tensors
are carried from `state`. Where a base is asked for, what is merged are the differences from it ("task vectors").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from watermark.attacks.interface import State, generator, require_share
from watermark.errors import InputError

Weights = Mapping[str, torch.Tensor]


def linear(state: State, other: Weights, share: float) -> State:
    """Replace each float tensor by (1 - share) of itself plus `share` of the other's.

    A share outside 0 to 1 is task arithmetic: -1 with the public base as `other` doubles the difference.

    Raises:
        InputError: `other` lacks a float tensor of `state`, or has it in another shape.
    """
    return _each_float(state, [other], lambda _name, own, found: (1.0 - share) * own + share * found[0])


def soup(state: State, others: Sequence[Weights]) -> State:
    """Average with all others, every model with the same share: a "model soup" (Wortsman et al., ICML 2022).

    Raises:
        InputError: as `linear`.
    """
    return _each_float(state, others, lambda _name, own, found: torch.stack([own, *found]).mean(dim=0))


def slerp(state: State, other: Weights, share: float) -> State:
    """Go `share` of the way to the other along the arc between each pair of tensors, lengths interpolated.

    Spherical interpolation (Shoemake, 1985), as merging tools do it; where two tensors point the same way or one is
    zero, the straight line.

    Raises:
        InputError: as `linear`.
    """

    def change(_name: str, own: torch.Tensor, found: list[torch.Tensor]) -> torch.Tensor:
        lengths = own.norm(), found[0].norm()
        straight = (1.0 - share) * own + share * found[0]
        if min(lengths) == 0:
            return straight
        ours, theirs = own / lengths[0], found[0] / lengths[1]
        angle = (ours * theirs).sum().clamp(-1.0, 1.0).acos()
        if angle.sin() < 1e-4:
            return straight
        length = (1.0 - share) * lengths[0] + share * lengths[1]
        mixed = ((1.0 - share) * angle).sin() * ours + (share * angle).sin() * theirs
        bent: torch.Tensor = mixed * (length / angle.sin())
        return bent

    return _each_float(state, [other], change)


def task_arithmetic(state: State, others: Sequence[Weights], base: Weights, weight: float) -> State:
    """Add to the base `weight` times the difference of each model, `state` among them (Ilharco et al., ICLR 2023).

    Raises:
        InputError: as `linear`, for the base too.
    """

    def change(_name: str, own: torch.Tensor, found: list[torch.Tensor]) -> torch.Tensor:
        *rest, start = found
        return start + weight * (torch.stack([own, *rest]) - start).sum(dim=0)

    return _each_float(state, [*others, base], change)


def ties(state: State, others: Sequence[Weights], base: Weights, keep: float = 0.2, weight: float = 1.0) -> State:
    """Of each difference from the base keep the largest `keep`, elect a sign for each weight, average what agrees.

    TIES (Yadav et al., NeurIPS 2023): the sign is that of the sum; `weight` times the average is added to the base.

    Raises:
        InputError: as `task_arithmetic`, or `keep` is no share.
    """
    require_share(keep, what="the share of differences to keep")

    def change(_name: str, own: torch.Tensor, found: list[torch.Tensor]) -> torch.Tensor:
        *rest, start = found
        differences = torch.stack([own, *rest]) - start
        for difference in differences:
            flat = difference.reshape(-1)
            dropped = round((1.0 - keep) * flat.numel())
            if dropped:
                flat[flat.abs().argsort(stable=True)[:dropped]] = 0.0
        agrees = differences.sign() == differences.sum(dim=0).sign()
        agreed = (differences * agrees).sum(dim=0)
        return start + weight * agreed / ((differences != 0) & agrees).sum(dim=0).clamp_min(1)

    return _each_float(state, [*others, base], change)


def dare(state: State, others: Sequence[Weights], base: Weights, drop: float, seed: int) -> State:
    """Set a random share `drop` of each difference from the base to zero, scale up the rest, and average the models.

    DARE (Yu et al., ICML 2024): fine-tunes stand a share of 0.9 and more.

    Raises:
        InputError: as `task_arithmetic`, or `drop` is no share under 1.
    """
    if require_share(drop, what="the share of differences to drop") == 1.0:
        raise InputError("nothing is left to merge where all differences are dropped", hint="pass 0.9")

    def change(name: str, own: torch.Tensor, found: list[torch.Tensor]) -> torch.Tensor:
        *rest, start = found
        differences = torch.stack([own, *rest]) - start
        stays = torch.rand(differences.shape, generator=generator(seed, name)) >= drop
        return start + (differences * stays).mean(dim=0) / (1.0 - drop)

    return _each_float(state, [*others, base], change)


def _each_float(
    state: State,
    others: Sequence[Weights],
    change: Callable[[str, torch.Tensor, list[torch.Tensor]], torch.Tensor],
) -> State:
    """Change each float tensor beside those of the same name, in float32 or, where it is float64, in float64."""
    merged: State = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            merged[name] = tensor.detach().clone()
            continue
        precision = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        partners = [_partner(name, tensor, other).detach().to(precision) for other in others]
        merged[name] = change(name, tensor.detach().to(precision, copy=True), partners).to(tensor.dtype)
    return merged


def _partner(name: str, tensor: torch.Tensor, other: Weights) -> torch.Tensor:
    partner = other.get(name)
    if partner is None or partner.shape != tensor.shape:
        found = "lacks it" if partner is None else f"has it as {tuple(partner.shape)}"
        raise InputError(
            f"cannot merge {name!r} {tuple(tensor.shape)}: the other model {found}",
            hint="merge only models of the same layout and names",
        )
    return partner
