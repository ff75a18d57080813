"""Make the copies of a release: write them marked, sign and log each, and put them in place.

One reading of the reference serves every copy. The log's receipt is verified before a copy appears under its name, and
statements that were signed and not acknowledged are found again by the next run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cli.also_sign import countersign_lines, demand_countersigned
from cli.document_sources import DocumentSources
from cli.documents import add_documents, document_predicates, restore_documents
from cli.drafts import draft_beside, put_in_place, refuse_taken
from cli.home import Home
from cli.mark_record import Calibration, MarkRecord
from cli.pending import PendingCopies, PendingCopy
from cli.reference_places import keep_in_s3
from cli.sketches import predicate_of_sketch, sketch_of_folder, stated_sketch
from cli.stamping import NO_STAMPER, Stamper, order_of_copy, stamp_checkpoint, stamp_statements
from cli.statements import CopyFacts, make_claims, make_release_entry
from cli.unfinished import Unfinished, identity_of, work_beside
from cli.written import WrittenCopy, carry_file, shipped_path, write_copies
from registry.signing.keys import OMS_ALGORITHMS, PublicKey
from registry.signing.manifest import SIDE_FILES, SIGNATURE_NAME
from registry.signing.oms import sign_model, verify_signature
from registry.signing.order import UNKNOWN, Order
from registry.signing.release import verify_release
from registry.signing.signer import Signer
from registry.store.embedded import EmbeddedRegistry
from registry.store.records import CopyRecord, ReleaseRecord
from watermark.errors import DigestError, InputError
from watermark.marks.coded import moved_weights
from watermark.marks.plan import MarkPlan
from watermark.marks.secret import CopyKey, ReleaseKey
from watermark.marks.survey import Survey, read_base
from watermark.marks.weights import Embedder
from watermark.model.digest import Progress, Span, canonical_digest, digest_model
from watermark.model.directory import Model, open_model
from watermark.model.rewrite import NewBytes, WrittenShard, rewrite_shard


@dataclass(frozen=True)
class CopyResult:
    """One finished copy."""

    copy: str | None
    recipient: str | None
    index: int
    out: str
    root_digest: str
    order: Order = UNKNOWN


@dataclass
class Work:
    """One run: everything that was opened and decided."""

    source: Path
    out: Path
    recipients: tuple[str, ...]
    keep_reference: Path | str | None
    home: Home
    model: Model
    key: Signer = field(repr=False)
    release_key: ReleaseKey = field(repr=False)
    plan: MarkPlan | None
    found: Survey | None
    reference_digest: bytes
    reference_tensors: Mapping[str, bytes]
    base: Model | None
    base_names: Mapping[str, str] | None
    base_place: str | None
    stamper: Stamper = NO_STAMPER
    documents: DocumentSources | None = None
    also_sign: tuple[Signer, ...] = field(default=(), repr=False)
    calibration: Calibration | None = None


def make_copies(
    work: Work, registry: EmbeddedRegistry, label: tuple[str, str], progress: Progress | None
) -> tuple[tuple[CopyResult, ...], float]:
    """Make every copy from one reading of the reference; they appear once the log has acknowledged them all.

    Gives the copies, and the largest change of any weight. `label` is name and version.
    """
    keys: list[CopyKey | None] = [work.release_key.copy_key(name) for name in work.recipients] or [None]
    targets = [work.out]
    if len(keys) > 1:
        targets = [work.out / copy.copy_id for copy in keys if copy is not None]
        for target in targets:
            refuse_taken(target)
    with work_beside(work.out, _identity(work, keys)) as unfinished:
        place = _keep_reference(work, is_resumed=unfinished.is_resumed)
        drafts = [unfinished.folder / str(number) for number in range(len(keys))]
        embedder = Embedder(work.plan, keys) if work.plan is not None else None
        write_shard = partial(_write_shard, work, embedder, unfinished, progress)
        written, largest = write_copies(work.model, write_shard, drafts)
        work.model.verify_unchanged()
        _remember_release(work, registry, label, place, embedder.stretched if embedder is not None else b"")
        results = []
        for copy, folder, target, files in zip(keys, drafts, targets, written, strict=True):
            record = _register_copy(work, registry, label, copy, folder, files, unfinished)
            for side, data in zip(SIDE_FILES, (record.model_sig, record.claims, record.proof), strict=True):
                (folder / side).write_bytes(data)
            name = copy.recipient if copy is not None else None
            order = order_of_copy(record.claims, record.proof, work.home.trust())
            copy_id = record.copy_id if copy else None
            results.append(CopyResult(copy_id, name, record.log_index, str(target), record.root_digest, order))
        for folder, target in zip(drafts, targets, strict=True):
            put_in_place(folder, target)
    return tuple(results), largest


def _identity(work: Work, keys: Sequence[CopyKey | None]) -> str:
    """What decides every byte of the weight files: the reference by name, R, the copies, and the files' headers."""
    return identity_of(
        release=work.release_key.release_id,
        root=work.plan.root.hex() if work.plan is not None else None,
        copies=[copy.copy_id if copy is not None else None for copy in keys],
        tensors={name: digest.hex() for name, digest in work.reference_tensors.items()},
        headers={shard: hashlib.sha256(work.model.header_bytes(shard)).hexdigest() for shard in work.model.shards},
    )


def _write_shard(
    work: Work,
    embedder: Embedder | None,
    unfinished: Unfinished,
    progress: Progress | None,
    path: str,
    targets: Sequence[Path],
) -> tuple[WrittenShard, ...]:
    """Write one weight file of every copy, or go on where a killed run stopped."""
    shipped = shipped_path(work.model, path)
    rewrite = partial(
        rewrite_shard,
        work.model,
        path,
        targets,
        progress=progress,
        finished=unfinished.finished(shipped),
        on_disk=partial(unfinished.finish, shipped),
    )
    if embedder is None:
        return rewrite(lambda _, raw: NewBytes((raw,) * len(targets)))
    with moved_weights(embedder, path) as (moved, largest):

        def change(span: Span, raw: bytes) -> NewBytes:
            weight = moved.get(span.tensor.name)
            if weight is not None:
                return NewBytes(weight.stored_bytes(span))
            return embedder.mark(span, raw, read_base(work.base, work.base_names, span))

        # What moves in packed weights is known before their codes are written.
        return tuple(replace(shard, largest_change=max(largest, shard.largest_change)) for shard in rewrite(change))


def _keep_reference(work: Work, *, is_resumed: bool) -> Path | str:
    """Copy the unmarked reference where the owner asked for it; gives the place to remember.

    The run before a resumed one may have put it there already.
    """
    keep = work.keep_reference
    if keep is None:
        return work.source.absolute()
    if isinstance(keep, str):
        return keep_in_s3(work.model, keep)
    if not (is_resumed and _is_kept(work, keep)):
        _copy_reference(work, keep)
    return keep.absolute() / work.model.files[0].path if work.model.is_single_file else keep.absolute()


def _is_kept(work: Work, keep: Path) -> bool:
    """Whether every file of the reference lies at `keep`, as it is."""
    try:
        with open_model(keep, allow_torch=True) as there:
            ours, theirs = digest_model(work.model).files, digest_model(there).files
    except InputError:
        return False
    return ours == theirs


def _copy_reference(work: Work, keep: Path) -> None:
    refuse_taken(keep)
    with draft_beside(keep) as draft:
        folder = draft / "reference"
        for entry in work.model.files:
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
            carry_file(work.model, entry.path, [folder / entry.path])
        put_in_place(folder, keep)


def _remember_release(
    work: Work, registry: EmbeddedRegistry, label: tuple[str, str], place: Path | str, stretched: bytes
) -> None:
    release_id = work.release_key.release_id
    if any(known.release_id == release_id for known in registry.records.list_releases()):
        return
    document = b""
    if work.plan is not None:
        names = {t.digest: work.plan.surveys[t.digest].names[0] for t in work.plan.geometry.marked}
        document = MarkRecord(work.plan.geometry, names, work.base_place, stretched, work.calibration).document()
    registry.records.put_release(
        ReleaseRecord(
            release_id,
            work.home.owner,
            *label,
            str(place),
            work.reference_digest.hex(),
            work.plan.root.hex() if work.plan else None,
            document,
            int(datetime.now(UTC).timestamp()),
        )
    )


def _register_copy(
    work: Work,
    registry: EmbeddedRegistry,
    label: tuple[str, str],
    copy: CopyKey | None,
    folder: Path,
    written: WrittenCopy,
    unfinished: Unfinished,
) -> CopyRecord:
    """Sign and log a copy, or find what was signed and logged for it before."""
    release_id = work.release_key.release_id
    copy_id = copy.copy_id if copy is not None else release_id
    known = registry.records.find_copy(copy_id)
    if known is not None:
        demand_countersigned(known.claims, work.also_sign)
        _restore_documents(work, known.model_sig, copy_id, folder, written)
        _check_same_bytes(known, folder, written, work)
        return known
    pending = PendingCopies(work.home.path)
    statements = pending.find(copy_id)
    if statements is not None and registry.find(hashlib.sha256(statements.entry).digest()) is None:
        statements = None  # nothing was acknowledged, and the files beside the weights may have changed since
    if statements is None:
        statements = stamp_statements(_make_statements(work, label, copy, folder, written, unfinished), work.stamper)
        pending.put(copy_id, statements)
    else:
        _restore_documents(work, statements.model_sig, copy_id, folder, written)
    receipt = registry.append([statements.entry])[0]
    trust = work.home.trust()
    signed = verify_signature(statements.model_sig, key=_keys_of(work), authorities=trust.authorities)
    claims = stamp_checkpoint(statements.claims, receipt.proof, label[0], signed.manifest.root, work.key, work.stamper)
    verify_release(signed, claims, receipt.proof, trust)
    record = CopyRecord(
        copy_id,
        release_id,
        copy.recipient if copy is not None else None,
        copy.commitment(work.plan.root).hex() if copy is not None and work.plan is not None else None,
        receipt.index,
        signed.manifest.root.hex(),
        statements.model_sig,
        claims,
        receipt.proof,
        json.dumps(sorted({digest.hex() for digest in written.tensors.values()})),
        int(datetime.now(UTC).timestamp()),
        stated_sketch(statements.claims),
    )
    _check_same_bytes(record, folder, written, work)
    registry.records.put_copy(record)
    pending.drop(copy_id)
    return record


def _make_statements(
    work: Work,
    label: tuple[str, str],
    copy: CopyKey | None,
    folder: Path,
    written: WrittenCopy,
    unfinished: Unfinished,
) -> PendingCopy:
    canonical = canonical_digest(written.tensors.values())
    digests = {digest.hex() for digest in written.tensors.values()}
    plan = work.plan
    facts = CopyFacts(
        owner=work.home.owner,
        name=label[0],
        version=label[1],
        release=work.release_key.release_id,
        copy=copy.copy_id if copy is not None else None,
        mark_root=plan.root.hex() if plan else None,
        copy_commitment=copy.commitment(plan.root).hex() if copy is not None and plan is not None else None,
        geometry_digest=plan.geometry.digest().hex() if plan else None,
        tensor_digests=tuple(sorted(digests)),
        canonical_digest=canonical.hex(),
        signed_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        sketch=predicate_of_sketch(sketch_of_folder(folder, unfinished.pieces(canonical))),
    )
    documents: dict[str, bytes] = {}
    if work.documents is not None:
        weights = {path: written.files[path] for path in (shipped_path(work.model, one) for one in work.model.shards)}
        documents = add_documents(work.documents, work.model, facts, weights, folder, work.home.path)
        written.files.update(documents)
    signed = sign_model(
        folder,
        work.key,
        ignore=SIDE_FILES,
        signature_path=folder / SIGNATURE_NAME,
        digests=written.files,
        name=label[0],
    )
    claims = make_claims(facts, signed, work.key, document_predicates(documents, work.key.public))
    claims += countersign_lines(label[0], signed.root, signed.pae_sha256, work.also_sign)
    return PendingCopy(signed.bundle, claims, make_release_entry(facts, signed, claims, work.key))


def _keys_of(work: Work) -> list[PublicKey]:
    """The owner's keys, also those from before: a copy that is made again was signed by the key of its day."""
    keys = work.home.trust().owners.get(work.home.owner, (work.key.public,))
    return [key for key in keys if key.algorithm in OMS_ALGORITHMS]


def _restore_documents(work: Work, model_sig: bytes, copy_id: str, folder: Path, written: WrittenCopy) -> None:
    """Put the documents in place that a copy was signed with: they are not made anew."""
    signed = verify_signature(model_sig, key=_keys_of(work))
    written.files.update(restore_documents(signed.manifest, written.files, copy_id, folder, work.home.path))


def _check_same_bytes(record: CopyRecord, folder: Path, written: WrittenCopy, work: Work) -> None:
    """What was written now must be what was signed then: a release is made again bit for bit, or not at all."""
    signed = verify_signature(record.model_sig, key=_keys_of(work))
    listed = {resource.name: resource.digest for resource in signed.manifest.resources}
    if listed != written.files:
        changed = sorted(name for name in {*listed, *written.files} if listed.get(name) != written.files.get(name))
        raise DigestError(
            f"{folder.name}: this release was signed before with other bytes in {', '.join(changed[:3])}",
            hint="files beside the weights changed since; release under the files of that time, or mark anew",
        )
