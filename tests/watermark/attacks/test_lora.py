from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.test_finetune import batches, loss, network
from watermark.attacks.finetune import movement
from watermark.attacks.lora import finetune_low_rank
from watermark.errors import InputError


@pytest.mark.parametrize("rank", [1, 2, 64])
def test_matrices_move_in_so_many_directions_and_nothing_else_moves(rank: int) -> None:
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tuned = finetune_low_rank(module, batches(), loss, rank=rank, steps=60, learning_rate=1e-2)
    assert list(tuned.state) == list(before)
    assert sum(tuned.losses[-5:]) < 0.8 * sum(tuned.losses[:5])
    assert movement(before, tuned.state) > 0.01
    for name, tensor in before.items():
        change = tuned.state[name] - tensor
        if tensor.dim() == 2:
            assert 1 <= int(torch.linalg.matrix_rank(change.double(), rtol=1e-4)) <= rank
        elif "running" not in name and "num_batches" not in name:
            assert not bool(change.any()), name
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_no_rank_is_refused() -> None:
    with pytest.raises(InputError, match="rank 0"):
        finetune_low_rank(network(), batches(), loss, rank=0, steps=1)
