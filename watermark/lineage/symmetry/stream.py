"""Align models whose matrices share one stream of numbers: GPT-, BERT- and Llama-like, mixtures of experts, ViT.

The turn of the stream comes from the matrices that keep their order; with it each matrix finds its partner and is
fitted by itself on its private axis (hidden units, heads, experts); then the turn is found again from all of them
together, three rounds in all. No knowledge of layers is needed, so dropped, moved and doubled blocks cost nothing but
themselves. Sees the unmarked reference and the suspect, never a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from watermark.lineage.symmetry.alignment import Placement
from watermark.lineage.symmetry.faces import Face, Weights, faces_of, stream_width
from watermark.lineage.symmetry.fits import IN_PLACE, Fit, fit_again, fit_heads, fit_rows, fit_scales_again
from watermark.lineage.symmetry.partners import find_partners
from watermark.lineage.symmetry.turn import TURNED, Turn, find_turn, still, turn_from
from watermark.model.safetensors import TensorInfo

Floats = NDArray[np.float32]

ROUNDS = 3
#: A fit that explains less is noise: what the best of many rows explains by chance.
WORTH = 0.25
#: Heads are looked for where rows leave so many times more than they leave in a tenth of the matrices.
_USUAL = 1.3
_LITTLE = 0.005
#: Gains on the suspect's side of a rotation: how often they are fitted in turn, and what they must gain to be believed.
#: After the first few rounds rows keep their partners and only factors are fitted.
_LEAD_ROUNDS, _LEAD_MATCHES, _MUCH_LESS = 24, 3, 0.98


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
            turn = _turn_again(reference, suspect, placed)
        pairs = _pairs(reference, ours_seen, suspect, theirs_seen, turn, anchors)
        placed = _fit_all(reference, suspect, pairs, turn, placed)
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
        if turn.kind == TURNED and fits[pair].unexplained > usual + _LITTLE:
            fits[pair], leads[pair] = _with_lead(reference.face(pair[0]), suspect.face(pair[1]), turn, fits[pair])
    return [_Placed(*pair, fit, leads[pair]) for pair, fit in fits.items() if fit.explained > WORTH]


def _with_lead(ours: Floats, theirs: Floats, turn: Turn, fit: Fit) -> tuple[Fit, Floats | None]:
    """The fit after gains on the suspect's own side of the turn are undone too, where that explains much more.

    Gains can be folded, and others left behind, before a rotation and after it: they lie in two bases.
    """
    best: tuple[Fit, Floats | None] = (fit, None)
    even = _even_lead(theirs)
    for current in (fit, fit_rows(ours, turn.apply(theirs * even))):
        for number in range(_LEAD_ROUNDS):
            lead = _lead(ours, theirs, turn, current)
            led = turn.apply(theirs * lead)
            again = fit_again if number < _LEAD_MATCHES else fit_scales_again
            current = again(ours, led, current)
            if number >= _LEAD_MATCHES - 1 and current.unexplained < _MUCH_LESS * best[0].unexplained:
                best = current, lead
    found, best_lead = best
    if found.explained > WORTH and found.unexplained > _LITTLE:
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


def _turn_again(reference: Weights, suspect: Weights, placed: Sequence[_Placed]) -> Turn:
    """The turn from all matrices: each weighs by what it explains."""
    total = None
    for one in placed:
        columns = np.where(one.fit.columns != 0, one.fit.columns, np.float32(1))
        w = reference.face(one.ours) / columns
        s = one.fit.private(_led(suspect.face(one.theirs), one.lead))
        size = float(np.linalg.norm(w) * np.linalg.norm(s))
        left = max(1e-4, 1 - one.fit.explained)
        cross = (s.T @ w).astype(np.float64) * (w.size / size / left if size else 0.0)
        total = cross if total is None else total + cross
    assert total is not None
    return turn_from(total)


def _placement(one: _Placed, suspect: Weights, turn: Turn) -> Placement:
    values = partial(_values, one, suspect, turn)
    moved = not one.fit.is_identity
    kind = one.fit.kind if moved else IN_PLACE
    return Placement(one.ours, kind, one.fit.explained, moved, values)


def _values(one: _Placed, suspect: Weights, turn: Turn) -> Floats:
    return one.fit.apply(turn.apply(_led(suspect.face(one.theirs), one.lead)))
