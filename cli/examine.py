"""Test one release's mark in the weights of one suspect: exact copies, then the keyed tests, then the recipients.

Uses everything the owner has, so its numbers are the owner's private answer; what strangers can check is made in
`case.py`. Every statistic, release and copy that was tried is counted, and the count goes out with the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cli.aligned import ALIGNED, TRIES, align_suspect, is_settled
from cli.kin import Kin, find_kin
from cli.mark_record import MarkRecord
from cli.reading import cache_root_of
from cli.reference_places import local_place
from registry.store.record_file import ReleaseBook
from registry.store.records import CopyRecord, ReleaseRecord
from watermark.errors import WeightmarkError
from watermark.evidence import (
    POWER_MARGIN_BITS,
    THRESHOLD_LOG2_P,
    THRESHOLD_RECIPIENT_LOG2_P,
    KeyedTest,
    add_multiplicity,
    predicted_bits_blind,
    predicted_bits_with_reference,
)
from watermark.lineage.pairing import mean_cosine, pair_by_name, pair_tensors
from watermark.marks.chips import recipient_code
from watermark.marks.coded import coded_tensors
from watermark.marks.detect import BASE_REGRESSION, BLIND, ROW_STATISTICS, detect
from watermark.marks.geometry import OWNER_ENERGY, Geometry, MarkedTensor
from watermark.marks.secret import ReleaseKey
from watermark.marks.spans import Carrier, ChipSource, Sources
from watermark.marks.subspace import SUBSPACES, detect_subspaces
from watermark.marks.trace import fold, residual_for
from watermark.model.digest import Progress, canonical_digest, digest_tensors
from watermark.model.directory import Model, open_model
from watermark.model.packed.unpack import unpack
from watermark.model.safetensors import TensorInfo
from watermark.model.suspect import find_packed

#: A disturbance in row deviations at which a copy is still expected to be found, when power is stated.
POWER_DISTURBANCE = 0.4
#: A tensor that is byte for byte a released one speaks by itself from this many predicted bits on.
IDENTICAL_BITS = 64.0
#: The first look at the recipients uses one chunk in this many; it usually suffices.
_FIRST_LOOK = 8
TRACE_LOOKS = 2


@dataclass(frozen=True)
class Reference:
    """The unmarked reference of a release, opened and found to be the one that was marked; or why it is not at hand."""

    model: Model | None
    tensors: Mapping[str, TensorInfo]
    problem: str | None = None


@dataclass(frozen=True)
class Finding:
    """What one release's tests show in one suspect. Counts of what was tried stand beside the tests.

    `is_comparable` is False where no tensor of the suspect, as it lies or aligned, is the partner of a marked one: the
    tests of this release say nothing about this suspect, whatever others say.
    """

    record: ReleaseRecord
    tests: tuple[KeyedTest, ...]
    statistics_tried: int
    recipient: str | None
    recipient_copy: str | None
    recipient_test: KeyedTest | None
    copies: int
    matched: int
    marked: int
    similarity: float | None
    power_bits: float
    identical_bits: float
    identical_copies: tuple[CopyRecord, ...]
    identical_to_reference: bool
    identical_to_base: bool
    excluded: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = field(default=())
    kin: Kin | None = None
    is_comparable: bool = True

    @property
    def best(self) -> KeyedTest | None:
        """The test that shows the most; None when none was run."""
        return min(self.tests, key=lambda test: test.log2_p, default=None)


def open_reference(record: ReleaseRecord, given: Path | str | None, stack: ExitStack) -> Reference:
    """Open the reference where it was remembered or where the caller says, and demand that it is unchanged.

    From S3 it is fetched first; trouble there is an error of its own (exit 4), not a reference that is gone.
    """
    place = given if given is not None else record.reference_place
    local = local_place(place, stack)
    try:
        model = stack.enter_context(open_model(local, link_root=cache_root_of(local), allow_torch=True))
        digests = digest_tensors(model)
        tensors = {digest.hex(): model.tensors[name] for name, digest in digests.items()}
        if canonical_digest(digests.values()).hex() == record.reference_digest:
            unpack(model, find_packed(model))
            tensors |= coded_tensors(model)
    except WeightmarkError as err:
        return Reference(None, {}, f"the unmarked reference is not at {place}: {err}")
    if canonical_digest(digests.values()).hex() != record.reference_digest:
        return Reference(None, {}, f"the model at {place} is not the reference of this release any more")
    return Reference(model, tensors)


def examine(
    suspect: Model,
    suspect_digests: Mapping[str, bytes],
    record: ReleaseRecord,
    book: ReleaseBook,
    owner_secret: bytes,
    reference_place: Path | None,
    progress: Progress | None = None,
) -> Finding:
    """Run every test of one release on a suspect; its copies, which may be a million, are looked up in `book`."""
    ours = {digest.hex() for digest in suspect_digests.values()}
    identical = tuple(book.exact_copies(record.release_id, ours))
    copies = book.count_copies(record.release_id)
    with ExitStack() as stack:
        reference = open_reference(record, reference_place, stack)
        notes = [reference.problem] if reference.problem else []
        of_reference = set(reference.tensors) if reference.model else set()
        is_reference = canonical_digest(suspect_digests.values()).hex() == record.reference_digest
        if record.mark_root is None:
            notes.append("this release carries no mark: only exact copies of it are recognised")
            kin = find_kin(reference.model, suspect, None) if reference.model is not None else None
            return replace(_unmarked(record, copies, identical, is_reference, notes), kin=kin)
        mark = MarkRecord.from_document(record.mark_document)
        base = _open_base(mark, stack, notes)
        carriers, similarity = _carriers(mark, suspect, reference, base)
        sources = Sources(suspect, reference.model, base)
        release_key = ReleaseKey.of(owner_secret, bytes.fromhex(record.reference_digest))
        chips = ChipSource.of(release_key.block_secrets(), mark.stretched)
        tests, tried = _owner_tests(sources, carriers, chips, with_base=base is not None, progress=progress)
        shown_in = (sources, carriers)
        views = [shown_in]
        aligned = None
        if reference.model is not None and not is_settled(tests):
            bases = _bases(reference, mark.geometry.marked, base)
            aligned = align_suspect(reference.model, reference.tensors, mark.geometry.marked, sources, bases, stack)
        if aligned is not None:
            has_base = base is not None
            views.append((aligned.sources, list(aligned.carriers)))
            again, tried = _owner_tests(aligned.sources, aligned.carriers, chips, with_base=has_base, progress=None)
            if min(again, key=_log2_p).log2_p < min(map(_log2_p, tests), default=0.0):
                shown_in = views[-1]
            tests += aligned.named(again)
            notes += aligned.notes()
        kin = None
        if reference.model is not None and not is_settled(tests):
            kin = find_kin(reference.model, suspect, base)
        named, recipient_test = None, None
        best = min(tests, key=_log2_p, default=None)
        if best is not None and best.log2_p <= THRESHOLD_RECIPIENT_LOG2_P and reference.model is not None:
            named, recipient_test = _trace(
                *shown_in,
                chips,
                mark,
                bytes.fromhex(record.mark_root),
                release_key,
                book,
                record.release_id,
                best.name.removesuffix(ALIGNED),
                progress,
            )
        return Finding(
            record=record,
            tests=tuple(tests),
            statistics_tried=tried if reference.model is None else tried * TRIES,
            recipient=named.recipient if named is not None else None,
            recipient_copy=named.copy_id if named is not None else None,
            recipient_test=recipient_test,
            copies=copies,
            matched=len(shown_in[1]),
            marked=len(mark.geometry.marked),
            similarity=similarity,
            power_bits=max(_power(*seen, is_based=mark.geometry.base is not None) for seen in views),
            identical_bits=_identical_bits(
                suspect, suspect_digests, mark.geometry, book.held_tensors(record.release_id, ours) - of_reference
            ),
            identical_copies=identical,
            identical_to_reference=is_reference,
            identical_to_base=canonical_digest(suspect_digests.values()).hex() == mark.geometry.base,
            excluded=tuple((excluded.digest, excluded.reason) for excluded in mark.geometry.excluded),
            notes=tuple(notes),
            kin=kin,
            # Without the reference partners are found by name alone: that there is none says nothing.
            is_comparable=reference.model is None or any(carriers for _, carriers in views),
        )


def _unmarked(
    record: ReleaseRecord,
    copies: int,
    identical: tuple[CopyRecord, ...],
    is_reference: bool,
    notes: list[str],
) -> Finding:
    return Finding(
        record,
        (),
        0,
        None,
        None,
        None,
        copies,
        0,
        0,
        None,
        0.0,
        0.0,
        identical,
        is_reference,
        False,
        (),
        tuple(notes),
        is_comparable=False,
    )


def _open_base(mark: MarkRecord, stack: ExitStack, notes: list[str]) -> Model | None:
    if mark.base_place is None:
        return None
    local = local_place(mark.base_place, stack)
    try:
        base = stack.enter_context(open_model(local, allow_torch=True))
        if canonical_digest(digest_tensors(base).values()).hex() == mark.geometry.base:
            return base
        notes.append(f"the model at {mark.base_place} is not the declared base any more")
    except WeightmarkError as err:
        notes.append(f"the declared base is not at {mark.base_place}: {err}")
    return None


def _carriers(
    mark: MarkRecord, suspect: Model, reference: Reference, base: Model | None
) -> tuple[list[Carrier], float | None]:
    """Pair the marked tensors with the suspect's: by values where the reference is at hand, else by name."""
    marked = {tensor.digest: tensor for tensor in mark.geometry.marked}
    if reference.model is None:
        shapes = {digest: tensor.shape for digest, tensor in marked.items()}
        found = pair_by_name(mark.names, suspect, shapes)
        return [Carrier(marked[digest], tensor) for digest, tensor in found.items()], None
    wanted = {digest: reference.tensors[digest] for digest in marked}
    by_name = {tensor.name: marked[digest] for digest, tensor in wanted.items()}
    pairs = pair_tensors(reference.model, wanted.values(), suspect)
    bases = _bases(reference, mark.geometry.marked, base)
    carriers = [
        Carrier(by_name[pair.reference.name], pair.suspect, pair.reference, bases.get(pair.reference.name))
        for pair in pairs
    ]
    return carriers, mean_cosine(pairs)


def _bases(reference: Reference, marked: Sequence[MarkedTensor], base: Model | None) -> dict[str, TensorInfo]:
    """The base's tensor for the name of each marked one of the reference."""
    if reference.model is None or base is None:
        return {}
    wanted = [reference.tensors[tensor.digest] for tensor in marked]
    return {pair.reference.name: pair.suspect for pair in pair_tensors(reference.model, wanted, base)}


def _owner_tests(
    sources: Sources, carriers: Sequence[Carrier], chips: ChipSource, *, with_base: bool, progress: Progress | None
) -> tuple[list[KeyedTest], int]:
    """The family; the members that need a decomposition only where the others did not settle it. All are paid for."""
    if not carriers:
        return [], 0
    if sources.reference is None:
        return detect(sources, carriers, chips, [BLIND], progress), 1
    names = [name for name in ROW_STATISTICS if with_base or name != BASE_REGRESSION]
    tests = detect(sources, carriers, chips, names, progress)
    tried = len(names) + len(SUBSPACES)
    if min(test.log2_p for test in tests) > THRESHOLD_LOG2_P - POWER_MARGIN_BITS:
        tests += detect_subspaces(sources, carriers, chips, progress=progress)
    return tests, tried


def _log2_p(test: KeyedTest) -> float:
    return test.log2_p


def _trace(
    sources: Sources,
    carriers: Sequence[Carrier],
    chips: ChipSource,
    mark: MarkRecord,
    root: bytes,
    release_key: ReleaseKey,
    book: ReleaseBook,
    release_id: str,
    statistic: str,
    progress: Progress | None,
) -> tuple[CopyRecord | None, KeyedTest | None]:
    """Find the copy whose code shows, if one does after the number of copies; a first look at a part, then at all."""
    count = sum(1 for _ in book.recipients(release_id))
    if not count or (mark.geometry.base is not None and sources.base is None):
        return None, None

    def codes() -> Iterator[tuple[str, NDArray[np.int8]]]:
        for copy_id, name in book.recipients(release_id):
            copy_key = release_key.copy_key(name)
            yield copy_id, recipient_code(copy_key.key, mark.stretched, copy_key.commitment(root))

    share = mark.geometry.recipient_share
    for every in (_FIRST_LOOK, 1):
        scores = fold(sources, carriers, chips, share, residual_for(statistic), every=every, progress=progress)
        found = scores.best(codes())
        assert found is not None  # there are names
        best, test = found
        if add_multiplicity(test.log2_p, [count, TRACE_LOOKS]) <= THRESHOLD_RECIPIENT_LOG2_P:
            return book.find_copy(best), test
    return None, test


def _power(sources: Sources, carriers: Sequence[Carrier], *, is_based: bool) -> float:
    """Bits that a copy disturbed by 0.4 row deviations is predicted to show over the tensors in common."""
    bits = 0.0
    for carrier in carriers:
        alpha = carrier.marked.alpha
        if is_based:
            alpha *= _share_of_difference(sources, carrier)
        owner, other = alpha * OWNER_ENERGY**0.5, alpha * (1 - OWNER_ENERGY) ** 0.5
        count, rounding = carrier.marked.carriers, carrier.marked.rounding_variance
        if carrier.reference is not None:
            disturbance = (POWER_DISTURBANCE**2 + other**2 + rounding) ** 0.5
            bits += predicted_bits_with_reference(count, owner, disturbance)
        else:
            bits += predicted_bits_blind(count, owner) / (1 + POWER_DISTURBANCE**2 + rounding)
    return bits


def _share_of_difference(sources: Sources, carrier: Carrier) -> float:
    """Spread of reference minus base over the spread of the reference, from the first block; 0.0 without the base.

    On a declared base, strength is relative to the difference: a disturbance of the whole weight weighs more there.
    """
    if sources.reference is None or sources.base is None or carrier.reference is None:
        return 0.0
    if carrier.base is None:
        return 1.0  # the base has no such tensor: the weight is all difference
    stop = carrier.marked.layout.bounds(0)[1]
    ours = sources.reference.values(carrier.reference, 0, stop).astype(np.float64)
    theirs = sources.base.values(carrier.base, 0, stop).astype(np.float64)
    spread = float(ours.std())
    return float((ours - theirs).std()) / spread if spread else 0.0


def _identical_bits(
    suspect: Model,
    suspect_digests: Mapping[str, bytes],
    geometry: Geometry,
    released: set[str],
) -> float:
    """Predicted blind bits of the owner layer in those tensors of the suspect that only copies hold."""
    released = released - {tensor.digest for tensor in geometry.excluded}
    alpha: dict[tuple[int, ...], float] = {}
    for one in geometry.marked:  # which of several of one shape it was, nobody knows here: the weakest
        alpha[one.shape] = min(one.alpha, alpha.get(one.shape, one.alpha))
    bits = 0.0
    counted = set()
    for name, digest in suspect_digests.items():
        tensor = suspect.tensors[name]
        if digest.hex() in released and tensor.shape in alpha and digest not in counted:
            counted.add(digest)
            bits += predicted_bits_blind(tensor.count, alpha[tensor.shape] * OWNER_ENERGY**0.5)
    return bits
