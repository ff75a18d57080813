"""Which matrix of a suspect is which of the reference, when rows are reordered, scaled or mixed and names mean nothing.

Each face is known by how its columns, the numbers of the stream, go together: the correlations of columns, taken after
rows are brought to one length. They do not change when units are reordered, turned round or added without effect, and
little when a head is mixed. One to one by the Hungarian method, so that no number of the suspect is scored twice. Fused
projections are cut where the other model's sizes say so. Knows no keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from watermark.lineage.symmetry.faces import Face, Weights
from watermark.lineage.symmetry.turn import Turn
from watermark.lineage.symmetry.units import unit_rows

Floats = NDArray[np.float32]

#: Numbers of the stream that are compared; more tell nothing new.
_COLUMNS = 192
#: Likeness of a pair that is worth a fit: what two unlike matrices show is about 1 / columns.
_WORTH = 0.12
#: Faces of fewer rows have too few correlations to be told apart.
MIN_ROWS = 2


@dataclass(frozen=True)
class Partners:
    """A face of the reference, the suspect's taken for it, and their likeness: shown, never counted."""

    ours: Face
    theirs: Face
    likeness: float


def find_partners(
    reference: Weights, ours: Sequence[Face], suspect: Weights, theirs: Sequence[Face], turn: Turn
) -> list[Partners]:
    """Pair faces by the correlations of their columns; only pairs that are plainly alike."""
    columns = np.linspace(0, turn.matrix.shape[1] - 1, min(_COLUMNS, turn.matrix.shape[1])).astype(np.int64)

    def seen(face: Face) -> Floats:
        return signature(reference.face(face)[:, columns])

    def seen_there(face: Face) -> Floats:
        return signature(turned_columns(suspect.face(face), turn, columns))

    ours, theirs = ([face for face in faces if face.private >= MIN_ROWS] for faces in (ours, theirs))
    sizes, their_sizes = ({face.private for face in faces} for faces in (ours, theirs))
    left_ways = [[(way, [seen(part) for part in way]) for way in cuts(face, their_sizes)] for face in ours]
    right_ways = [[(way, [seen_there(part) for part in way]) for way in cuts(face, sizes)] for face in theirs]
    every_left = [each for ways in left_ways for _, known in ways for each in known]
    every_right = [each for ways in right_ways for _, known in ways for each in known]
    if not every_left or not every_right:
        return []
    left, right = _likelier(left_ways, np.stack(every_right)), _likelier(right_ways, np.stack(every_left))
    likeness = np.stack([known for _, known in left]) @ np.stack([known for _, known in right]).T
    return _one_to_one([face for face, _ in left], [face for face, _ in right], likeness)


_Way: TypeAlias = tuple[tuple[Face, ...], list[Floats]]


def _likelier(faces: Sequence[Sequence[_Way]], others: Floats) -> list[tuple[Face, Floats]]:
    """Of the ways to cut each face the one whose parts find the likest others."""

    def found(way: _Way) -> float:
        return float(np.mean([(others @ known).max() for known in way[1]]))

    chosen: list[tuple[Face, Floats]] = []
    for ways in faces:
        parts, known = ways[0] if len(ways) == 1 else max(ways, key=found)
        chosen += zip(parts, known, strict=True)
    return chosen


def turned_columns(theirs: Floats, turn: Turn, columns: NDArray[np.int64]) -> Floats:
    """Some columns of a suspect's face in the reference's coordinates."""
    chosen: Floats = theirs @ turn.matrix[:, columns]
    return chosen


def signature(face: Floats) -> Floats:
    """Correlations of columns above the diagonal, scaled to length 1 together."""
    rows = unit_rows(face)
    gram = rows.T @ rows
    size = np.sqrt(np.maximum(np.diag(gram), 1e-30))
    flat = (gram / np.outer(size, size))[np.triu_indices(len(gram), 1)]
    length = float(np.linalg.norm(flat))
    correlations: Floats = (flat / length if length > 0 else flat).astype(np.float32)
    return correlations


def _one_to_one(ours: Sequence[Face], theirs: Sequence[Face], likeness: Floats) -> list[Partners]:
    """Hungarian method over slots; a square matrix takes part once, seen the way that fits better.

    Pairs of one size come first among equals: a unit more or less costs a trace of likeness.
    """
    sizes = np.array([[left.private == right.private for right in theirs] for left in ours])
    likeness = likeness + np.where(sizes, np.float32(1e-3), np.float32(0))
    left_slots = {slot: number for number, slot in enumerate(dict.fromkeys(face.slot for face in ours))}
    right_slots = {slot: number for number, slot in enumerate(dict.fromkeys(face.slot for face in theirs))}
    table = np.full((len(left_slots), len(right_slots)), -1.0)
    which = np.zeros((*table.shape, 2), np.int64)
    columns = np.array([right_slots[face.slot] for face in theirs])
    for row, face in enumerate(ours):
        place = left_slots[face.slot]
        for column in np.flatnonzero(likeness[row] > table[place, columns]):
            slot = columns[column]
            if likeness[row, column] > table[place, slot]:
                table[place, slot] = likeness[row, column]
                which[place, slot] = row, column
    rows, chosen = linear_sum_assignment(-table)
    found = []
    for place, slot in zip(rows, chosen, strict=True):
        if table[place, slot] > _WORTH:
            left, right = which[place, slot]
            found.append(Partners(ours[left], theirs[right], float(min(1.0, table[place, slot]))))
    return found


def cuts(face: Face, sizes: set[int]) -> list[tuple[Face, ...]]:
    """The ways to cut a face whose size the other model does not have: query, key and value, or gate and up.

    Three equal parts, one and two equal ones, or two equal ones, of sizes that the other model has; or not at all.
    """
    whole = face.private
    if whole in sizes:
        return [(face,)]
    ways: list[tuple[int, ...]] = [(whole // 2, whole // 2)] if whole % 2 == 0 and whole // 2 in sizes else []
    ways += [(whole - 2 * small, small, small) for small in sorted(sizes) if whole - 2 * small in sizes]
    return [(face,), *(tuple(face.part(*part) for part in pairwise((0, *accumulate(way)))) for way in ways)]
