"""From a state dict to the sketch of the file that it would ship in."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from watermark.lineage.fingerprint import Sketch, sketch_model
from watermark.model.directory import open_model
from watermark.model.torch_state import save_state


def sketch_of(state: Mapping[str, torch.Tensor]) -> Sketch:
    """Write the weights as a model folder, open it and sketch it."""
    with tempfile.TemporaryDirectory() as folder:
        plain = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
        save_state(Path(folder) / "model", plain)
        with open_model(Path(folder) / "model") as model:
            return sketch_model(model)
