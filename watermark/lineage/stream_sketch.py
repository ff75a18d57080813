"""Sketch a model whose matrices share one stream of numbers: BERT-, GPT- and Llama-like, mixtures of experts, ViT.

Each matrix is a bag of vectors in the stream: what a hidden unit or a head's row reads, what it writes. Brought to
length 1 and measured by anchors, the sum of their squares is the same however units, heads and experts are ordered,
scaled or turned round, projections fused or split, and the stream rotated. Mixes inside heads change a head's vectors
and not the space they span, which costs little. Nothing needs to know which matrix is which. Two passes over the table
of words, one over everything, in pieces: memory does not grow with the model. Matrices are measured side by side on all
cores, each by one process, and added up in order: the numbers are those of one core.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.lineage.anchors import ANCHORS, Floats, evened, public_signs, sane, unit, unit_rows, without_common
from watermark.lineage.symmetry.faces import Face, faces_of, stream_width
from watermark.model.directory import Model
from watermark.model.parallel import in_order_forked
from watermark.model.safetensors import TensorInfo

Doubles = NDArray[np.float64]
Progress = Callable[[int], None]

_READ_ELEMENTS = 1 << 19
#: Rows that stand for all where only what is common is wanted.
_SAMPLE_ROWS = 8_192
#: Matrices that stand for all where only what is common is wanted.
_SAMPLE_FACES = 96
_SHARED_FACES = 24
#: A private size that so many matrices share may belong to a table of words: one, and another for the output.
_TABLES = 2
#: Fewer rows than this are no table of words.
_MIN_TABLE = 32


@dataclass(frozen=True)
class Grams:
    """What the anchors see: of the whole model and of each matrix, triangles without what is common, (2080,)."""

    whole: Doubles
    parts: tuple[Doubles, ...]


@dataclass(frozen=True)
class _Matrix:
    """One matrix with the faces it may have: one, or two where it is square."""

    faces: tuple[Face, ...]


def stream_grams(
    model: Model,
    tensors: Sequence[TensorInfo],
    progress: Progress | None = None,
    pieces: MutableMapping[str, bytes] | None = None,
) -> Grams | None:
    """Measure a stream model by anchors from its table of words; None where it has no stream or no table.

    Args:
        model: the open model.
        tensors: those of its tensors that can be matrices.
        progress: told the bytes that were measured.
        pieces: what an earlier run on the very same tensors computed; what this one computes is added.
    """
    width = stream_width(tensors)
    if width is None:
        return None
    seen = [_Matrix(group) for tensor in tensors for group in _matrices(tensor, width)]
    tables = _tables_of(seen)
    if not tables:
        return None
    rest = [matrix for matrix in seen if matrix.faces[0] not in tables]
    if all(len(matrix.faces) > 1 for matrix in rest):
        return None
    kept: MutableMapping[str, bytes] = pieces if pieces is not None else {}
    if not {"turns", "anchors"} <= kept.keys():
        turns, measured = _measuring(model, tables, rest)
        kept["turns"], kept["anchors"] = bytes(turns), measured.tobytes()
    faces = _in_order(rest, list(kept["turns"]))
    measured = np.frombuffer(kept["anchors"], np.float32).reshape(-1, width)
    blocks = [measured[at : at + ANCHORS] for at in range(0, len(measured), ANCHORS)]
    commons = [(block @ block.T).astype(np.float64) for block in blocks]

    def part_of(face: Face) -> Doubles:
        seen_by = profile(model, face, measured)
        grams = [
            without_common((rows.T @ rows).astype(np.float64), common)
            for rows, common in zip(np.split(seen_by, len(blocks), axis=1), commons, strict=True)
        ]
        summed: Doubles = np.sum(grams, axis=0)
        return summed

    left = [(number, face) for number, face in enumerate(faces) if f"part {number}" not in kept]
    found = in_order_forked(lambda numbered: part_of(numbered[1]), left, _size([face for _, face in left]))
    for (number, face), part in zip(left, found, strict=True):
        kept[f"part {number}"] = part.tobytes()
        if progress is not None:
            progress(_size([face]))
    parts = tuple(np.frombuffer(kept[f"part {number}"], np.float64) for number in range(len(faces)))
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return Grams(whole, parts)


def _measuring(model: Model, tables: Sequence[Face], rest: Sequence[_Matrix]) -> tuple[list[int], Floats]:
    """Which way round each matrix is taken, and the anchors that all are measured by, (any, width)."""
    anchors = np.concatenate(list(in_order_forked(lambda table: _anchors(model, table), tables, _size(tables))))
    clear = [matrix.faces[0] for matrix in rest if len(matrix.faces) == 1]
    turns = _turns(model, rest, clear, evened(anchors, _sample(model, clear)))
    return turns, evened(anchors, _sample(model, _in_order(rest, turns)))


def _in_order(matrices: Sequence[_Matrix], turns: Sequence[int]) -> list[Face]:
    """The chosen face of each matrix: first those that have only one."""
    chosen = [matrix.faces[turn] for matrix, turn in zip(matrices, turns, strict=True)]
    is_clear = [len(matrix.faces) == 1 for matrix in matrices]
    return [face for face, clear in zip(chosen, is_clear, strict=True) if clear] + [
        face for face, clear in zip(chosen, is_clear, strict=True) if not clear
    ]


def _size(faces: Sequence[Face]) -> int:
    """Bytes of faces as they are computed with."""
    return 4 * sum(face.private * face.width for face in faces)


def _matrices(tensor: TensorInfo, width: int) -> Iterator[tuple[Face, ...]]:
    """The faces of a tensor, those of one matrix together."""
    faces = faces_of(tensor, width)
    for entry in dict.fromkeys(face.entry for face in faces):
        yield tuple(face for face in faces if face.entry == entry)


def _tables_of(seen: Sequence[_Matrix]) -> tuple[Face, ...]:
    """The tables whose rows have an order that no thief changes: the longest size that only one or two have."""
    alone = [matrix.faces[0] for matrix in seen if len(matrix.faces) == 1 and matrix.faces[0].entry is None]
    counts = Counter(face.private for face in alone)
    sizes = [size for size, count in counts.items() if count <= _TABLES and size >= _MIN_TABLE]
    return tuple(face for face in alone if sizes and face.private == max(sizes))


def has_layers(tensors: Sequence[TensorInfo]) -> bool:
    """Whether matrices share a stream and, several of them, a private size, as the layers of a stream do.

    A plain chain has none of it.
    """
    width = stream_width(tensors)
    if width is None:
        return False
    seen = [_Matrix(group) for tensor in tensors for group in _matrices(tensor, width)]
    counts = Counter(matrix.faces[0].private for matrix in seen if len(matrix.faces) == 1)
    return any(count >= 2 for size, count in counts.items() if size != width)


def _anchors(model: Model, table: Face) -> Floats:
    """64 sums of a table's rows under public signs, strong directions of the table weakened; (64, width), length 1."""
    mean: Doubles = np.zeros(0)
    for _, rows in face_rows(model, table):
        summed = rows.sum(axis=0, dtype=np.float64)
        mean = summed if not len(mean) else mean + summed
    centre = (mean / table.private).astype(np.float32)
    step = max(1, table.private // _SAMPLE_ROWS)
    sums, sample = np.zeros((ANCHORS, len(centre))), []
    for first, rows in face_rows(model, table):
        centred = unit_rows(rows - centre)
        sums += public_signs(first, first + len(rows)).T @ centred
        sample.append(centred[-first % step :: step].copy())  # a view would keep all rows alive
    return unit_rows(evened(sums.astype(np.float32), np.concatenate(sample)))


def _sample(model: Model, faces: Sequence[Face]) -> Floats:
    """Vectors of many faces, each giving as many as its size is worth; (about 8,192, width), length 1."""
    chosen = _some(faces, _SAMPLE_FACES)
    step = max(1, sum(face.private for face in chosen) // _SAMPLE_ROWS)
    taken = in_order_forked(lambda face: unit_rows(_every(model, face, step)), chosen, _size(chosen) // step)
    return np.concatenate(list(taken))


def _every(model: Model, face: Face, step: int) -> Floats:
    """One vector in `step` of a face; of one whose vectors are rows, nothing else is read."""
    if face.axis == 0:
        columns = [rows[:, ::step] for _, rows in matrix_rows(model, face.tensor, face.entry)]
        return np.ascontiguousarray(np.concatenate(columns).T)
    if step == 1:
        return np.concatenate([rows for _, rows in matrix_rows(model, face.tensor, face.entry)])
    return np.concatenate([matrix_row(model, face.tensor, row, face.entry) for row in range(0, face.private, step)])


def _some(faces: Sequence[Face], count: int) -> Sequence[Face]:
    """At most so many, evenly spread."""
    return [faces[at] for at in np.linspace(0, len(faces) - 1, min(len(faces), count)).astype(int)]


def _turns(model: Model, matrices: Sequence[_Matrix], clear: Sequence[Face], anchors: Floats) -> list[int]:
    """Choose the face of each square matrix: all that touch the stream share directions, private axes share none."""
    common = (anchors @ anchors.T).astype(np.float64)

    def deviation(face: Face) -> Doubles:
        rows = profile(model, face, anchors)
        found = without_common((rows.T @ rows).astype(np.float64), common)
        return unit(found)

    squares = [matrix.faces for matrix in matrices if len(matrix.faces) > 1]
    if not squares:
        return [0] * len(matrices)
    samples = _some(clear, _SHARED_FACES)
    shared = np.sum(list(in_order_forked(deviation, samples, _size(samples))), axis=0)

    def turn_of(faces: tuple[Face, ...]) -> int:
        found = [float(deviation(face) @ shared) for face in faces]
        return found.index(max(found))

    turned = in_order_forked(turn_of, squares, _size([face for faces in squares for face in faces]))
    return [0 if len(matrix.faces) == 1 else next(turned) for matrix in matrices]


def profile(model: Model, face: Face, anchors: Floats) -> Floats:
    """The products of each of a face's vectors, brought to length 1, with the anchors; (private, anchors)."""
    products = np.zeros((face.private, len(anchors)), np.float32)
    if face.axis == 1:
        for first, rows in face_rows(model, face):
            products[first : first + len(rows)] = unit_rows(rows) @ anchors.T
        return products
    energy = np.zeros(face.private)
    added = np.empty_like(products)
    for first, rows in matrix_rows(model, face.tensor, face.entry):
        products += np.matmul(rows.T, anchors[:, first : first + len(rows)].T, out=added)
        energy += np.square(rows, dtype=np.float64).sum(axis=0)
    length: Floats = np.sqrt(energy)[:, None].astype(np.float32)
    length[length == 0] = 1
    scaled: Floats = products / length
    return scaled


def face_rows(model: Model, face: Face) -> Iterator[tuple[int, Floats]]:
    """The vectors of a face in pieces, with the number of the first; a transposed one is read as a whole."""
    if face.axis == 1:
        yield from matrix_rows(model, face.tensor, face.entry)
        return
    whole = np.concatenate([rows for _, rows in matrix_rows(model, face.tensor, face.entry)])
    yield 0, np.ascontiguousarray(whole.T)


def matrix_rows(
    model: Model, tensor: TensorInfo, entry: int | None = None, progress: Progress | None = None
) -> Iterator[tuple[int, Floats]]:
    """A tensor, or one entry of a stack, as (first axis, all others) in pieces of rows; what is no number is 0."""
    shape = tensor.shape if entry is None else tensor.shape[1:]
    columns = math.prod(shape[1:])
    begin = 0 if entry is None else entry * math.prod(shape)
    step = max(1, _READ_ELEMENTS // max(1, columns))
    for first in range(0, shape[0], step):
        last = min(shape[0], first + step)
        with np.errstate(over="ignore"):
            values = model.values(tensor, begin + first * columns, begin + last * columns)
            rows = values.astype(np.float32, copy=False).reshape(last - first, columns)
        yield first, sane(rows)
        if progress is not None:
            progress(rows.nbytes)


def matrix_row(model: Model, tensor: TensorInfo, row: int, entry: int | None = None) -> Floats:
    """One row of what `matrix_rows` reads, as (1, columns)."""
    shape = tensor.shape if entry is None else tensor.shape[1:]
    columns = math.prod(shape[1:])
    first = ((0 if entry is None else entry * shape[0]) + row) * columns
    with np.errstate(over="ignore"):
        values = model.values(tensor, first, first + columns)
        return sane(values.astype(np.float32, copy=False).reshape(1, columns))
