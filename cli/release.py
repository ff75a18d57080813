"""The job of `weightmark release`: mark a model, sign it, register it, and put the copies in place.

Order: digest the reference and compute R and the copy commitments > mark, write and hash in one pass > statements >
sign > append to the log > verify the receipt > rename into place. Whatever dies in between leaves no half-marked
model under the target name, and the same command again goes on with the very statements that were made before. Knows
no flags and prints nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cli.also_sign import open_countersigners
from cli.calibrate import Subject, Telling
from cli.copies import CopyResult, Work, make_copies
from cli.document_sources import DocumentSources, material_of_base, read_sources
from cli.drafts import refuse_taken
from cli.home import Home
from cli.mark_record import Calibration, MarkRecord
from cli.owner_secrets import OwnerSecrets, leak_notes
from cli.reference_places import local_place
from cli.stamping import stamper_of
from cli.standing import cosign_notes
from cli.strengths import choose_strengths, notes_of, released_otherwise
from cli.unfinished import unfinished_folder
from registry.store.embedded import EmbeddedRegistry
from registry.store.records import ReleaseRecord
from registry.store.s3_folder import is_s3
from watermark.errors import ConflictError, InputError, UnavailableError
from watermark.lineage.pairing import pair_tensors
from watermark.marks.coded import survey_with_codes
from watermark.marks.geometry import CODES, Geometry
from watermark.marks.plan import MarkPlan, plan_mark
from watermark.marks.secret import ReleaseKey
from watermark.marks.survey import Survey, can_carry, survey
from watermark.model.digest import Progress, canonical_digest, digest_tensors
from watermark.model.directory import Model, open_model

#: What must stay free beyond the copies: the log, the proofs, and room to breathe.
_SPARE_BYTES = 64 << 20
_UNEVEN = "codes of a packed weight whose steps are uneven (8- and 4-bit floats, NF4): carried unchanged"


@dataclass(frozen=True)
class ReleaseRequest:
    """What to release and for whom; names and version are labels, the reference decides which release it is.

    `documents` has provenance, bill of materials and model documentation written into each copy; `also_sign` are files
    or references of further keys of the owner that countersign. `tsa` are the time stamping authorities to ask: None
    means those of the home's settings, empty means none. `calibrate` is `python:MODULE:FUNCTION`, a measure of quality
    by which the strength of each tensor is chosen; `strength` is then the uniform one whose bits are kept.
    """

    home: Path
    model: Path
    out: Path
    name: str | None = None
    version: str | None = None
    recipients: tuple[str, ...] = ()
    base: str | None = None
    mark: bool = True
    strength: float | None = None
    keep_reference: Path | str | None = None
    dry_run: bool = False
    links_below: Path | None = None
    pin: Callable[[str], bytes] | None = field(default=None, repr=False)
    tsa: tuple[str, ...] | None = None
    documents: bool = True
    training_manifest: Path | None = None
    also_sign: tuple[str, ...] = ()
    calibrate: str | None = None


@dataclass(frozen=True)
class ReleaseResult:
    """What was released, or for a dry run what would be; `expected_log2_p` is blind, owner layer.

    `strength` is that of every tensor; where they were chosen by calibration, the uniform one of equal energy, and
    `least_strength` and `most_strength` are the ends of the map.
    """

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
    least_strength: float = 0.0
    most_strength: float = 0.0
    calibration: Calibration | None = None


def release(
    request: ReleaseRequest,
    passphrase: Callable[[], bytes],
    progress: Progress | None = None,
    telling: Telling | None = None,
) -> ReleaseResult:
    """Release a model to its recipients; the same request again gives the same bytes and the same receipts.

    `telling` is told how many trials of a calibration are done. Strengths that were chosen once are kept: the same
    request again measures nothing.

    Raises:
        ConflictError: the reference was released with another strength, the name and version stand for another
            reference, or the target is taken.
        CapacityError, MarkError: the weights cannot carry a mark.
        RegistryError: nothing was acknowledged; run again.
    """
    home = Home.open(request.home)
    _check_request(request)
    stamper = stamper_of(home, request.tsa)
    secret_phrase = home.passphrase(passphrase)
    key = home.private_key(secret_phrase, request.pin)
    secrets = OwnerSecrets(home, secret_phrase, request.pin)
    with ExitStack() as stack:
        model = stack.enter_context(open_model(request.model, link_root=request.links_below, allow_torch=True))
        base_place, base = _open_base(request, home, stack)
        base_names = _pair_with_base(model, base)
        if request.mark:
            found = _survey(model, base, base_names, progress)
            digests = {name: tensor.digest for tensor in found.tensors for name in tensor.names}
            if request.calibrate is not None and found.coded:
                raise InputError(
                    f"{request.model} holds weights as integer codes, whose strengths are not chosen by calibration",
                    hint="release the float model with --calibrate and quantise the marked copy, or leave it out",
                )
        else:
            found, digests = None, digest_tensors(model, progress)
        reference_digest = found.reference_digest if found is not None else canonical_digest(digests.values())
        known = home.records().list_releases()
        secret = secrets.for_reference(reference_digest, known)
        release_key = ReleaseKey.of(secret, reference_digest)
        before = next((record for record in known if record.release_id == release_key.release_id), None)
        plan = calibration = None
        if found is not None:
            base_digest = canonical_digest(digest_tensors(base).values()).hex() if base is not None else None
            subject = Subject(model, found, base, base_names, base_digest)
            kept = _geometry_of(before)
            shape, calibration = choose_strengths(request, home, before, release_key.release_id, subject, telling)
            plan = plan_mark(
                release_key,
                found,
                base=base_digest,
                strength=request.strength,
                shape=shape,
                owner=_owner_in_mark(kept, home),
                codes=not _was_marked_without_codes(kept),
            )
        work = Work(
            request.model,
            request.out,
            request.recipients,
            request.keep_reference,
            home,
            model,
            key,
            release_key,
            plan,
            found,
            reference_digest,
            digests,
            base,
            base_names,
            base_place,
            stamper,
            _document_sources(request, home, model, base, plan) if request.documents else None,
            open_countersigners(request.also_sign, home, passphrase, request.pin),
            calibration,
        )
        with home.registry(home.log_key(secret_phrase, request.pin)) as registry:
            label = _check_against_records(work, request, registry)
            notes = (*leak_notes(home, secret, registry), *cosign_notes(home, registry.size))
            if request.dry_run:
                return _result(work, label, (), 0.0, notes, dry_run=True)
            _check_disk(work)
            copies, largest = make_copies(work, registry, label, progress)
    notes_of(home, work.release_key.release_id).unlink(missing_ok=True)
    return _result(work, label, copies, largest, notes, dry_run=False)


def _check_request(request: ReleaseRequest) -> None:
    if len(set(request.recipients)) != len(request.recipients) or not all(request.recipients):
        raise InputError("a recipient is empty or named twice", hint="name each recipient once with --to")
    if request.recipients and not request.mark:
        raise InputError("--to needs a mark: without one no copy can be told from another")
    if request.calibrate is not None and not request.mark:
        raise InputError("--calibrate chooses how strong a mark is: without a mark there is nothing to choose")
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
    place: Path | str = Path(request.base)
    if not Path(place).exists():
        with home.registry() as registry:
            place = registry.records.release(request.base).reference_place
    local = local_place(place, stack)
    remembered = place if is_s3(place) else str(local.absolute())
    return str(remembered), stack.enter_context(open_model(local, link_root=request.links_below, allow_torch=True))


def _survey(model: Model, base: Model | None, base_names: dict[str, str] | None, progress: Progress | None) -> Survey:
    if base is None:
        return survey_with_codes(model, progress)
    return survey(model, base=base, base_names=base_names, progress=progress)


def _geometry_of(before: ReleaseRecord | None) -> Geometry | None:
    """The geometry of the mark that an earlier release of this reference carries; None without one."""
    if before is None or before.mark_root is None:
        return None
    return MarkRecord.from_document(before.mark_document).geometry


def _was_marked_without_codes(kept: Geometry | None) -> bool:
    """Whether this reference was released before codes carried a mark: its R has to stay what it was."""
    return kept is not None and all(tensor.grid != CODES for tensor in kept.marked)


def _document_sources(
    request: ReleaseRequest, home: Home, model: Model, base: Model | None, plan: MarkPlan | None
) -> DocumentSources:
    """What the documents of this release are made from; the base was digested for the mark where there is one."""
    material = None
    if request.base is not None and base is not None:
        tensors = plan.geometry.base if plan is not None else None
        with home.registry() as registry:
            material = material_of_base(request.base, base, tensors, registry.records)
    return read_sources(model, material, request.training_manifest)


def _pair_with_base(model: Model, base: Model | None) -> dict[str, str] | None:
    """Names of the model's tensors to those of the base, by shape and values."""
    if base is None:
        return None
    wanted = [tensor for tensor in model.tensors.values() if can_carry(tensor)]
    return {pair.reference.name: pair.suspect.name for pair in pair_tensors(model, wanted, base)}


def _owner_in_mark(kept: Geometry | None, home: Home) -> str | None:
    """Whose name R holds: nobody's where this reference was released before R named its owner, so that R stays."""
    return home.owner if kept is None or kept.owner is not None else None


def _check_against_records(work: Work, request: ReleaseRequest, registry: EmbeddedRegistry) -> tuple[str, str]:
    """Refuse a second mark of one reference, and a label that stands for another one; gives name and version."""
    release_id = work.release_key.release_id
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
            raise released_otherwise(known, how)
        name, version = request.name or known.name, request.version or known.version
    return name, version


def _check_disk(work: Work) -> None:
    needed = _disk_bytes(work) + _SPARE_BYTES
    begun = unfinished_folder(work.out)
    if begun.is_dir() and not begun.is_symlink():  # what a killed run wrote is taken over or thrown away
        needed -= min(_disk_bytes(work), sum(one.lstat().st_blocks * 512 for one in begun.rglob("*")))
    folder = work.out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UnavailableError(
            f"{folder} has {free >> 20:,} MiB free, and the release needs {needed >> 20:,} MiB",
            hint="free some space, or choose another --out",
        )


def _disk_bytes(work: Work) -> int:
    size = sum(entry.size_bytes for entry in work.model.files)
    kept = 1 if isinstance(work.keep_reference, Path) else 0
    return size * (max(1, len(work.recipients)) + kept)


def _result(
    work: Work,
    label: tuple[str, str],
    copies: tuple[CopyResult, ...],
    largest: float,
    notes: tuple[str, ...],
    *,
    dry_run: bool,
) -> ReleaseResult:
    plan = work.plan
    return ReleaseResult(
        release=work.release_key.release_id,
        name=label[0],
        version=label[1],
        copies=copies,
        origin=work.home.origin,
        marked_tensors=sum(len(plan.surveys[t.digest].names) for t in plan.geometry.marked) if plan else 0,
        total_tensors=len(work.model.tensors),
        carriers=plan.carriers if plan else 0,
        strength=plan.strength if plan else 0.0,
        expected_log2_p=plan.expected_log2_p if plan else 0.0,
        max_weight_change=largest,
        excluded=_excluded(work),
        warnings=(*notes, *_warnings(work)),
        disk_bytes=_disk_bytes(work),
        dry_run=dry_run,
        least_strength=min(t.alpha for t in plan.geometry.marked) if plan else 0.0,
        most_strength=max(t.alpha for t in plan.geometry.marked) if plan else 0.0,
        calibration=work.calibration,
    )


def _excluded(work: Work) -> tuple[tuple[str, str], ...]:
    """What carries no mark, and why: in a mark made before such words were found, too."""
    if work.plan is None or work.found is None:
        return ()
    return tuple(
        (name, _UNEVEN if name in work.found.uneven else t.reason)
        for t in work.plan.surveys.values()
        if t.reason is not None
        for name in t.names
    )


def _warnings(work: Work) -> tuple[str, ...]:
    """What the owner should know before shipping."""
    unused = work.documents.warnings if work.documents is not None else ()
    if work.plan is None:
        return unused
    twins = work.model.carried_weights
    if not twins:
        return (*unused, *work.plan.warnings)
    shown = f"{', '.join(twins[:3])}{' ...' if twins[3:] else ''}"
    unmarked = f"shipped without a mark, so whoever takes these instead carries none: {shown}"
    return (unmarked, *unused, *work.plan.warnings)
