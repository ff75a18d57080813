"""The job of `weightmark release`: mark a model, sign it, register it, and put the copies in place.

Order: digest the reference and compute R and the copy commitments > mark, write and hash in one pass > statements >
sign > append to the log > verify the receipt > rename into place. Whatever dies in between leaves no half-marked
model under the target name, and the same command again goes on with the very statements that were made before. Knows
no flags and prints nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cli.drafts import draft_beside, put_in_place, refuse_taken
from cli.home import Home
from cli.mark_record import MarkRecord
from cli.pending import PendingCopies, PendingCopy
from cli.statements import CopyFacts, make_claims, make_release_entry
from registry.signing.keys import PrivateKey
from registry.signing.manifest import DEFAULT_IGNORED, SIDE_FILES, SIGNATURE_NAME
from registry.signing.oms import sign_model, verify_signature
from registry.signing.release import verify_release
from registry.store.embedded import EmbeddedRegistry
from registry.store.records import CopyRecord, ReleaseRecord
from watermark.errors import ConflictError, DigestError, InputError, UnavailableError
from watermark.lineage.pairing import pair_tensors
from watermark.marks.plan import MarkPlan, plan_mark
from watermark.marks.secret import CopyKey, ReleaseKey
from watermark.marks.survey import Survey, can_carry, read_base, survey
from watermark.marks.weights import Embedder
from watermark.model.digest import Progress, Span, canonical_digest, digest_tensors
from watermark.model.directory import Model, open_model
from watermark.model.rewrite import WrittenShard, rewrite_shard

#: What must stay free beyond the copies: the log, the proofs, and room to breathe.
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class ReleaseRequest:
    """What to release and for whom; names and version are labels, the reference decides which release it is."""

    home: Path
    model: Path
    out: Path
    name: str | None = None
    version: str | None = None
    recipients: tuple[str, ...] = ()
    base: str | None = None
    mark: bool = True
    strength: float | None = None
    keep_reference: Path | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class CopyResult:
    """One finished copy."""

    copy: str | None
    recipient: str | None
    index: int
    out: str
    root_digest: str


@dataclass(frozen=True)
class ReleaseResult:
    """What was released, or for a dry run what would be; `expected_log2_p` is blind, owner layer."""

    release: str
    name: str
    version: str
    copies: tuple[CopyResult, ...]
    origin: str
    marked_tensors: int
    total_tensors: int
    carriers: int
    strength: float
    expected_log2_p: float
    max_weight_change: float
    excluded: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    disk_bytes: int
    dry_run: bool = False


@dataclass
class _Work:
    """One run: everything that was opened and decided."""

    request: ReleaseRequest
    home: Home
    model: Model
    key: PrivateKey = field(repr=False)
    release_key: ReleaseKey = field(repr=False)
    plan: MarkPlan | None
    found: Survey | None
    reference_digest: bytes
    base: Model | None
    base_names: Mapping[str, str] | None
    base_place: str | None


def release(
    request: ReleaseRequest, passphrase: Callable[[], bytes], progress: Progress | None = None
) -> ReleaseResult:
    """Release a model to its recipients; the same request again gives the same bytes and the same receipts.

    Raises:
        ConflictError: the reference was released with another strength, the name and version stand for another
            reference, or the target is taken.
        CapacityError, MarkError: the weights cannot carry a mark.
        RegistryError: nothing was acknowledged; run again.
    """
    home = Home.open(request.home)
    _check_request(request)
    secret_phrase = passphrase()
    key = home.private_key(secret_phrase)
    owner_secret = home.owner_secret(secret_phrase)
    with ExitStack() as stack:
        model = stack.enter_context(open_model(request.model, allow_torch=True))
        base_place, base = _open_base(request, home, stack)
        base_names = _pair_with_base(model, base)
        if request.mark:
            found = survey(model, base=base, base_names=base_names, progress=progress)
            reference_digest = found.reference_digest
        else:
            found, reference_digest = None, canonical_digest(digest_tensors(model, progress).values())
        release_key = ReleaseKey.of(owner_secret, reference_digest)
        plan = None
        if found is not None:
            base_digest = canonical_digest(digest_tensors(base).values()).hex() if base is not None else None
            plan = plan_mark(release_key, found, base=base_digest, strength=request.strength)
        work = _Work(
            request, home, model, key, release_key, plan, found, reference_digest, base, base_names, base_place
        )
        with home.registry(home.log_key(secret_phrase)) as registry:
            label = _check_against_records(work, registry)
            if request.dry_run:
                return _result(work, label, (), 0.0)
            _check_disk(work)
            copies, largest = _make_copies(work, registry, label, progress)
    return _result(work, label, copies, largest)


def _check_request(request: ReleaseRequest) -> None:
    if len(set(request.recipients)) != len(request.recipients) or not all(request.recipients):
        raise InputError("a recipient is empty or named twice", hint="name each recipient once with --to")
    if request.recipients and not request.mark:
        raise InputError("--to needs a mark: without one no copy can be told from another")
    if request.strength is not None and not 0 < request.strength <= 0.5:
        raise InputError(f"a strength of {request.strength} is not between 0 and 0.5 row deviations")
    source, out = request.model.resolve(), request.out.resolve()
    if request.dry_run:
        return
    if out == source or source in out.parents or out in source.parents:
        raise InputError(f"{request.out} and {request.model} lie inside one another", hint="choose another --out")
    if len(request.recipients) <= 1:
        refuse_taken(request.out)


def _open_base(request: ReleaseRequest, home: Home, stack: ExitStack) -> tuple[str | None, Model | None]:
    if request.base is None:
        return None, None
    place = Path(request.base)
    if not place.exists():
        with home.registry() as registry:
            place = Path(registry.records.release(request.base).reference_place)
    return str(place.absolute()), stack.enter_context(open_model(place, allow_torch=True))


def _pair_with_base(model: Model, base: Model | None) -> dict[str, str] | None:
    """Names of the model's tensors to those of the base, by shape and values."""
    if base is None:
        return None
    wanted = [tensor for tensor in model.tensors.values() if can_carry(tensor)]
    return {pair.reference.name: pair.suspect.name for pair in pair_tensors(model, wanted, base)}


def _check_against_records(work: _Work, registry: EmbeddedRegistry) -> tuple[str, str]:
    """Refuse a second mark of one reference, and a label that stands for another one; gives name and version."""
    request, release_id = work.request, work.release_key.release_id
    name = request.name or work.model.root.resolve().name
    version = request.version or "1"
    for known in registry.records.list_releases():
        if known.release_id != release_id:
            if (known.name, known.version) == (name, version):
                raise ConflictError(
                    f"{name} {version} is release {known.release_id[:12]}, made from another reference",
                    hint="give another --version",
                )
            continue
        if known.mark_root != (work.plan.root.hex() if work.plan else None):
            how = "another strength or base" if known.mark_root and work.plan else "and without a mark"
            raise ConflictError(
                f"this reference was released before as {known.name} {known.version}, with {how}",
                hint="release it as before: the difference of two marks of one reference would show the chips",
            )
        name, version = request.name or known.name, request.version or known.version
    return name, version


def _check_disk(work: _Work) -> None:
    needed = _disk_bytes(work) + _SPARE_BYTES
    folder = work.request.out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UnavailableError(
            f"{folder} has {free >> 20:,} MiB free, and the release needs {needed >> 20:,} MiB",
            hint="free some space, or choose another --out",
        )


def _disk_bytes(work: _Work) -> int:
    size = sum(entry.size_bytes for entry in work.model.files)
    kept = 1 if work.request.keep_reference is not None else 0
    return size * (max(1, len(work.request.recipients)) + kept)


def _make_copies(
    work: _Work, registry: EmbeddedRegistry, label: tuple[str, str], progress: Progress | None
) -> tuple[tuple[CopyResult, ...], float]:
    request = work.request
    keys: list[CopyKey | None] = [work.release_key.copy_key(name) for name in request.recipients] or [None]
    targets = [request.out]
    if len(keys) > 1:
        targets = [request.out / copy.copy_id for copy in keys if copy is not None]
        for target in targets:
            refuse_taken(target)
    place = _keep_reference(work)
    with draft_beside(request.out) as draft:
        drafts = [draft / str(number) for number in range(len(keys))]
        embedder = Embedder(work.plan, keys) if work.plan is not None else None
        written, largest = _write_drafts(work, embedder, drafts, progress)
        work.model.verify_unchanged()
        _remember_release(work, registry, label, place, embedder.stretched if embedder is not None else b"")
        results = []
        for copy, folder, target, files in zip(keys, drafts, targets, written, strict=True):
            record = _register_copy(work, registry, label, copy, folder, files)
            for side, data in zip(SIDE_FILES, (record.model_sig, record.claims, record.proof), strict=True):
                (folder / side).write_bytes(data)
            put_in_place(folder, target)
            name = copy.recipient if copy is not None else None
            results.append(
                CopyResult(record.copy_id if copy else None, name, record.log_index, str(target), record.root_digest)
            )
    return tuple(results), largest


@dataclass(frozen=True)
class _WrittenCopy:
    """SHA-256 of every file of a draft that is signed, and the digests of its tensors."""

    files: dict[str, bytes]
    tensors: dict[str, bytes]


def _write_drafts(
    work: _Work, embedder: Embedder | None, drafts: Sequence[Path], progress: Progress | None
) -> tuple[list[_WrittenCopy], float]:
    """Mark, write and hash every file of every copy from one reading of the reference."""
    largest = [0.0]

    def change(span: Span, raw: bytes) -> tuple[bytes, ...]:
        if embedder is None:
            return (raw,) * len(drafts)
        chunk = embedder.mark(span, raw, read_base(work.base, work.base_names, span))
        largest.append(chunk.largest_change)
        return chunk.copies

    copies = [_WrittenCopy({}, {}) for _ in drafts]
    for entry in work.model.files:
        path = shipped_path(work.model, entry.path)
        targets = [folder / path for folder in drafts]
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
        if entry.path in work.model.shards:
            shards: Sequence[WrittenShard] = rewrite_shard(work.model, entry.path, targets, change, progress)
            for copy, shard in zip(copies, shards, strict=True):
                copy.files[path] = shard.file
                copy.tensors.update(shard.tensors)
        elif entry.path not in SIDE_FILES:
            digest = _carry(work.model, entry.path, targets)
            if path.partition("/")[0] in DEFAULT_IGNORED:
                continue  # OMS never signs what git keeps beside a model
            for copy in copies:
                copy.files[path] = digest
    return copies, max(largest)


def shipped_path(model: Model, path: str) -> str:
    """The path under which a file ships: PyTorch weights leave as safetensors, all else keeps its name."""
    if model.container == "torch" and path in model.shards:
        return str(Path(path).with_suffix(".safetensors"))
    return path


def _carry(model: Model, path: str, targets: Sequence[Path]) -> bytes:
    """Copy a file that carries no weights, unchanged, and hash it on the way."""
    state = hashlib.sha256()
    try:
        with ExitStack() as stack:
            source = stack.enter_context(model.open_file(path))
            streams = [stack.enter_context(open(target, "xb")) for target in targets]
            while chunk := source.read(1 << 20):
                state.update(chunk)
                for stream in streams:
                    stream.write(chunk)
    except OSError as err:
        raise UnavailableError(
            f"cannot copy {path}: {err.strerror}", hint="free some disk space and run again"
        ) from err
    return state.digest()


def _keep_reference(work: _Work) -> Path:
    """Copy the unmarked reference where the owner asked for it; gives the place to remember."""
    keep = work.request.keep_reference
    if keep is None:
        return work.request.model.absolute()
    refuse_taken(keep)
    with draft_beside(keep) as draft:
        folder = draft / "reference"
        for entry in work.model.files:
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
            _carry(work.model, entry.path, [folder / entry.path])
        put_in_place(folder, keep)
    return keep.absolute() / work.model.files[0].path if work.model.is_single_file else keep.absolute()


def _remember_release(
    work: _Work, registry: EmbeddedRegistry, label: tuple[str, str], place: Path, stretched: bytes
) -> None:
    release_id = work.release_key.release_id
    if any(known.release_id == release_id for known in registry.records.list_releases()):
        return
    document = b""
    if work.plan is not None:
        names = {t.digest: work.plan.surveys[t.digest].names[0] for t in work.plan.geometry.marked}
        document = MarkRecord(work.plan.geometry, names, work.base_place, stretched).document()
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
    work: _Work,
    registry: EmbeddedRegistry,
    label: tuple[str, str],
    copy: CopyKey | None,
    folder: Path,
    written: _WrittenCopy,
) -> CopyRecord:
    """Sign and log a copy, or find what was signed and logged for it before."""
    release_id = work.release_key.release_id
    copy_id = copy.copy_id if copy is not None else release_id
    known = next((one for one in registry.records.copies(release_id) if one.copy_id == copy_id), None)
    if known is not None:
        _check_same_bytes(known, folder, written, work)
        return known
    pending = PendingCopies(work.home.path)
    statements = pending.find(copy_id)
    if statements is not None and registry.find(hashlib.sha256(statements.entry).digest()) is None:
        statements = None  # nothing was acknowledged, and the files beside the weights may have changed since
    if statements is None:
        statements = _make_statements(work, label, copy, folder, written)
        pending.put(copy_id, statements)
    receipt = registry.append([statements.entry])[0]
    trust = work.home.trust()
    signed = verify_signature(statements.model_sig, key=[work.key.public])
    verify_release(signed, statements.claims, receipt.proof, trust)
    record = CopyRecord(
        copy_id,
        release_id,
        copy.recipient if copy is not None else None,
        copy.commitment(work.plan.root).hex() if copy is not None and work.plan is not None else None,
        receipt.index,
        signed.manifest.root.hex(),
        statements.model_sig,
        statements.claims,
        receipt.proof,
        json.dumps(sorted({digest.hex() for digest in written.tensors.values()})),
        int(datetime.now(UTC).timestamp()),
    )
    _check_same_bytes(record, folder, written, work)
    registry.records.put_copy(record)
    pending.drop(copy_id)
    return record


def _make_statements(
    work: _Work, label: tuple[str, str], copy: CopyKey | None, folder: Path, written: _WrittenCopy
) -> PendingCopy:
    digests = {digest.hex() for digest in written.tensors.values()}
    signed = sign_model(
        folder,
        work.key,
        ignore=SIDE_FILES,
        signature_path=folder / SIGNATURE_NAME,
        digests=written.files,
        name=label[0],
    )
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
        canonical_digest=canonical_digest(written.tensors.values()).hex(),
        signed_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    claims = make_claims(facts, signed, work.key)
    return PendingCopy(signed.bundle, claims, make_release_entry(facts, signed, claims, work.key))


def _check_same_bytes(record: CopyRecord, folder: Path, written: _WrittenCopy, work: _Work) -> None:
    """What was written now must be what was signed then: a release is made again bit for bit, or not at all."""
    signed = verify_signature(record.model_sig, key=[work.key.public])
    listed = {resource.name: resource.digest for resource in signed.manifest.resources}
    if listed != written.files:
        changed = sorted(name for name in {*listed, *written.files} if listed.get(name) != written.files.get(name))
        raise DigestError(
            f"{folder.name}: this release was signed before with other bytes in {', '.join(changed[:3])}",
            hint="files beside the weights changed since; release under the files of that time, or mark anew",
        )


def _result(work: _Work, label: tuple[str, str], copies: tuple[CopyResult, ...], largest: float) -> ReleaseResult:
    plan, found = work.plan, work.found
    excluded: tuple[tuple[str, str], ...] = ()
    if found is not None:
        excluded = tuple((name, t.reason) for t in found.tensors if t.reason is not None for name in t.names)
    return ReleaseResult(
        release=work.release_key.release_id,
        name=label[0],
        version=label[1],
        copies=copies,
        origin=work.home.origin,
        marked_tensors=sum(len(plan.surveys[t.digest].names) for t in plan.geometry.marked) if plan else 0,
        total_tensors=len(work.model.tensors),
        carriers=plan.carriers if plan else 0,
        strength=plan.geometry.marked[0].alpha if plan else 0.0,
        expected_log2_p=plan.expected_log2_p if plan else 0.0,
        max_weight_change=largest,
        excluded=excluded,
        warnings=_warnings(work),
        disk_bytes=_disk_bytes(work),
        dry_run=work.request.dry_run,
    )


def _warnings(work: _Work) -> tuple[str, ...]:
    """What the owner should know before shipping."""
    if work.plan is None:
        return ()
    twins = work.model.carried_weights
    if not twins:
        return work.plan.warnings
    shown = f"{', '.join(twins[:3])}{' ...' if twins[3:] else ''}"
    return (f"shipped without a mark, so whoever takes these instead carries none: {shown}", *work.plan.warnings)
