"""Weights set to zero: the smallest, random ones, or two of every four.

Costs the thief little up to about half of the weights by magnitude, without any training; beyond that, and at
random, quality must be repaired by fine-tuning ("fine-pruning", Liu et al., RAID 2018). Each tensor is pruned on
its own, to the same share.
"""

from __future__ import annotations

import torch

from watermark.attacks.interface import State, each_target, generator, require_share


def magnitude(state: State, share: float) -> State:
    """Set the `share` of smallest magnitude in each target to zero: exactly round(share * size) weights.

    Weights that are zero already are among them; between equal magnitudes the earlier weight goes. Cheap for
    the thief up to 50 % (Han et al., NeurIPS 2015).
    """
    require_share(share, what="the share to prune")

    def change(_name: str, rows: torch.Tensor) -> torch.Tensor:
        flat = rows.reshape(-1)
        count = round(share * flat.numel())
        if count == 0:
            return flat
        size = flat.abs()
        threshold = size.kthvalue(count).values
        pruned = size < threshold
        ties = (size == threshold).nonzero().reshape(-1)
        pruned[ties[: count - int(pruned.sum())]] = True
        return flat.masked_fill(pruned, 0.0)

    return each_target(state, change)


def random_share(state: State, share: float, seed: int) -> State:
    """Set a random `share` of each target to zero: exactly round(share * size) weights.

    Costs far more quality than pruning by magnitude: the random baseline beside which that is judged.
    """
    require_share(share, what="the share to prune")

    def change(name: str, rows: torch.Tensor) -> torch.Tensor:
        flat = rows.reshape(-1)
        order = torch.randperm(flat.numel(), generator=generator(seed, name))
        flat[order[: round(share * flat.numel())]] = 0.0
        return flat

    return each_target(state, change)


def two_four(state: State) -> State:
    """Set the two smallest of every four neighbours in a row to zero; one to three weights left at its end stay.

    The pattern that GPUs run at double speed; costs about what pruning 50 % by magnitude costs (Mishra et al.,
    "Accelerating Sparse Deep Neural Networks", 2021).
    """

    def change(_name: str, rows: torch.Tensor) -> torch.Tensor:
        width = rows.shape[1] // 4 * 4
        if width:
            fours = rows[:, :width].reshape(-1, 4)
            smallest = fours.abs().argsort(dim=1, stable=True)[:, :2]
            rows[:, :width] = fours.scatter(1, smallest, 0.0).reshape(len(rows), width)
        return rows

    return each_target(state, change)
