"""The mark in a suspect whose matrices were cut to a lower rank.

Truncation throws away most of what a plain difference needs, and its own error drowns the rest. But what it removed is
orthogonal to the suspect's own leading singular vectors V: for x = T(w + m), (x - w - m) V = 0, so (x - w) V V^T shows
m V V^T without any noise. V comes from the suspect alone. Tried at a few fixed shares of the rank and at the numerical
rank; the caller pays for their number. A tensor is one process's work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from watermark.evidence import KeyedTest
from watermark.marks import residuals
from watermark.marks.detect import join
from watermark.marks.spans import (
    Carrier,
    ChipSource,
    Floats,
    Sources,
    SpanValues,
    owner_chips,
    read_values,
    rows_together,
    score_difference,
)
from watermark.marks.statistic import LineSums
from watermark.model.digest import BlockLayout, Progress, Span, spans_of
from watermark.model.parallel import in_order_forked

SHARES = (0.05, 0.10, 0.25, 0.50)
SUBSPACES = (*(f"subspace {share:.0%}" for share in SHARES), "subspace of the rank")
#: Wider matrices would take minutes to decompose.
MAX_WIDTH = 2_048
_MIN_WIDTH = 16
_CHUNK_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class Directions:
    """Right singular vectors of a suspect's tensor by falling singular value, and how many each member keeps."""

    vectors: Floats
    kept: tuple[int, ...]


def decompose(sources: Sources, carrier: Carrier) -> Directions | None:
    """Find a suspect tensor's own directions; None where rows were cut or joined, or are too short or too wide."""
    layout = carrier.marked.layout
    height, width = carrier.suspect.shape[0], math.prod(carrier.suspect.shape[1:])
    if width != layout.row or not _MIN_WIDTH <= width <= MAX_WIDTH or height < _MIN_WIDTH:
        return None
    alone, only = Sources(sources.suspect), Carrier(carrier.marked, carrier.suspect)
    chunks = (
        read_values(alone, only, span).suspect.reshape(-1, width) for span in spans_of(carrier.suspect, _CHUNK_ELEMENTS)
    )
    if height < width:
        whole = np.concatenate(list(chunks)).astype(np.float64)
        vectors, rank = residuals.leading_directions_of_wide(whole)
    else:
        gram = np.zeros((width, width))
        for rows in chunks:
            wide = rows.astype(np.float64)
            gram += wide.T @ wide
        vectors, rank = residuals.leading_directions(gram)
    full = min(height, width)
    kept = tuple(max(1, round(full * share)) for share in SHARES)
    return Directions(vectors.astype(np.float32), (*kept, max(1, min(rank, full))))


def detect_subspaces(
    sources: Sources,
    carriers: Sequence[Carrier],
    chips: ChipSource,
    names: Sequence[str] = SUBSPACES,
    progress: Progress | None = None,
) -> list[KeyedTest]:
    """Compute the named members over all carriers that can be decomposed; one test a name, in their order."""
    parts: dict[str, list[LineSums]] = {name: [] for name in names}

    def look(carrier: Carrier) -> dict[str, list[LineSums]]:
        found: dict[str, list[LineSums]] = {name: [] for name in names}
        directions = decompose(sources, carrier) if carrier.reference is not None else None
        for span in spans_of(carrier.suspect, _CHUNK_ELEMENTS) if directions is not None else ():
            values = read_values(sources, carrier, span)
            assert directions is not None
            for name, part in score_span(values, carrier, span, chips, directions, names).items():
                found[name].append(weigh_by_rank(part, name, directions, carrier))
        return found

    size_bytes = sum(carrier.suspect.nbytes for carrier in carriers)
    for carrier, found in zip(carriers, in_order_forked(look, carriers, size_bytes), strict=True):
        for name in names:
            parts[name] += found[name]
        if progress is not None:
            progress(carrier.suspect.nbytes)
    return [join(name, parts[name]) for name in names]


def weigh_by_rank(part: LineSums, name: str, directions: Directions, carrier: Carrier) -> LineSums:
    """Let a tensor weigh by the share of its mark that the kept directions show as well.

    A tenth of the rank is a tenth of a row as long as the rank, and a fortieth of one four times as long.
    """
    return part.times(directions.kept[SUBSPACES.index(name)] / carrier.marked.layout.row)


def score_span(
    values: SpanValues, carrier: Carrier, span: Span, chips: ChipSource, directions: Directions, names: Iterable[str]
) -> dict[str, LineSums]:
    """Exact sums of each named member over the blocks of a span."""
    layout = carrier.marked.layout
    drawn = owner_chips(carrier.marked, span, chips)
    assert values.marked is not None
    return {
        name: score_difference(shown, values.marked, drawn, layout, None).times(carrier.marked.weight)
        for name, shown in projections(values, layout, directions, names)
    }


def projections(
    values: SpanValues, layout: BlockLayout, directions: Directions, names: Iterable[str]
) -> Iterator[tuple[str, Floats]]:
    """The difference in which each named member looks for the mark, flat: what lies in the suspect's own directions."""
    difference = np.concatenate(
        [
            residuals.in_reference_scale(x, w, is_code=values.is_code) - w
            for x, w, _ in rows_together(values, layout.row)
        ]
    )
    turned: Floats = difference @ directions.vectors
    for name in names:
        kept = directions.kept[SUBSPACES.index(name)]
        shown: Floats = turned[:, :kept] @ directions.vectors[:, :kept].T
        yield name, shown.ravel()
