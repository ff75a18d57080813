"""The job of `weightmark evidence`: verify an evidence file as a third party, with nothing of the owner's but his keys.

Signatures first, then the order in the log, then the draw, then the openings, then the numbers, recomputed from the
suspect. Nothing that the file says about itself is believed where it can be computed. Prints nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli.evidence_file import EvidenceBody, file_stamps, read_evidence, verify_signature
from cli.evidence_timing import EvidenceTiming, judge_timing
from cli.home import Home
from cli.outcome import CHALLENGED_DRAW, SELF_ASSERTED_DRAW, CaseCost, Outcome, checkpoint_randomness, score
from cli.owner_secrets import note_of_leak
from cli.signing_time import text_of_time
from registry.log.merkle import leaf_hash, verify_inclusion
from registry.log.proof import read_proof
from registry.signing.entry import CASE, OWNER, RELEASE, SECRET, Entry, read_entry
from registry.signing.key_events import read_key_event
from registry.signing.keys import PublicKey
from registry.signing.small_files import read_small_file
from registry.signing.strict_json import MAX_BUNDLE_BYTES
from registry.signing.timestamps import read_authorities
from registry.signing.trust import TrustPolicy, read_trust
from watermark.errors import (
    DigestError,
    DocumentError,
    InclusionError,
    KeyMismatchError,
    UntrustedKeyError,
    VerificationError,
)
from watermark.evidence import THRESHOLD_LOG2_P, THRESHOLD_RECIPIENT_LOG2_P
from watermark.marks.coded import coded_tensors
from watermark.marks.dispute import (
    DISPUTABLE,
    absent_tensors,
    draw_blocks,
    draw_choices,
    present_blocks,
    verify_openings,
)
from watermark.marks.geometry import CODES, Geometry, owner_digest
from watermark.marks.secret import copy_commitment, stretch_root
from watermark.marks.subspace import SUBSPACES
from watermark.model.digest import Progress, canonical_digest, digest_tensors
from watermark.model.directory import Model, open_model
from watermark.model.packed.unpack import unpack
from watermark.model.suspect import find_packed, open_suspect

#: Where linear algebra stands between the weights and the integers, machines agree to this.
_DECOMPOSED_TOLERANCE = 0.01


@dataclass(frozen=True)
class EvidenceRequest:
    """Which file to verify, against which suspect and reference, trusting whom.

    `suspect_date` is an earlier date of the suspect than the file states, where the reader knows one.
    """

    file: Path
    home: Path
    suspect: Path | None = None
    reference: Path | None = None
    trust: Path | None = None
    suspect_date: str | None = None
    tsa_roots: tuple[Path, ...] = ()


@dataclass(frozen=True)
class EvidenceResult:
    """What a third party may conclude; `holds` is False also where the suspect was not compared."""

    holds: bool
    owner: str
    release: str
    copy: str | None
    recipient: str | None
    order: str
    draw: str
    log2_p_adjusted: float | None
    suspect_compared: bool
    case: int
    blocks: int
    statistic: str
    reasons: tuple[str, ...]
    ordered_at: str | None = None
    order_source: str | None = None
    threshold: float = THRESHOLD_LOG2_P


@dataclass(frozen=True)
class _Logged:
    """An entry whose place in a trusted log and whose signature were verified."""

    entry: Entry
    data: bytes
    index: int
    checkpoint: bytes
    size: int


def verify_evidence(request: EvidenceRequest, progress: Progress | None = None) -> EvidenceResult:
    """Verify an evidence file; without a suspect, only what is in the file.

    Raises:
        VerificationError: a signature, proof, draw, opening or number does not hold.
        DocumentError: the file is not an evidence file.
    """
    data = read_small_file(request.file, what="the evidence file", max_bytes=MAX_BUNDLE_BYTES)
    body, signed, signatures = read_evidence(data)
    trust = _trust(request)
    keys = trust.owners.get(body.owner, ())
    if not keys:
        raise UntrustedKeyError(f"the trust file does not know the owner {body.owner!r}")
    verify_signature(signed, signatures, keys)
    timing = judge_timing(body, file_stamps(data), signed, trust, request.suspect_date)
    release = _logged(body.proofs, "release", RELEASE, keys, trust)
    case = _logged(body.proofs, "case", CASE, keys, trust)
    _logged(body.proofs, "owner", OWNER, keys, trust)
    timing = replace(timing, reasons=(*timing.reasons, *_leak_notes(body, keys, trust)))
    root = _check_claim(body, release, case)
    geometry = Geometry.from_document(body.geometry)
    _check_owner(geometry, body)
    cost = _check_draw(body, geometry, root, case, keys, trust)
    _check_copy(body, release, case, root)
    with ExitStack() as stack:
        suspect = None
        if request.suspect is not None:
            suspect = stack.enter_context(open_suspect(request.suspect))
            _check_suspect(suspect, case, progress)
            _check_absent(suspect, geometry, case)
        verify_openings(body.openings, geometry, root, None)
        if request.reference is not None:
            _check_reference(stack.enter_context(open_model(request.reference, allow_torch=True)), body, geometry)
        if suspect is None:
            return _without_suspect(body, release, case, timing)
        statistic = str(case.entry.body["statistic"])
        outcome = score(body.openings, geometry, root, stretch_root(root), suspect, statistic, body.copy)
        suspect.verify_unchanged()
    _check_numbers(outcome, body)
    return _conclude(body, release, case, outcome, timing, cost)


def _trust(request: EvidenceRequest) -> TrustPolicy:
    trust = Home.open(request.home).trust() if request.trust is None else read_trust(request.trust)
    roots = [found for path in request.tsa_roots for found in read_authorities(path)]
    return replace(trust, authorities=(*trust.authorities, *roots))


def _logged(
    proofs: Mapping[str, bytes], name: str, kind: str, keys: tuple[PublicKey, ...], trust: TrustPolicy
) -> _Logged:
    if name not in proofs:
        raise InclusionError(f"the evidence file brings no log proof of the {name} entry")
    return _verify_proof(proofs[name], kind, keys, trust)


def _leak_notes(body: EvidenceBody, keys: tuple[PublicKey, ...], trust: TrustPolicy) -> tuple[str, ...]:
    """What follows from the entry in which the owner says that the secret of this mark leaked, if he brings one."""
    if "leak" not in body.proofs:
        return ()
    event = read_key_event(_logged(body.proofs, "leak", SECRET, keys, trust).entry)
    if event.owner != body.owner or event.from_index is None:
        raise UntrustedKeyError("the entry about a leaked secret names another owner than the evidence file")
    return (note_of_leak(event.from_index),)


def _verify_proof(data: bytes, kind: str, keys: tuple[PublicKey, ...], trust: TrustPolicy) -> _Logged:
    """Checkpoint by a trusted log, inclusion of the entry, and the owner's signature on it."""
    proof = read_proof(data)
    if proof.extra is None:
        raise InclusionError(f"the log proof of the {kind} entry brings no entry")
    checkpoint, _ = trust.log.verify(proof.checkpoint)
    verify_inclusion(proof.index, checkpoint.size, leaf_hash(proof.extra), proof.hashes, checkpoint.root)
    entry = read_entry(proof.extra)
    if entry.kind != kind:
        raise InclusionError(f"a log proof is for a {entry.kind!a} entry, not for a {kind} entry")
    key = next((key for key in keys if key.key_id == entry.key_id), None)
    if key is None:
        raise UntrustedKeyError(f"the {kind} entry is not signed by a key of the owner")
    entry.verify(key)
    trust.refuse_spent(key, proof.index)
    return _Logged(entry, proof.extra, proof.index, proof.checkpoint, checkpoint.size)


def _check_claim(body: EvidenceBody, release: _Logged, case: _Logged) -> bytes:
    """The case must be the owner's, about this release, and later in the log than the mark it uses; gives R."""
    for logged in (release, case):
        if logged.entry.body.get("owner") != body.owner:
            raise UntrustedKeyError("a log entry names another owner than the evidence file")
    for name in ("release", "R"):
        if release.entry.body.get(name) != case.entry.body.get(name):
            raise DigestError(f"the case is about another {name} than the release entry")
    if release.index >= case.index:
        raise InclusionError("the mark was logged after the case: it could have been made for this suspect")
    if case.entry.body.get("statistic") not in DISPUTABLE:
        raise DocumentError(
            f"the case uses the statistic {case.entry.body.get('statistic')!a}, which is not of the family"
        )
    return _digest_field(case.entry.body, "R")


def _check_owner(geometry: Geometry, body: EvidenceBody) -> None:
    """R must be this owner's: the blocks that another owner opened before strangers lead to the other's R."""
    if geometry.owner != owner_digest(body.owner):
        raise KeyMismatchError(
            f"the mark was not made by {body.owner!a}",
            hint="blocks that another owner opened prove nothing for this one",
        )


def _digest_field(fields: Mapping[str, Any], name: str) -> bytes:
    value = fields.get(name)
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != 32:
        raise DocumentError(f"{name!r} of a log entry is not a SHA-256 digest")
    return data


def _check_draw(
    body: EvidenceBody,
    geometry: Geometry,
    root: bytes,
    case: _Logged,
    keys: tuple[PublicKey, ...],
    trust: TrustPolicy,
) -> CaseCost:
    """The opened blocks must be the ones that the case and the later randomness drew, with spent ones left out.

    Gives what the case pays: that the spent ones were not picked to leave the best for this draw, nobody can tell.
    """
    if body.draw == SELF_ASSERTED_DRAW:
        if case.size != case.index + 1:
            raise VerificationError("the draw does not use the first checkpoint that covers the case")
        if body.randomness != checkpoint_randomness(case.checkpoint):
            raise VerificationError("the draw does not follow from the checkpoint that it names")
    elif body.draw != CHALLENGED_DRAW:
        raise DocumentError(f"the draw {body.draw!a} is of no known kind")
    spent: set[int] = set()
    stated = [number for number in case.entry.body.get("prior", []) if isinstance(number, int)]
    found = []
    for prior in body.prior:
        earlier = _verify_proof(prior.proof, CASE, keys, trust)
        if _digest_field(earlier.entry.body, "R") != root:
            raise DigestError("an earlier case is about another mark")
        found.append(earlier.index)
        spent.update(_draw(geometry, root, earlier, prior.randomness, spent))
    if found != stated:
        raise VerificationError("the file does not bring the earlier cases that the logged case names")
    drawn = _draw(geometry, root, case, body.randomness, spent)
    if tuple(opening.block for opening in body.openings) != drawn:
        raise VerificationError(
            "the opened blocks are not the ones that were drawn", hint="a chosen subset proves nothing"
        )
    present = _present(geometry, case)
    return CaseCost(case.index, draw_choices(len(present), len(spent.intersection(present)), len(drawn)))


def _draw(geometry: Geometry, root: bytes, case: _Logged, randomness: bytes, spent: set[int]) -> tuple[int, ...]:
    fields = case.entry.body
    count = fields.get("blocks")
    if not isinstance(count, int) or not 0 < count <= geometry.blocks:
        raise DocumentError("a case entry does not say how many blocks it opens")
    eligible = [block for block in _present(geometry, case) if block not in spent]
    return draw_blocks(root, _digest_field(fields, "suspect"), case.data, randomness, eligible, count)


def _present(geometry: Geometry, case: _Logged) -> list[int]:
    """Blocks of the tensors that the case does not call absent."""
    absent = case.entry.body.get("absent")
    if not isinstance(absent, list):
        raise DocumentError("a case entry does not say which tensors are absent")
    return present_blocks(geometry, absent)


def _check_copy(body: EvidenceBody, release: _Logged, case: _Logged, root: bytes) -> None:
    if (body.copy is None) != (case.entry.body.get("layer") != "recipient"):
        raise DocumentError("the case and the file do not agree on whether a copy is claimed")
    if body.copy is None:
        return
    if case.entry.body.get("copy") != release.entry.body.get("copy"):
        raise DigestError("the case is about another copy than the release entry")
    found = copy_commitment(root, body.copy.key, body.copy.salt, body.copy.recipient)
    if found != _digest_field(release.entry.body, "copy_commitment"):
        raise KeyMismatchError("the opened copy is not the one that was committed before it shipped")


def _check_suspect(suspect: Model, case: _Logged, progress: Progress | None) -> None:
    found = canonical_digest(digest_tensors(suspect, progress).values())
    if found != _digest_field(case.entry.body, "suspect"):
        raise DigestError(
            "this is not the suspect of the case", hint="compare the digest with where the suspect was taken"
        )


def _check_absent(suspect: Model, geometry: Geometry, case: _Logged) -> None:
    """Tensors may be left out of the draw only where the suspect has none of their shape."""
    absent = absent_tensors(geometry, suspect)
    if absent != case.entry.body.get("absent"):
        raise VerificationError(
            "the case left tensors out of the draw that the suspect has, or kept some that it lacks"
        )


def _check_reference(reference: Model, body: EvidenceBody, geometry: Geometry) -> None:
    """The opened values must be those of the reference that was handed over in confidence."""
    tensors = {digest.hex(): reference.tensors[name] for name, digest in digest_tensors(reference).items()}
    if any(tensor.grid == CODES for tensor in geometry.marked):
        unpack(reference, find_packed(reference))
        tensors |= coded_tensors(reference)
    for opening in body.openings:
        marked = geometry.tensor_of_block(opening.block)
        tensor = tensors.get(marked.digest)
        if tensor is None:
            raise DigestError("the reference that was handed over is not the one that was marked")
        start, stop = marked.layout.bounds(opening.block - marked.first_block)
        width = tensor.dtype.bits // 8
        if reference.read(tensor, start * width, stop * width) != opening.reference:
            raise DigestError(f"block {opening.block} of the reference differs from the opened values")


def _check_numbers(outcome: Outcome, body: EvidenceBody) -> None:
    """What the file says must be what the suspect shows: to the last bit, or within 1 % where it was decomposed."""
    found, stated = outcome.owner, body.result
    pairs = [(found.total, stated.get("total")), (found.energy, stated.get("energy"))]
    if outcome.recipient is not None:
        theirs = stated.get("recipient") or {}
        pairs += [(outcome.recipient.total, theirs.get("total")), (outcome.recipient.energy, theirs.get("energy"))]
    tolerance = _DECOMPOSED_TOLERANCE if found.name in SUBSPACES else 0.0
    for value, text in pairs:
        number = int(text) if isinstance(text, str) and text.lstrip("-").isdecimal() else None
        if number is None or not math.isclose(value, number, rel_tol=tolerance, abs_tol=0.0):
            raise VerificationError("the numbers in the file are not the ones that the suspect shows")


def _without_suspect(body: EvidenceBody, release: _Logged, case: _Logged, timing: EvidenceTiming) -> EvidenceResult:
    reasons = (
        "signatures, log order, draw and openings hold",
        "the suspect was not compared: nothing is shown about it yet",
    )
    return _result(body, release, case, None, (*reasons, *timing.reasons), timing, compared=False)


def _conclude(
    body: EvidenceBody, release: _Logged, case: _Logged, outcome: Outcome, timing: EvidenceTiming, cost: CaseCost
) -> EvidenceResult:
    threshold = timing.threshold
    adjusted = threshold.adjust(outcome.owner.log2_p, [count for _, count in cost.counts])
    reasons = [f"recomputed from {len(body.openings)} opened blocks: log2 p {outcome.owner.log2_p:,.1f}"]
    if cost.choices > 1:
        reasons.append(
            f"earlier cases spent blocks: {math.log2(cost.choices):,.1f} bits paid, since they could have been picked"
        )
    holds = adjusted <= threshold.log2_p
    if not holds:
        reasons.append(f"{abs(adjusted):.0f} bits after multiplicity are short of {-threshold.log2_p:.0f}")
    recipient = None
    if outcome.recipient is not None and body.copy is not None:
        named = cost.named(outcome.recipient)
        reasons.append(f"the copy for {body.copy.recipient}: log2 p {named:,.1f} after multiplicity")
        if named <= THRESHOLD_RECIPIENT_LOG2_P:
            recipient = body.copy.recipient
        else:
            holds = False
            reasons.append(f"that is short of {-THRESHOLD_RECIPIENT_LOG2_P:.0f} bits")
    if body.draw == CHALLENGED_DRAW:
        entry = hashlib.sha256(case.data).hexdigest()
        reasons.append(f"the draw used the challenge {body.randomness.hex()}: compare it with the one that you gave")
        reasons.append(f"the case is log entry {case.index}, sha256 {entry}: it must be the one that you gave it for")
    result = _result(body, release, case, adjusted, (*reasons, *timing.reasons), timing, compared=True)
    return replace(result, holds=holds, recipient=recipient)


def _result(
    body: EvidenceBody,
    release: _Logged,
    case: _Logged,
    adjusted: float | None,
    reasons: tuple[str, ...],
    timing: EvidenceTiming,
    *,
    compared: bool,
) -> EvidenceResult:
    copy = release.entry.body.get("copy")
    return EvidenceResult(
        holds=False,
        owner=body.owner,
        release=str(release.entry.body.get("release")),
        copy=str(copy) if body.copy is not None else None,
        recipient=None,
        order=timing.order.kind,
        draw=body.draw,
        log2_p_adjusted=adjusted,
        suspect_compared=compared,
        case=case.index,
        blocks=len(body.openings),
        statistic=str(case.entry.body["statistic"]),
        reasons=reasons,
        ordered_at=text_of_time(timing.order.time) if timing.order.time is not None else None,
        order_source=timing.order.source,
        threshold=timing.threshold.log2_p,
    )
