"""Find the releases that a sketch may come from, among a million of them, with numpy alone.

1,024 sign bits find two thousand candidates by xor and popcount; their exact cosines decide. What all sketches have in
common is taken out first, the more surely the more there are. Siblings, fine-tunes of one base, are alike in the whole:
their parts are compared one to one, and how much nearer the suspect lies to the first is shown as a margin. A cosine is
no evidence and a margin is none: the keyed test decides. Knows no database; who owns what is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from watermark.lineage.anchors import unit_rows
from watermark.lineage.fingerprint import WHOLE, Bytes8, Sketch

#: From this cosine on a release is named; from the other on it is possible; below, it is unlike.
NAMED: Final = 0.45
POSSIBLE: Final = 0.30
#: Candidates whose exact cosine is computed.
RANKED: Final = 2_000
_BITS = 1_024
#: With so many sketches their mean is taken out by half; with few, hardly at all.
_MEAN_COUNT = 64
#: Sketches unpacked at once.
_CHUNK = 1 << 16
#: Sketches compared at once: few enough that a word of each stays in a core's cache.
_AT_ONCE = 1 << 14

Words = NDArray[np.uint64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Match:
    """A stored sketch by its number, and its likeness to the one that was asked for."""

    number: int
    cosine: float

    @property
    def level(self) -> str:
        """`named`, `possible` or `unlike`."""
        return "named" if self.cosine >= NAMED else "possible" if self.cosine >= POSSIBLE else "unlike"


class SketchIndex:
    """The whole-model vectors of many sketches, ready to be searched; about 1,420 bytes each."""

    def __init__(self, wholes: Bytes8, forms: NDArray[np.uint8]) -> None:
        """Index sketches given as rows; the arrays are kept, not copied, and may be memory maps.

        Args:
            wholes: (sketches, 1280).
            forms: the form of each, (sketches,).
        """
        self._wholes, self._forms = wholes, forms
        self._means = {int(form): self._mean_of(int(form)) for form in np.unique(forms)}
        # One row a word: xor and popcount then run along memory.
        self._words = np.empty((_BITS // 64, len(wholes)), np.uint64)
        self._lengths = np.empty(len(wholes), np.float32)
        for first in range(0, len(wholes), _CHUNK):
            chosen = slice(first, first + _CHUNK)
            centred = self._centred(wholes[chosen], forms[chosen])
            self._words[:, chosen] = _sign_words(centred).T
            self._lengths[chosen] = np.linalg.norm(centred, axis=1)

    @classmethod
    def of(cls, sketches: Sequence[Sketch]) -> SketchIndex:
        """Index these sketches under their places in the sequence."""
        wholes = np.stack([sketch.whole for sketch in sketches]) if sketches else np.zeros((0, WHOLE), np.int8)
        return cls(wholes, np.array([sketch.form for sketch in sketches], np.uint8))

    def __len__(self) -> int:
        """Number of sketches."""
        return len(self._wholes)

    def search(self, sketch: Sketch, count: int = 10) -> list[Match]:
        """The `count` sketches most like this one, best first; those of another form have cosine 0."""
        if not len(self) or sketch.is_empty:
            return []
        form = np.array([sketch.form], np.uint8)
        asked = self._centred(sketch.whole[None], form)
        near = self._nearest(_sign_words(asked)[0], max(RANKED, count))
        centred = self._centred(self._wholes[near], self._forms[near])
        size = self._lengths[near] * np.linalg.norm(asked)
        cosines = (centred @ asked[0]) / np.where(size > 0, size, 1)
        cosines = np.where((size > 0) & (self._forms[near] == sketch.form), cosines, 0)
        best = np.argsort(-cosines, kind="stable")[:count]
        return [Match(int(near[at]), float(cosines[at])) for at in best]

    def _nearest(self, signs: Words, count: int) -> NDArray[np.intp]:
        """The `count` sketches whose signs differ in the fewest places, in their order; all where they are no more."""
        if len(self) <= count:
            return np.arange(len(self))
        differing = np.empty(len(self), np.uint16)
        for first in range(0, len(self), _AT_ONCE):
            chosen = slice(first, first + _AT_ONCE)
            total = np.zeros(len(differing[chosen]), np.uint16)
            for word, sign in zip(self._words, signs, strict=True):
                total += np.bitwise_count(word[chosen] ^ sign)
            differing[chosen] = total
        # Counted rather than sorted: there are only 1,025 possible values.
        limit = int(np.searchsorted(np.cumsum(np.bincount(differing, minlength=_BITS + 1)), count))
        near = np.flatnonzero(differing <= limit)
        if len(near) > count:
            near = np.sort(near[np.argsort(differing[near], kind="stable")[:count]])
        return near

    def _mean_of(self, form: int) -> Floats:
        """What the sketches of a form have in common, the less of it the fewer they are; (1280,)."""
        total, count = np.zeros(WHOLE), 0
        for first in range(0, len(self._wholes), _CHUNK):
            rows = self._wholes[first : first + _CHUNK][self._forms[first : first + _CHUNK] == form]
            total += _unit(rows).sum(axis=0, dtype=np.float64)
            count += len(rows)
        mean: Floats = (total / (count + _MEAN_COUNT)).astype(np.float32)
        return mean

    def _centred(self, wholes: Bytes8, forms: NDArray[np.uint8]) -> Floats:
        unit = _unit(wholes)
        for form, mean in self._means.items():
            unit[forms == form] -= mean
        return unit


def cosine(one: Sketch, other: Sketch) -> float:
    """Likeness of two sketches by themselves, nothing taken out; 0.0 for two forms."""
    if one.form != other.form or one.is_empty or other.is_empty:
        return 0.0
    return float(_unit(one.whole[None])[0] @ _unit(other.whole[None])[0])


def distance(suspect: Sketch, known: Sketch) -> float:
    """Mean squared distance of the parts, matched one to one as they fit best: 0 equal, 2 unrelated; inf for two forms.

    Parts that one model lacks are left out.
    """
    if suspect.form != known.form or not len(suspect.parts) or not len(known.parts):
        return float("inf")
    numbers = min(suspect.parts.shape[1], known.parts.shape[1])
    cosines = _unit(suspect.parts[:, :numbers]) @ _unit(known.parts[:, :numbers]).T
    rows, columns = linear_sum_assignment(-cosines)
    return float(np.mean(2 - 2 * cosines[rows, columns]))


def margin(suspect: Sketch, first: Sketch, second: Sketch) -> float:
    """Where the suspect lies between two siblings: 1 at `first`, 0 halfway, -1 at `second`.

    The difference of the two distances over the siblings' own; damage that has nothing to do with what sets them apart
    leaves it near 1 and adds noise. 0 where their parts are equal, or cannot be compared.
    """
    near, far, apart = distance(suspect, first), distance(suspect, second), distance(first, second)
    if not (np.isfinite(near) and np.isfinite(far) and np.isfinite(apart)) or apart <= 0:
        return 0.0
    return (far - near) / apart


def _unit(rows: Bytes8) -> Floats:
    return unit_rows(rows.astype(np.float32))


def _sign_words(centred: Floats) -> Words:
    """The signs of the first 1,024 numbers, packed; (rows, 16)."""
    packed = np.packbits(centred[:, :_BITS] > 0, axis=1)
    words: Words = np.ascontiguousarray(packed).view(np.uint64)
    return words
