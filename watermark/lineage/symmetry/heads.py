"""Which head is which, and what was mixed inside it, from two matrices that share it: products no mix can change.

A thief may put any invertible matrix between query and key of a head, or between value and output: alone, neither
tells the heads of a noisy or truncated model apart, and fitting a free matrix to each takes the noise for a mix and
much of the mark with it. Their product is what it was. So the parts of matrices that belong together are found by it,
then their heads, and one mix is fitted to both. Knows no tensors by name and no keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_sylvester
from scipy.optimize import linear_sum_assignment

from watermark.lineage.symmetry.fits import MIXED, Fit, explained_share, head_sizes, plainest_columns

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Index = NDArray[np.int64]

#: Mean cosine of the heads' products from which two parts belong together; unlike ones show under 0.1.
_LINKED = 0.25
#: Share of the best size's likeness that a smaller size of heads has to reach.
_NO_WORSE = 0.9
#: A direction in which the suspect holds less than this share of what the reference holds is lost.
_LOST = 0.1
_RIDGE = 1e-6
#: All sizes of heads that are tried are multiples of this.
_STEP = 4
#: Longer parts hold hidden units or words; directions of wider streams would take minutes; tables must fit memory.
_MAX_ROWS, _MAX_WIDTH, _MAX_BYTES = 1_024, 2_048, 1 << 29


@dataclass(frozen=True)
class _Tables:
    """Products of rows: reference with suspect, reference with itself, suspect with itself."""

    cross: Floats
    ours: Floats
    theirs: Floats


@dataclass(frozen=True)
class _Part:
    """Some rows of a face over the directions that are held; their products with the strong ones weakened."""

    face: int
    start: int
    ours: Floats
    theirs: Floats
    even: _Tables


@dataclass(frozen=True)
class _Link:
    left: int
    right: int
    size: int
    heads: Index
    likeness: float


def fit_linked_heads(faces: Sequence[tuple[Floats, Floats]]) -> dict[int, Fit]:
    """Explain faces by heads that pairs of them share; those that belong to no pair as a whole are left out.

    Args:
        faces: of the reference and of the suspect, the stream turned already; (rows, width) each, equally many rows.

    Returns:
        For the number of a face how its heads are gathered and mixed.
    """
    parts = _parts(faces)
    links = _links(parts)
    mixes: dict[int, tuple[Index, Doubles]] = {}
    for link in links:
        left, right = (_products(parts[number].ours, parts[number].theirs) for number in (link.left, link.right))
        rows = (link.heads[:, None] * link.size + np.arange(link.size)).reshape(-1)
        for number, one, other in ((link.left, left, right), (link.right, right, left)):
            mixes[number] = rows, _mixes(one, other, rows, link.size)
    fits: dict[int, Fit] = {}
    for number, (ours, theirs) in enumerate(faces):
        own = [place for place, part in enumerate(parts) if part.face == number]
        if own and all(place in mixes for place in own) and len({mixes[place][1].shape[1] for place in own}) == 1:
            index = np.concatenate([parts[place].start + mixes[place][0] for place in own])
            mix = np.concatenate([mixes[place][1] for place in own])
            fits[number] = _fit(ours, theirs, index, mix)
    return fits


def _parts(faces: Sequence[tuple[Floats, Floats]]) -> list[_Part]:
    """Each face whole, or in thirds (query, key and value in one) where these have the size of another."""
    sizes = {len(ours) for ours, _ in faces}
    found: list[tuple[int, int, int]] = []
    for number, (ours, theirs) in enumerate(faces):
        rows, width = ours.shape
        step = rows // 3 if rows % 3 == 0 and rows // 3 in sizes else rows
        if step <= _MAX_ROWS and width <= _MAX_WIDTH and np.isfinite(np.square(theirs).sum()):
            found += [(number, start, step) for start in range(0, rows, step)]
    if sum(3 * 4 * step * step for _, _, step in found) > _MAX_BYTES:
        return []
    return [
        _part(number, start, *(face[start : start + step] for face in faces[number])) for number, start, step in found
    ]


def _part(face: int, start: int, ours: Floats, theirs: Floats) -> _Part:
    """Products over the directions that the suspect still holds, the strong ones weakened.

    What all heads share (the mean of the stream, most of all) would make every head the likest of every other.
    """
    energy, directions = np.linalg.eigh((theirs.T @ theirs).astype(np.float64))
    wanted = np.square(ours @ directions.astype(np.float32), dtype=np.float64).sum(axis=0)
    held = energy / max(float(energy.sum()), 1e-30) > _LOST * wanted / max(float(wanted.sum()), 1e-30)
    kept = directions[:, held].astype(np.float32)
    w, s = ours @ kept, theirs @ kept
    strength = np.square(w).sum(axis=0)
    # Weak directions, mostly noise in a noisy suspect, are not raised.
    even = 1 / np.sqrt(strength + max(float(strength.mean()) if strength.size else 0.0, 1e-30))
    even = even.astype(np.float32)
    return _Part(face, start, w, s, _products(w * even, s * even))


def _products(ours: Floats, theirs: Floats) -> _Tables:
    return _Tables(ours @ theirs.T, ours @ ours.T, theirs @ theirs.T)


def _links(parts: Sequence[_Part]) -> list[_Link]:
    """Pairs of parts, the likest first, each part in one."""
    every = (_link(parts, left, right) for right in range(len(parts)) for left in range(right))
    taken: set[int] = set()
    links = []
    for link in sorted((one for one in every if one is not None), key=lambda one: -one.likeness):
        if not {link.left, link.right} & taken:
            taken |= {link.left, link.right}
            links.append(link)
    return links


def _link(parts: Sequence[_Part], left: int, right: int) -> _Link | None:
    """How alike the heads of two parts are by their products, in the head size that makes them likest."""
    one, other = parts[left].even, parts[right].even
    rows = len(one.cross)
    if len(other.cross) != rows:
        return None
    tables = [_blocks(table, _STEP) for table in (one.cross * other.cross, one.ours * other.ours)]
    tables.append(_blocks(one.theirs * other.theirs, _STEP))
    found: list[_Link] = []
    for size in head_sizes(rows, rows, 2 * rows) if rows % _STEP == 0 else ():
        products, ours, theirs = (_blocks(table, size // _STEP) for table in tables)
        cosines = products / np.sqrt(np.maximum(np.outer(np.diag(ours), np.diag(theirs)), 1e-30))
        order, heads = linear_sum_assignment(-cosines)
        likeness = float(cosines[order, heads].mean())
        if likeness > _LINKED:
            found.append(_Link(left, right, size, heads.astype(np.int64), likeness))
    # Heads that stayed side by side are as like as one: take the smallest.
    enough = _NO_WORSE * max((link.likeness for link in found), default=0.0)
    return min((link for link in found if link.likeness >= enough), key=lambda link: link.size, default=None)


def _blocks(table: Floats, size: int) -> Floats:
    """Sums over blocks of `size` by `size`."""
    count = len(table) // size
    sums: Floats = table.reshape(count, size, count, size).sum(axis=3).sum(axis=1)
    return sums


def _mixes(one: _Tables, other: _Tables, rows: Index, size: int) -> Doubles:
    """The matrix of each head that brings the suspect's part nearest, its inverse doing the same for the other part.

    Minimises |A - N A'|^2 / |A|^2 + |B' - N^T B|^2 / |B'|^2, a Sylvester equation; (heads, size, size).
    """
    mixes = []
    for head in range(len(rows) // size):
        mine, taken = slice(head * size, (head + 1) * size), rows[head * size : (head + 1) * size]
        top = max(float(np.trace(one.ours[mine, mine])), 1e-30)
        bottom = max(float(np.trace(other.theirs[np.ix_(taken, taken)])), 1e-30)
        left = other.ours[mine, mine].astype(np.float64) / bottom
        right = one.theirs[np.ix_(taken, taken)].astype(np.float64) / top
        wanted = one.cross[mine, taken].astype(np.float64) / top + other.cross[mine, taken].astype(np.float64) / bottom
        left += _RIDGE * np.trace(left) / size * np.eye(size)
        right += _RIDGE * np.trace(right) / size * np.eye(size)
        mixes.append(solve_sylvester(left, right, wanted))
    return np.stack(mixes)


def _fit(ours: Floats, theirs: Floats, index: Index, mix: Doubles) -> Fit:
    """The explanation of a whole face."""
    size = mix.shape[1]
    taken = theirs[index].reshape(-1, size, theirs.shape[1])
    turned = (mix.astype(np.float32) @ taken).reshape(ours.shape)
    rows, columns, numbers = plainest_columns(ours, turned)
    explained = explained_share(ours, turned * rows[:, None] * columns[None, :], numbers + mix.size // 2)
    return Fit(MIXED, index, np.arange(len(ours)), mix, rows, columns, explained, size)
