"""What an alignment undid, in plain words for a report. Knows nothing of how it was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from watermark.lineage.symmetry import factors, fits, turn
from watermark.lineage.symmetry.alignment import Placement

_STREAM = {
    turn.REORDERED: "the residual stream reordered",
    turn.TURNED: "the residual stream rotated",
}
_KINDS = {
    fits.REORDERED: "rows reordered in",
    fits.PAIRS: "heads reordered and rotary pairs mixed in",
    fits.MIXED: "heads reordered and mixed in",
    factors.FACTORS: "the inner dimension of adapters mixed in",
}


def what_was_undone(stream: str | None, placements: Sequence[Placement]) -> tuple[str, ...]:
    """Lines such as `rows reordered in 12 matrices`; empty where everything was in its place."""
    lines = [_STREAM[stream]] if stream in _STREAM else []
    moved = Counter(placement.kind for placement in placements if placement.moved)
    for kind, text in _KINDS.items():
        if moved[kind]:
            lines.append(f"{text} {moved[kind]} {'matrix' if moved[kind] == 1 else 'matrices'}")
    return tuple(lines)
