"""A suspect's weights in the reference's coordinates: what was found, and the tensors to test.

An alignment is a list of placements, each of which fills one part of one tensor of the reference from one part of the
suspect. Tensors are computed one at a time, so that memory does not grow with the model; what has no partner is zero,
which every statistic leaves out. Knows no keys, and nothing of how placements were found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from watermark.lineage.symmetry.faces import Face
from watermark.model.directory import Model, open_model
from watermark.model.dtypes import dtype
from watermark.model.safetensors import TensorInfo, write_safetensors

Floats = NDArray[np.float32]

#: Tensors are written into files of about so many bytes: one is held in memory at a time.
_SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class Placement:
    """One part of a tensor of the reference, and how to compute it from the suspect.

    Attributes:
        face: which part; for a tensor without a residual axis, its first axis is the private one.
        kind: what was undone here, as in `fits.py`.
        explained: share of the reference's energy that the suspect explains here.
        moved: whether rows changed place.
        values: computes the part, (private, other axis), from the suspect's weights.
    """

    face: Face
    kind: str
    explained: float
    moved: bool
    values: Callable[[], Floats]


@dataclass(frozen=True)
class Alignment:
    """What makes a suspect comparable to the reference, number by number.

    Attributes:
        placements: the parts that have a partner.
        explained: share of the energy of the wanted tensors that the suspect explains; shown, never counted.
        undone: what was undone, in plain words; empty when nothing had to be.
        alignments_tried: how many alignments a p-value has to pay for: one, since choices see no key.
    """

    placements: tuple[Placement, ...]
    explained: float
    undone: tuple[str, ...]
    alignments_tried: int = 1

    def tensors(self) -> Iterator[tuple[TensorInfo, Floats]]:
        """Each tensor of the reference that has a part, and its values from the suspect, in the reference's shape."""
        by_tensor: dict[str, list[Placement]] = defaultdict(list)
        for placement in self.placements:
            by_tensor[placement.face.tensor.name].append(placement)
        for parts in by_tensor.values():
            tensor = parts[0].face.tensor
            yield tensor, _filled(tensor, parts)


def _filled(tensor: TensorInfo, parts: Sequence[Placement]) -> Floats:
    """A tensor of the reference's shape; parts that have no partner are zero."""
    filled = np.zeros(tensor.shape, np.float32)
    for part in parts:
        face = part.face
        whole = filled if face.entry is None else filled[face.entry]
        matrix = whole.reshape(whole.shape[0], -1)
        values = part.values()
        if face.axis == 1:
            matrix[face.start : face.stop] = values
        else:
            matrix[:, face.start : face.stop] = values.T
    return filled


def write_aligned(alignment: Alignment, folder: Path) -> Model:
    """Write the aligned tensors under the reference's names as float32, and open them as a model.

    Args:
        alignment: the suspect must still be open.
        folder: an empty folder, which must stay as long as the model is used.

    Raises:
        InputError: the folder cannot be written, for one because the disk is full.
    """
    held: list[tuple[str, tuple[int, ...], bytes]] = []
    shards = 0

    def flush() -> None:
        nonlocal shards
        if held:
            kind = dtype("F32")
            write_safetensors(
                folder / f"aligned-{shards:05d}.safetensors", [(name, kind, shape, data) for name, shape, data in held]
            )
            shards += 1
            held.clear()

    for tensor, values in alignment.tensors():
        held.append((tensor.name, tensor.shape, values.astype("<f4", copy=False).tobytes()))
        if sum(len(data) for _, _, data in held) >= _SHARD_BYTES:
            flush()
    flush()
    return open_model(folder)
