"""Find the best alignment of a suspect to an unmarked reference, whatever the layout.

Knows the order in which the recipes are tried, and how to say what they undid. Knows no keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from watermark.lineage.pairing import pair_tensors
from watermark.lineage.symmetry.alignment import Alignment, Placement
from watermark.lineage.symmetry.chain import align_chain
from watermark.lineage.symmetry.faces import Weights, is_readable
from watermark.lineage.symmetry.factors import align_factors
from watermark.lineage.symmetry.stream import align_stream
from watermark.lineage.symmetry.words import what_was_undone
from watermark.model.directory import Model
from watermark.model.safetensors import TensorInfo

Floats = NDArray[np.float32]

#: A matrix whose sample agrees so far with the base's lies where it lay.
_IN_PLACE = 0.8
#: The second recipe is tried where the first covers less than half of the reference, or a few tensors of it.
_HALF, _ENOUGH, _FEW = 0.5, 0.9, 6


def align(
    reference: Model, wanted: Iterable[TensorInfo], suspect: Model, base: Model | None = None
) -> Alignment | None:
    """Bring a suspect into the reference's coordinates; None where nothing of it is recognised.

    Args:
        reference: the unmarked reference; the marked copy must never stand here.
        wanted: its tensors that are to be tested.
        suspect: any model.
        base: the declared public base; an adapter that was added to it is looked for in the suspect's differences.
    """
    ours, theirs = Weights(reference), Weights(suspect)
    tensors = [tensor for tensor in wanted if is_readable(tensor)]
    readable = [tensor for tensor in suspect.weights.values() if is_readable(tensor)]
    factors = align_factors(ours, tensors, theirs, readable, _above(base, suspect))
    if factors:
        return Alignment(factors, _share(tensors, factors), what_was_undone(None, factors))
    stream = align_stream(ours, tensors, theirs, readable)
    kind, placements = (stream.turn.kind, stream.placements) if stream is not None else (None, ())
    explained, covered = _share(tensors, placements), _share(tensors, placements, of_all=True)
    if covered < _HALF or (covered < _ENOUGH and len(placements) < _FEW):
        chain = align_chain(ours, tensors, theirs, readable)
        if _share(tensors, chain) > explained:
            kind, placements, explained = None, chain, _share(tensors, chain)
    if not placements:
        return None
    return Alignment(placements, explained, what_was_undone(kind, placements))


def _above(base: Model | None, suspect: Model) -> Iterator[tuple[Floats, Floats]]:
    """Each matrix of the base, and the suspect's in its coordinates, (outputs, inputs); nothing without a base.

    What lies in place is taken as it is: an alignment mixes heads where that explains more, and takes with it what was
    added. Only the rest is aligned.
    """
    if base is None:
        return
    matrices = [tensor for tensor in base.weights.values() if is_readable(tensor)]
    in_place = {pair.reference.name: pair for pair in pair_tensors(base, matrices, suspect) if pair.cosine > _IN_PLACE}
    for name, pair in in_place.items():
        yield _matrix(base, base.weights[name]), _matrix(suspect, pair.suspect)
    if len(in_place) < len(matrices):
        aligned = align(base, matrices, suspect)
        for tensor, values in aligned.tensors() if aligned is not None else ():
            if tensor.name not in in_place:
                yield _matrix(base, tensor), values.reshape(len(values), -1)


def _matrix(model: Model, tensor: TensorInfo) -> Floats:
    return Weights(model, cache_bytes=0).matrix(tensor, None)


def _share(wanted: Sequence[TensorInfo], placements: Sequence[Placement], *, of_all: bool = False) -> float:
    """Share of all wanted numbers in parts with a partner, each weighed by what is explained there, or whole."""
    total = sum(math.prod(tensor.shape) for tensor in wanted)
    found = 0.0
    for placement in placements:
        face = placement.face
        shape = face.tensor.shape if face.entry is None else face.tensor.shape[1:]
        private = shape[0] if face.axis == 1 else math.prod(shape[1:])
        found += (1 if of_all else placement.explained) * math.prod(shape) * face.private / private
    return float(np.clip(found / total, 0, 1)) if total else 0.0
