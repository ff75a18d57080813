"""What wrong keys show in fixed suspects: every member of the family against its law, 100,000 keys at a time.

A statistic is T = sum s_i f_i, and f does not depend on the key. So f is taken once from the product's own parts, with
the weights of its lines multiplied in (its energy is held against the product's, line by line, to the last bit), and
the chips of many keys are drawn as the product draws them (owner secret > release key > block secret > key stream) and
multiplied with all f at once. Only scrypt, which every key would pay again, is left out: one salt serves all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tests.watermark.marks.models import MarkedModel
from watermark.lineage.kinship import compare_units, log2_fixed_points
from watermark.lineage.symmetry import align, write_aligned
from watermark.marks.chips import CODE_UNIT, code_table, unpack_chips
from watermark.marks.detect import BLIND, ROW_STATISTICS, UNCLIPPED, detect, residual, score
from watermark.marks.secret import ReleaseKey
from watermark.marks.spans import Carrier, ChipSource, Sources, SpanValues, quantise, read_values
from watermark.marks.spans import owner_chips as drawn_chips
from watermark.marks.statistic import LineSums, quantise_blind
from watermark.marks.subspace import SUBSPACES, decompose, detect_subspaces, projections, score_span, weigh_by_rank
from watermark.marks.survey import as_rows
from watermark.model.digest import spans_of
from watermark.model.directory import open_model

FAMILY = (*ROW_STATISTICS, *SUBSPACES)
#: Exponents k for which the share of p-values up to 2^-k is counted.
BITS = tuple(range(1, 17))
#: A count is too high where honest chance reaches it once in a million.
_LUCK = 1e-6
_CLIP_MEDIANS = 1.5 * 1.4826
_KEYS_AT_ONCE = 500

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Null:
    """What so many wrong keys showed in one test of one suspect.

    Attributes:
        spread: standard deviation of z.
        kurtosis: beyond that of the normal law.
        ks: p of the Kolmogorov-Smirnov test of z against the normal law of `expected` spread; 0 for a test without z.
        counts: how many p-values were at most 2^-k, for k in `BITS`.
        least_log2_p: the smallest.
    """

    test: str
    suspect: str
    keys: int
    spread: float
    kurtosis: float
    ks: float
    counts: tuple[int, ...]
    least_log2_p: float
    expected: float = 1.0

    def too_often(self) -> list[int]:
        """The k for which more p-values than chance allows were at most 2^-k."""
        allowed = [stats.binom.ppf(1 - _LUCK, self.keys, 2.0**-k) for k in BITS]
        return [k for k, count, most in zip(BITS, self.counts, allowed, strict=True) if count > most]


def null_of(test: str, suspect: str, z: NDArray[np.float64], expected: float = 1.0) -> Null:
    """Judge the z of many keys: two-sided against the normal law, and p one-sided as the product bounds it."""
    log2_p = np.where(z > 0, -z * z / (2 * math.log(2)), 0.0)
    counts = tuple(int((log2_p <= -k).sum()) for k in BITS)
    ks = float(stats.kstest(z / expected, "norm").pvalue)
    return Null(
        test, suspect, len(z), float(z.std()), float(stats.kurtosis(z)), ks, counts, float(log2_p.min()), expected
    )


@dataclass(frozen=True)
class Suspect:
    """A fixed suspect, open beside the reference and its base, and its carriers."""

    name: str
    sources: Sources
    carriers: Sequence[Carrier]


@contextmanager
def opened(marked: MarkedModel, base: Path, folders: Mapping[str, Path], room: Path) -> Iterator[list[Suspect]]:
    """Open suspects as they stand, and each once more aligned to the unmarked reference; `room` takes the latter."""
    from contextlib import ExitStack

    names = {t.digest.hex(): t.names[0] for t in marked.plan.surveys.values()}
    with ExitStack() as stack:
        reference, below = stack.enter_context(open_model(marked.reference)), stack.enter_context(open_model(base))
        wanted = [reference.tensors[names[tensor.digest]] for tensor in marked.plan.geometry.marked]
        found = []
        for number, (name, folder) in enumerate(folders.items()):
            model = stack.enter_context(open_model(folder))
            seen = {name: model}
            alignment = align(reference, wanted, model)
            if alignment is not None:
                (room / str(number)).mkdir(parents=True)
                seen[f"{name}, aligned"] = stack.enter_context(write_aligned(alignment, room / str(number)))
            for label, suspect in seen.items():
                carriers = [
                    Carrier(tensor, suspect.tensors[place], reference.tensors[place], below.tensors[place])
                    for tensor in marked.plan.geometry.marked
                    for place in [names[tensor.digest]]
                    if place in suspect.tensors
                ]
                if len(carriers) == len(marked.plan.geometry.marked):
                    found.append(Suspect(label, Sources(suspect, reference, below), carriers))
        yield found


def columns_of(suspect: Suspect, chips: ChipSource) -> NDArray[np.float64]:
    """f of every member with the weights of its lines, each column of length 1, (carriers, members)."""
    columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in FAMILY}
    for carrier in suspect.carriers:
        directions = decompose(suspect.sources, carrier)
        layout = carrier.marked.layout
        for span in spans_of(carrier.suspect):
            values = read_values(suspect.sources, carrier, span)
            drawn = drawn_chips(carrier.marked, span, chips)
            for name in ROW_STATISTICS:
                sums = score(name, values, drawn, layout)
                assert sums is not None
                columns[name].append(_weighted(name, values, carrier, sums, residual(name, values, layout)))
            if directions is None:
                for name in SUBSPACES:
                    columns[name].append(np.zeros(len(values.suspect)))
                continue
            shown = dict(projections(values, layout, directions, SUBSPACES))
            for name, sums in score_span(values, carrier, span, chips, directions, SUBSPACES).items():
                weighed = weigh_by_rank(sums, name, directions, carrier)
                columns[name].append(_weighted(name, values, carrier, weighed, shown[name]))
    found = np.stack([np.concatenate(columns[name]) for name in FAMILY], axis=1)
    size = np.sqrt(np.square(found).sum(axis=0))
    return found / np.where(size > 0, size, 1.0)


def _weighted(
    name: str, values: SpanValues, carrier: Carrier, sums: LineSums, shown: Floats | None
) -> NDArray[np.float64]:
    """Rounded f of one member over one span, its lines weighted; its energy must be the product's."""
    layout = carrier.marked.layout
    if name == BLIND:
        rows = [quantise_blind(part) for part in as_rows(values.suspect, layout.row)]
        flat = np.concatenate([part.ravel() for part in rows]).astype(np.float64)
        assert int(np.square(flat).sum()) == int(sums.energies.sum())
        return flat
    assert shown is not None
    clip = None if name == UNCLIPPED or name in SUBSPACES else _CLIP_MEDIANS
    lines = [quantise(part, clip)[0].astype(np.float64) for part in as_rows(shown, layout.line)]
    energies = np.concatenate([np.square(part).sum(axis=1) for part in lines])
    assert (energies.astype(np.int64) == sums.energies).all()
    mantissa, exponent = np.frexp(sums.weights.astype(np.float64))
    weights, pieces, first = np.ldexp(np.rint(mantissa * 64), exponent), [], 0
    for part in lines:
        pieces.append((part * weights[first : first + len(part), None]).ravel())
        first += len(part)
    return np.concatenate(pieces)


def wrong_chips(marked: MarkedModel, number: int) -> ChipSource:
    """The chips of an owner who marked nothing here, by the product's derivation."""
    secret = b"wrong" + number.to_bytes(27, "big")
    key = ReleaseKey.of(secret, marked.plan.key.key)
    return ChipSource.of(key.block_secrets(), marked.embedder.stretched)


def chips_of(source: ChipSource, carriers: Sequence[Carrier], into: Floats) -> None:
    """All owner chips of a key, in the order of the carriers."""
    start = 0
    for carrier in carriers:
        layout = carrier.marked.layout
        for block in range(layout.blocks):
            first, last = layout.bounds(block)
            bits = source.keys(carrier.marked.first_block + block).owner_bits(last - first)
            unpack_chips(bits, into[start : start + last - first])
            start += last - first


def owner_z(marked: MarkedModel, suspects: Sequence[Suspect], keys: int) -> NDArray[np.float64]:
    """z of so many wrong keys in every member and suspect, (keys, suspects, members)."""
    columns = np.concatenate([columns_of(suspect, marked.chips) for suspect in suspects], axis=1).astype(np.float32)
    found = np.empty((keys, columns.shape[1]))
    chips = np.empty((_KEYS_AT_ONCE, len(columns)), np.float32)
    for first in range(0, keys, _KEYS_AT_ONCE):
        batch = chips[: min(_KEYS_AT_ONCE, keys - first)]
        for number, row in enumerate(batch):
            chips_of(wrong_chips(marked, first + number), suspects[0].carriers, row)
        found[first : first + len(batch)] = batch @ columns
    return found.reshape(keys, len(suspects), len(FAMILY))


def owner_z_in_full(marked: MarkedModel, suspect: Suspect, keys: int) -> NDArray[np.float64]:
    """The same for one suspect by `detect` and `detect_subspaces`, a key at a time, (keys, members)."""
    found = np.empty((keys, len(FAMILY)))
    for number in range(keys):
        chips = wrong_chips(marked, number)
        tests = detect(suspect.sources, suspect.carriers, chips, ROW_STATISTICS)
        tests += detect_subspaces(suspect.sources, suspect.carriers, chips)
        found[number] = [test.z for test in tests]
    return found


def recipient_null(marked: MarkedModel, name: str, folder: Path, keys: int) -> Null:
    """So many recipients who were given nothing, against the fold of one suspect, each by the product's own path."""
    scores = marked.folded(folder)
    z = np.array([scores.test(marked.code(f"innocent {number}")).z for number in range(keys)])
    table = code_table().astype(np.float64) / CODE_UNIT
    return null_of("recipient", name, z, float(np.sqrt(np.square(table).mean())))


def kinship_null(ours: Floats, theirs: Floats, name: str, draws: int, seed: int = 0) -> Null:
    """Units in place by luck: two layers compared by the product, the other's units shuffled anew for each draw."""
    draw = np.random.default_rng(seed)
    in_place = [compare_units(ours, theirs[draw.permutation(len(theirs))], draw)[1] for _ in range(draws)]
    return _fixed_points(name, np.array(in_place), 1)


def permutation_null(units: int, layers: int, draws: int, seed: int = 0) -> Null:
    """Fixed points of uniform permutations, against the bound that the product prints for them."""
    draw = np.random.default_rng(seed)
    place = np.arange(units)
    total = np.zeros(draws, np.int64)
    for _ in range(layers):
        total += (draw.permuted(np.broadcast_to(place, (draws, units)), axis=1) == place).sum(axis=1)
    return _fixed_points(f"permutations of {units}", total, layers)


def _fixed_points(name: str, in_place: NDArray[np.int64], layers: int) -> Null:
    log2_p = np.array([log2_fixed_points(k, layers) for k in range(int(in_place.max()) + 1)])[in_place]
    counts = tuple(int((log2_p <= -k).sum()) for k in BITS)
    label = f"kinship, {layers} layer{'s' if layers > 1 else ''}"
    return Null(label, name, len(in_place), float(in_place.std()), 0.0, 0.0, counts, float(log2_p.min()))
