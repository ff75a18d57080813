"""What happened to the residual stream as a whole: nothing, reordered, or turned by an orthogonal matrix.

The matrices whose other axis has an order that no thief can change without changing what the model reads (vocabulary,
positions, pixels of a patch) tell: orthogonal Procrustes (Schoenemann 1966) from them first, from all matrices
afterwards. A reordering is taken where it explains as much as a rotation, since it fits no numbers. Knows no keys.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from watermark.lineage.symmetry.faces import Face, Weights
from watermark.lineage.symmetry.singular import singular
from watermark.lineage.symmetry.units import unit_rows

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

STILL, REORDERED, TURNED = "in place", "reordered", "turned"
#: A private size that so many faces share belongs to layers, not to a vocabulary.
_RARE = 4
#: How much better than chance an anchor has to agree, as a share of what is left above chance.
_AGREES = 0.3
#: Share of a rotation's agreement that a reordering has to reach.
_NO_WORSE = 0.9
#: What unlike matrices reach: a rotation by root of (width / rows), the best of a table of cosines by 1 / root of rows.
_TURN_CHANCE, _TABLE_CHANCE = 0.85, 3.5
_NO_WITNESS = 0.9


@dataclass(frozen=True)
class Turn:
    """How the suspect's stream lies in the reference's: `matrix` is (suspect's width, reference's width)."""

    kind: str
    matrix: Floats

    def apply(self, theirs: Floats) -> Floats:
        """A suspect's face, (rows, suspect's width), in the reference's coordinates."""
        if self.kind == STILL and self.matrix.shape[0] == self.matrix.shape[1]:
            return theirs
        turned: Floats = theirs @ self.matrix
        return turned


def still(theirs: int, ours: int) -> Turn:
    """The stream where it is."""
    return Turn(STILL, np.eye(theirs, ours, dtype=np.float32))


def find_turn(
    reference: Weights, ours: Sequence[Face], suspect: Weights, theirs: Sequence[Face]
) -> tuple[Turn | None, list[tuple[Face, Face]]]:
    """Find the turn from the matrices that keep their order; None where none of them agrees, and those that do."""
    found: list[_Anchor] = []
    for left, rights in _candidates(ours, theirs):
        w = _centred(reference.face(left))
        tried = [_anchor(left, right, w, _centred(suspect.face(right))) for right in rights]
        best = max(tried, key=lambda anchor: anchor.agreement)
        if best.agreement > _AGREES:
            found.append(best)
    while found:
        turn = turn_from(sum((anchor.cross for anchor in found), np.zeros(1)), [(a.theirs, a.ours) for a in found])
        kept = [anchor for anchor in found if anchor.cosine(turn) > _AGREES]
        if len(kept) == len(found):
            return turn, [(anchor.left, anchor.right) for anchor in found]
        # What fits a turn of its own only, such as units that were reordered, is no witness of the stream's.
        found = kept
    return None, []


@dataclass(frozen=True)
class _Anchor:
    """Two faces of one order, their values, and their product, weighed by its size."""

    left: Face
    right: Face
    ours: Floats
    theirs: Floats
    cross: Doubles
    agreement: float

    def cosine(self, turn: Turn) -> float:
        """How alike the two are after a turn."""
        size = float(np.linalg.norm(self.ours) * np.linalg.norm(self.theirs))
        return float((turn.apply(self.theirs) * self.ours).sum(dtype=np.float64)) / size if size else 0.0


def _anchor(left: Face, right: Face, ours: Floats, theirs: Floats) -> _Anchor:
    cross = (theirs.T @ ours).astype(np.float64)
    size = float(np.linalg.norm(theirs) * np.linalg.norm(ours))
    weight = len(ours) / size if size else 0.0
    return _Anchor(left, right, ours, theirs, cross * weight, _agreement(cross, theirs, ours))


def turn_from(cross: Doubles, pairs: Sequence[tuple[Floats, Floats]] = ()) -> Turn:
    """The orthogonal matrix nearest to a sum of products, or the reordering that does as well.

    Args:
        cross: sum of suspect^T reference, (suspect's width, reference's width).
        pairs: the matrices of each product; without them no reordering is looked for.
    """
    left, values, right = singular(cross)
    rotation = left @ right
    if pairs:
        theirs = np.sqrt(sum(np.square(s, dtype=np.float64).sum(axis=0) for s, _ in pairs))
        ours = np.sqrt(sum(np.square(w, dtype=np.float64).sum(axis=0) for _, w in pairs))
        plain = sum((s.T @ w).astype(np.float64) for s, w in pairs)
        cosines = plain / np.maximum(np.outer(theirs, ours), 1e-300)
        rows, columns = linear_sum_assignment(-np.abs(cosines))
        reached = float(np.abs(cross[rows, columns]).sum())
        if reached >= _NO_WORSE * float(values.sum()):
            signs = np.sign(cosines[rows, columns])
            matrix = np.zeros_like(cross, dtype=np.float32)
            matrix[rows, columns] = signs
            unmoved = bool((rows == columns).all() and (signs > 0).all())
            return Turn(STILL if unmoved else REORDERED, matrix)
    return Turn(TURNED, rotation.astype(np.float32))


def _candidates(ours: Sequence[Face], theirs: Sequence[Face]) -> Iterable[tuple[Face, list[Face]]]:
    """Faces whose private size is too rare for one of the layers, with the suspect's of the same size."""
    # A square matrix would fit any turn of its own, whichever axis is the stream's.
    ours, theirs = ([f for f in faces if f.entry is None and f.private != f.width] for faces in (ours, theirs))
    rare = {size for size, count in Counter(face.private for face in ours).items() if count <= _RARE}
    by_size: dict[int, list[Face]] = defaultdict(list)
    for face in theirs:
        if face.private in rare:
            by_size[face.private].append(face)
    for face in ours:
        rights = by_size.get(face.private, [])
        if rights and len(rights) <= 2 * _RARE and face.private > 1:
            yield face, rights


def _centred(matrix: Floats) -> Floats:
    centred: Floats = matrix - matrix.mean(axis=0, keepdims=True)
    return centred


def _agreement(cross: Doubles, theirs: Floats, ours: Floats) -> float:
    """How far two matrices agree up to a rotation: 0 as by chance, 1 exactly.

    Fewer rows than the stream is wide are no witness of a rotation, which fits them anyhow; of a reordering they are.
    """
    rows, width = ours.shape
    if rows < width:
        cosines = np.abs(unit_rows(np.ascontiguousarray(theirs.T)) @ unit_rows(np.ascontiguousarray(ours.T)).T)
        left, right = linear_sum_assignment(-cosines)
        reached, chance = float(cosines[left, right].mean()), _TABLE_CHANCE / rows**0.5
    else:
        size = float(np.linalg.norm(theirs) * np.linalg.norm(ours))
        reached = float(singular(cross)[1].sum()) / size if size else 0.0
        chance = _TURN_CHANCE * (width / rows) ** 0.5
    return (reached - chance) / (1 - chance) if chance < _NO_WITNESS else 0.0
