"""Align models whose matrices share one stream of numbers: GPT-, BERT- and Llama-like, mixtures of experts, ViT.

The turn of the stream comes from the matrices that keep their order; with it each matrix finds its partner and is
fitted on its private axis, by itself (hidden units, experts) or with the one that shares its heads; then the turn is
found again from all of them together, until it rests. No knowledge of layers is needed, so dropped, moved and doubled
blocks cost nothing but themselves. Sees the unmarked reference and the suspect, never a key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from watermark.lineage.symmetry.alignment import Placement
from watermark.lineage.symmetry.faces import Face, Weights, faces_of, stream_width
from watermark.lineage.symmetry.fits import (
    IN_PLACE,
    MIXED,
    PAIRS,
    Fit,
    fit_again,
    fit_heads,
    fit_rows,
    fit_scales_again,
)
from watermark.lineage.symmetry.heads import fit_linked_heads
from watermark.lineage.symmetry.partners import find_partners
from watermark.lineage.symmetry.turn import TURNED, Turn, find_turn, still, turn_from
from watermark.model.safetensors import TensorInfo

Floats = NDArray[np.float32]
_Pair: TypeAlias = tuple[Face, Face]

#: Rounds of turn and fits: at least, and at most while the turn still moves by so much of its size.
LEAST_ROUNDS, ROUNDS, _RESTS = 3, 6, 0.01
#: A fit that explains less is noise: what the best of many rows explains by chance.
WORTH = 0.25
#: Heads are looked for where rows leave so many times more than they leave in a tenth of the matrices.
_USUAL = 1.3
_LITTLE = 0.005
#: Gains on the suspect's side of a rotation: how often they are fitted in turn, and what they must gain to be believed.
#: After the first few rounds rows keep their partners and only factors are fitted. A truncated or noisy matrix gains
#: by any fit (by a free mix most), one that lacks its gains much more.
_LEAD_ROUNDS, _LEAD_MATCHES, _LESS, _MUCH_LESS, _MUCH_LESS_MIXED = 24, 3, 0.9, 0.7, 0.3
_NOISY = 0.1
#: What heads shared by two matrices must leave of what rows leave, and what rows may leave without being doubted.
_HEADS_LESS, _UNCLEAR = 0.8, 0.03
#: Noise below this share of a matrix is none; directions of wider streams would take minutes.
_NO_NOISE, _MAX_DECOMPOSED = 1e-4, 2_048


@dataclass(frozen=True)
class StreamAlignment:
    """The turn of the stream, and every part of the reference that found its partner."""

    turn: Turn
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class _Placed:
    ours: Face
    theirs: Face
    fit: Fit
    lead: Floats | None = None


def align_stream(
    reference: Weights, wanted: Sequence[TensorInfo], suspect: Weights, theirs: Sequence[TensorInfo]
) -> StreamAlignment | None:
    """Align by the residual stream; None where either model has none."""
    width, their_width = stream_width(wanted), stream_width(theirs)
    if width is None or their_width is None:
        return None
    ours_seen = [face for tensor in wanted for face in faces_of(tensor, width)]
    theirs_seen = [face for tensor in theirs for face in faces_of(tensor, their_width)]
    turn, anchors = find_turn(reference, ours_seen, suspect, theirs_seen)
    if turn is None:
        turn, anchors = still(their_width, width), []
    placed: list[_Placed] = []
    for number in range(ROUNDS if turn.kind == TURNED else 1):
        if number:
            again = _turn_again(reference, suspect, placed, turn)
            moved = float(np.linalg.norm(again.matrix - turn.matrix) / np.linalg.norm(turn.matrix))
            if number >= LEAST_ROUNDS and moved < _RESTS:
                break
            turn = again
        pairs = _pairs(reference, ours_seen, suspect, theirs_seen, turn, anchors)
        placed = _fit_all(reference, suspect, pairs, turn, placed, with_leads=number == LEAST_ROUNDS - 1)
        if not placed:
            return None
    return StreamAlignment(turn, tuple(_placement(one, suspect, turn) for one in placed))


def _pairs(
    reference: Weights,
    ours: Sequence[Face],
    suspect: Weights,
    theirs: Sequence[Face],
    turn: Turn,
    anchors: Sequence[tuple[Face, Face]],
) -> list[tuple[Face, Face]]:
    """Which face is which; anchors keep their partners."""
    taken_ours, taken_theirs = {left.slot for left, _ in anchors}, {right.slot for _, right in anchors}
    found = find_partners(
        reference,
        [face for face in ours if face.slot not in taken_ours],
        suspect,
        [face for face in theirs if face.slot not in taken_theirs],
        turn,
    )
    return [*anchors, *((pair.ours, pair.theirs) for pair in found)]


def _fit_all(
    reference: Weights,
    suspect: Weights,
    pairs: Sequence[tuple[Face, Face]],
    turn: Turn,
    known: Sequence[_Placed],
    *,
    with_leads: bool,
) -> list[_Placed]:
    """Fit rows first, and heads where rows leave more than is usual in this suspect; sizes found once come first."""

    before = {(one.ours, one.theirs): one for one in known}
    leads = {pair: before[pair].lead if pair in before else None for pair in pairs}

    def values(pair: tuple[Face, Face]) -> tuple[Floats, Floats]:
        return reference.face(pair[0]), turn.apply(_led(suspect.face(pair[1]), leads[pair]))

    fits = {
        pair: fit_again(*values(pair), before[pair].fit) if pair in before else fit_rows(*values(pair))
        for pair in pairs
    }
    usual = _USUAL * float(np.percentile([fit.unexplained for fit in fits.values()], 10)) if fits else 0.0
    likely: list[int] = []
    for pair, fit in fits.items():
        if pair not in before and fit.unexplained > usual + _LITTLE:
            fits[pair] = fit_heads(*values(pair), fit, enough=usual + _LITTLE, likely=likely)
            if fits[pair].head:
                likely.insert(0, fits[pair].head)
    _link_heads(fits, values)
    for pair in fits:
        # In a suspect that is noisy all over, gains of its own are not told from the noise.
        if with_leads and turn.kind == TURNED and usual < _NOISY and fits[pair].unexplained > usual + _LITTLE:
            fits[pair], leads[pair] = _with_lead(reference.face(pair[0]), suspect.face(pair[1]), turn, fits[pair])
    return [_Placed(*pair, fit, leads[pair]) for pair, fit in fits.items() if fit.explained > WORTH]


def _link_heads(fits: dict[_Pair, Fit], values: Callable[[_Pair], tuple[Floats, Floats]]) -> None:
    """Take heads that two matrices share where that leaves much less than rows do; in place."""
    likely = [
        pair
        for pair, fit in fits.items()
        if fit.unexplained > _UNCLEAR or fit.kind == MIXED
        if fit.kind != PAIRS and pair[0].private == pair[1].private and pair[0].entry is None
    ]
    faces = {pair: values(pair) for pair in likely}
    for number, linked in fit_linked_heads(list(faces.values())).items():
        pair = likely[number]
        # Where heads were found mixed before, rows were much worse.
        rows_leave = 1.0 if fits[pair].kind == MIXED else fits[pair].unexplained
        if linked.unexplained < _HEADS_LESS * rows_leave:
            fits[pair] = linked


def _with_lead(ours: Floats, theirs: Floats, turn: Turn, fit: Fit) -> tuple[Fit, Floats | None]:
    """The fit after gains on the suspect's own side of the turn are undone too, where that explains much more.

    Gains can be folded, and others left behind, before a rotation and after it: they lie in two bases.
    """
    best: tuple[Fit, Floats | None] = (fit, None)
    even = _even_lead(theirs)
    believed = (_MUCH_LESS_MIXED if fit.kind == MIXED else _MUCH_LESS) * fit.unexplained
    for current in (fit, fit_rows(ours, turn.apply(theirs * even))):
        for number in range(_LEAD_ROUNDS):
            lead = _lead(ours, theirs, turn, current)
            led = turn.apply(theirs * lead)
            again = fit_again if number < _LEAD_MATCHES else fit_scales_again
            current = again(ours, led, current)
            if number < _LEAD_MATCHES - 1:
                continue
            if current.unexplained >= _LESS * fit.unexplained:
                break
            if current.unexplained < min(believed, best[0].unexplained):
                best = current, lead
    found, best_lead = best
    if best_lead is not None and found.explained > WORTH and found.unexplained > _LITTLE:
        found = fit_heads(ours, turn.apply(_led(theirs, best_lead)), found, enough=_LITTLE)
    return found, best_lead


def _even_lead(theirs: Floats) -> Floats:
    """Gains that make the suspect's columns equally long: a first guess, since a rotation mixes all channels."""
    length = np.linalg.norm(theirs, axis=0)
    middle = float(np.median(length))
    lead: Floats = np.where(length > 0, middle / np.where(length > 0, length, 1), 1).astype(np.float32)
    return lead


def _lead(ours: Floats, theirs: Floats, turn: Turn, fit: Fit) -> Floats:
    """The factor of each of the suspect's columns that brings it nearest, the rest of the fit given."""
    columns = np.where(fit.columns != 0, fit.columns, np.float32(1))
    wanted = (ours / columns) @ turn.matrix.T
    own = fit.private(theirs)
    energy = np.square(own).sum(axis=0)
    lead: Floats = np.where(energy > 0, (own * wanted).sum(axis=0) / np.maximum(energy, 1e-30), 1).astype(np.float32)
    return lead


def _led(theirs: Floats, lead: Floats | None) -> Floats:
    return theirs if lead is None else theirs * lead


def _turn_again(reference: Weights, suspect: Weights, placed: Sequence[_Placed], turn: Turn) -> Turn:
    """The turn from all matrices, each direction weighed by what the suspect still holds of it over its noise."""
    total = None
    for one in placed:
        columns = np.where(one.fit.columns != 0, one.fit.columns, np.float32(1))
        w = (reference.face(one.ours) / columns).astype(np.float32, copy=False)
        s = one.fit.private(_led(suspect.face(one.theirs), one.lead))
        # What a free mix explains of these numbers is partly noise that it took in.
        fitted = one.fit.mix.size / w.size if one.fit.mix is not None else 0.0
        cross = _weighed(w, s, turn) * (1 - min(fitted, 0.9)) ** 2
        # A factor near zero can take a face past the largest number: it then says nothing of the turn.
        if np.isfinite(cross).all():
            total = cross if total is None else total + cross
    return turn if total is None else turn_from(total)


def _weighed(ours: Floats, theirs: Floats, turn: Turn) -> NDArray[np.float64]:
    """suspect^T reference, the suspect's own directions weighed by signal over noise as the turn so far shows them.

    A matrix that was cut to a lower rank holds its first directions well and of the others only what training left
    there. The weights commute with its Gram matrix, so that they pull the turn nowhere by themselves.
    """
    cross = (theirs.T @ ours).astype(np.float64)
    floor = _NO_NOISE * float(np.square(ours, dtype=np.float64).mean()) + 1e-30
    if theirs.shape[1] > _MAX_DECOMPOSED or not np.isfinite(np.square(theirs).sum()):
        left = turn.apply(theirs) - ours
        return cross / (float(np.square(left, dtype=np.float64).mean()) + floor)
    directions = np.linalg.eigh((theirs.T @ theirs).astype(np.float64))[1]
    axes = directions.astype(np.float32)
    shown, expected = theirs @ axes, ours @ (turn.matrix.T @ axes)
    held = np.clip((shown * expected).sum(axis=0) / np.maximum(np.square(expected).sum(axis=0), 1e-30), 0, 1)
    noise = np.square(shown - held * expected, dtype=np.float64).mean(axis=0)
    weighed: NDArray[np.float64] = (directions * (held / (noise + floor))) @ (directions.T @ cross)
    return weighed


def _placement(one: _Placed, suspect: Weights, turn: Turn) -> Placement:
    values = partial(_values, one, suspect, turn)
    moved = not one.fit.is_identity
    kind = one.fit.kind if moved else IN_PLACE
    return Placement(one.ours, kind, one.fit.explained, moved, values)


def _values(one: _Placed, suspect: Weights, turn: Turn) -> Floats:
    return one.fit.apply(turn.apply(_led(suspect.face(one.theirs), one.lead)))
