"""Run the keyed test of the owner layer over a suspect, blind and against the unmarked reference.

The family of statistics is small and fixed (`residuals.py`, `subspace.py`), every member is computed with the same
chips, and the caller pays log2 of their number. Rows in chunks, on all cores. Knows how to find chips and what to
compare; does not know releases, verdicts or thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from watermark.evidence import KeyedTest
from watermark.marks import residuals
from watermark.marks.chips import OwnerChips
from watermark.marks.spans import (
    Carrier,
    ChipSource,
    Floats,
    Sources,
    SpanValues,
    owner_chips,
    read_values,
    rows_together,
    score_blind,
    score_difference,
)
from watermark.marks.statistic import LineSums, weighted_sum
from watermark.model.digest import BlockLayout, Progress, Span, spans_of
from watermark.model.parallel import in_order_forked

BLIND = "blind"
DIFFERENCE = "difference"
UNCLIPPED = "difference, unclipped"
REGRESSION = "regression"
BASE_REGRESSION = "regression on reference and base"
#: The members that work row by row; `subspace.py` has the others.
ROW_STATISTICS = (BLIND, DIFFERENCE, UNCLIPPED, REGRESSION, BASE_REGRESSION)
_CLIP_MEDIANS = 1.5 * 1.4826


def detect(
    sources: Sources,
    carriers: Sequence[Carrier],
    chips: ChipSource,
    names: Sequence[str],
    progress: Progress | None = None,
) -> list[KeyedTest]:
    """Compute the named row statistics over all carriers; one test a name, in the order of `names`.

    A statistic that needs values which are not at hand comes back empty (p = 1), never missing.
    """
    parts: dict[str, list[LineSums]] = {name: [] for name in names}

    def look(task: tuple[Carrier, Span]) -> tuple[dict[str, LineSums], int]:
        carrier, span = task
        values = read_values(sources, carrier, span)
        return score_span(values, carrier, span, chips, names), values.patterns.nbytes

    tasks = ((carrier, span) for carrier in carriers for span in spans_of(carrier.suspect))
    for sums, size_bytes in in_order_forked(look, tasks, sum(carrier.suspect.nbytes for carrier in carriers)):
        for name, part in sums.items():
            parts[name].append(part)
        if progress is not None:
            progress(size_bytes)
    return [join(name, parts[name]) for name in names]


def join(name: str, parts: Sequence[LineSums]) -> KeyedTest:
    """One test from the sums of all blocks."""
    total, energy, trials = weighted_sum(list(parts))
    return KeyedTest(name, total, energy, trials)


def score_span(
    values: SpanValues, carrier: Carrier, span: Span, chips: ChipSource, names: Iterable[str]
) -> dict[str, LineSums]:
    """Exact sums of each row statistic over the blocks of a span; those without the values they need are left out.

    Each tensor counts by its strength, which was fixed in R: what it shows in units of its noise grows with that.
    """
    drawn = owner_chips(carrier.marked, span, chips)
    layout = carrier.marked.layout
    scored = {}
    for name in names:
        sums = score(name, values, drawn, layout)
        if sums is not None:
            scored[name] = sums.times(carrier.marked.weight)
    return scored


def score(name: str, values: SpanValues, chips: OwnerChips, layout: BlockLayout) -> LineSums | None:
    """Exact sums of one row statistic against owner chips; None where values are not at hand."""
    if name == BLIND:
        return score_blind(values.patterns, chips, layout)
    shown = residual(name, values, layout)
    if shown is None or values.marked is None:
        return None
    own_unit = values.is_code and name in (REGRESSION, BASE_REGRESSION)
    stands_for = values.suspect if own_unit else values.marked
    return score_difference(shown, stands_for, chips, layout, None if name == UNCLIPPED else _CLIP_MEDIANS)


def residual(name: str, values: SpanValues, layout: BlockLayout) -> Floats | None:
    """The difference in which a row statistic looks for the mark, flat; None where values are not at hand."""
    if values.reference is None or (name == BASE_REGRESSION and values.base is None):
        return None
    pieces = []
    for x, w, v in rows_together(values, layout.row):
        if name == REGRESSION:
            pieces.append(residuals.regression(x, w))
        elif name == BASE_REGRESSION and v is not None:
            pieces.append(residuals.regression_on_base(x, w, v))
        else:
            pieces.append(residuals.difference(residuals.in_reference_scale(x, w, is_code=values.is_code), w))
    return np.concatenate([piece.ravel() for piece in pieces])
