"""Whether two models stem from one training, without any mark: hidden units that are still in their places.

The hidden units of a layer have no order: trained alone, two models agree on one no more than two shuffled decks do.
So if units are matched by their weights, the matching of innocent models is a uniform permutation, and with L layers
the chance of k or more units matched to their own place is at most L^k / k!. Copies, fine-tunes, pruned, quantised and
merged models keep nearly all in place; whoever reorders them on purpose is not found here (but by an alignment).

The bound needs that units are exchangeable under innocence. Zero, dead and double units are dropped first and both
sides are shuffled by our own randomness before matching, else ties at equal places count as units in place (61 false
ones with 60 padded units, measured). Tensors are paired by what reordering units does not change. A vocabulary of the
size of the hidden layers looks like one of them and has an order of its own: where sizes leave that open, the tensors
with the most units in place are not counted. Training from a common initialisation, or with dropout masks drawn from
one seed on the hidden units, breaks it: a result says so. Kinship shows neither direction nor whose the model is. Knows
no keys.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.lineage.symmetry.faces import Face, Weights, faces_of, is_readable, stream_width
from watermark.lineage.symmetry.partners import find_partners
from watermark.lineage.symmetry.turn import still
from watermark.lineage.symmetry.units import match_rows, unit_rows
from watermark.model.directory import Model
from watermark.model.safetensors import TensorInfo

Floats = NDArray[np.float32]

#: `related` needs this much, after multiplicity.
THRESHOLD_RELATED_LOG2_P = -128.0
#: Two units more alike than this are one unit twice.
_DOUBLE = 0.999
#: A unit this much smaller than the middle one is dead.
_DEAD = 1e-3
#: Mean cosine of matched units of innocent twins: 190 pairs of digit classifiers, 128 units on 64 pixels (random rows:
#: 0.33). A picture beside ours, never evidence.
TWIN_SIMILARITY = (0.58, 0.63)
CONDITIONS = (
    "holds for models trained apart; a shared initialisation, or one seed for dropout on hidden units, "
    "makes relatives of innocents"
)


@dataclass(frozen=True)
class Kinship:
    """How many hidden units are in place, and what that is worth.

    Attributes:
        layers: layers compared.
        units: units compared, after zero, dead and double ones were dropped.
        in_place: units matched to their own place.
        similarity: mean absolute cosine of matched units: shown beside `TWIN_SIMILARITY`, never counted.
        uncounted: those in place in tensors that may be tables with an order of their own.
    """

    layers: int
    units: int
    in_place: int
    similarity: float
    uncounted: int = 0

    @property
    def log2_p(self) -> float:
        """Bound on log2 of the chance that innocent models have so many units in place.

        Whichever tensors are tables, the units in place elsewhere are at least those that are counted.
        """
        return log2_fixed_points(self.in_place - self.uncounted, self.layers)


def log2_fixed_points(fixed: int, layers: int) -> float:
    """log2 of L^k / k!, at most 0: the chance of k or more fixed points in L independent uniform permutations.

    The expected number of sets of k positions that are all fixed is at most (1 + .. + 1)^k / k! over L layers.
    """
    if fixed <= 0 or layers <= 0:
        return 0.0
    return min(0.0, fixed * math.log2(layers) - math.lgamma(fixed + 1) / math.log(2))


def kinship(
    reference: Model, wanted: Sequence[TensorInfo], suspect: Model, shuffle: np.random.Generator | None = None
) -> Kinship | None:
    """Count the hidden units that are in place; None where the layout has none that can be compared.

    Args:
        reference: the unmarked reference, or a declared base.
        wanted: its tensors.
        suspect: any model.
        shuffle: our own randomness, drawn anew when not given.
    """
    ours, theirs = Weights(reference), Weights(suspect)
    tensors = [tensor for tensor in wanted if is_readable(tensor)]
    others = [tensor for tensor in suspect.weights.values() if is_readable(tensor)]
    width = stream_width(tensors)
    if width is None or stream_width(others) != width:
        return None
    layers, tables = hidden_faces(tensors, width)
    sizes = {face.private for face in layers}
    likely = [face for tensor in others for face in faces_of(tensor, width) if face.private in sizes]
    if not layers or not likely:
        return None
    shuffle = shuffle if shuffle is not None else np.random.default_rng()
    found = find_partners(ours, layers, theirs, likely, still(width, width))
    counts = [compare_units(ours.face(pair.ours), theirs.face(pair.theirs), shuffle) for pair in found]
    units = sum(count[0] for count in counts)
    if not units:
        return None
    similarity = sum(count[2] for count in counts) / units
    in_place = sorted((count[1] for count in counts), reverse=True)
    return Kinship(len(counts), units, sum(in_place), similarity, sum(in_place[:tables]))


def hidden_faces(tensors: Sequence[TensorInfo], width: int) -> tuple[list[Face], int]:
    """One face for each set of hidden units, of the size that is both read from and written to, twice or more.

    A vocabulary, positions and classes have an order of their own, and no unit of a head is free: the first are not
    written to, and the second are fewer. Of the two or three tensors that share units one is taken, the kind that is
    rarest: units count once. Also gives how many of the faces may be tables that happen to be of this size.
    """
    kinds: dict[int, dict[tuple[int, bool], list[Face]]] = defaultdict(lambda: defaultdict(list))
    for tensor in tensors:
        for face in faces_of(tensor, width):
            if face.private != width:
                kinds[face.private][face.axis, face.entry is None].append(face)
    best: list[Face] = []
    tables = 0
    for size, faces in kinds.items():
        # Gated layers may hold two rows a unit in one tensor: its other side then has half the size.
        partner = {axis for (axis, _), found in kinds.get(2 * size, {}).items() if len(found) >= 2}
        plain = [found for found in faces.values() if len(found) >= 2]
        axes = {found[0].axis for found in plain}
        if plain and (len(axes) == 2 or partner - axes):
            rarest = min(plain, key=_count)
            if _weight(rarest) > _weight(best):
                best, tables = rarest, _tables_among(rarest, [*faces.values(), *kinds.get(2 * size, {}).values()])
    return best, tables


def _tables_among(chosen: Sequence[Face], kinds: Sequence[Sequence[Face]]) -> int:
    """How many of the chosen faces may be tables: what is left on both axes must be whole layers, gated or not.

    At most two tables are of one size: what a vocabulary comes in by and goes out by. No table is a stack.
    """
    first, count = chosen[0], len(chosen)
    if first.entry is not None:
        return 0
    across = [found for found in kinds if found[0].axis != first.axis and found[0].entry is None]
    other = max((len(found) for found in across if found[0].private == first.private), default=0)
    other = other or max((len(found) for found in across), default=0)
    fits = [
        here
        for here in range(min(3, count))
        for there in range(3 - here)
        if other - there in (count - here, 2 * (count - here))
    ]
    return max(fits, default=2)


def _count(faces: list[Face]) -> int:
    return len(faces)


def _weight(faces: list[Face]) -> int:
    """How many weights hang on units of this size: attention is smaller than what hides the most units."""
    return sum(face.private for face in faces)


def compare_units(ours: Floats, theirs: Floats, shuffle: np.random.Generator) -> tuple[int, int, float]:
    """Units compared, units matched to their own place, and the sum of their absolute cosines; both (units, width)."""
    if ours.shape != theirs.shape:
        return 0, 0, 0.0
    kept = np.flatnonzero(_single(ours) & _single(theirs))
    if len(kept) < 2:
        return 0, 0, 0.0
    left, right = shuffle.permutation(kept), shuffle.permutation(kept)
    index, cosine = match_rows(unit_rows(ours[left]), unit_rows(theirs[right]))
    matched = index >= 0
    in_place = int((right[index[matched]] == left[matched]).sum())
    return len(kept), in_place, float(np.abs(cosine).sum())


def _single(units: Floats) -> NDArray[np.bool_]:
    """Which units are alive and have no double."""
    size = np.linalg.norm(units, axis=1)
    alive = size > _DEAD * max(float(np.median(size)), 1e-30)
    rows = unit_rows(units)
    double = np.zeros(len(rows), bool)
    for start in range(0, len(rows), 1_024):
        table = np.abs(rows[start : start + 1_024] @ rows.T)
        table[np.arange(len(table)), start + np.arange(len(table))] = 0
        double[start : start + 1_024] = (table > _DOUBLE).any(axis=1)
    lone: NDArray[np.bool_] = alive & ~double
    return lone
