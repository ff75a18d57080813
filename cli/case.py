"""From a private finding to a public case: log it, let later randomness choose the blocks, and open just those.

Before anything is opened, the log holds which suspect, which statistic and how many blocks; every logged case counts
as a try. The blocks of a case are marked as spent before the file that opens them appears.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cli.aligned import ALIGNED
from cli.drafts import sync
from cli.evidence_file import CopyOpening, EvidenceBody, PriorCase, write_evidence
from cli.examine import Finding, open_reference
from cli.home import Home
from cli.mark_record import MarkRecord
from cli.order import DEFAULT_THRESHOLD, Threshold, best_known_copy, read_date, threshold_for
from cli.outcome import CHALLENGED_DRAW, SELF_ASSERTED_DRAW, CaseCost, checkpoint_randomness, score
from cli.owner_secrets import leak_of
from cli.stamping import NO_STAMPER, Stamper
from registry.log.proof import read_proof
from registry.signing.entry import CASE, make_entry, read_entry
from registry.signing.order import Order, order_of
from registry.signing.signer import Signer
from registry.signing.trust import TrustPolicy
from registry.store.embedded import EmbeddedRegistry
from registry.store.records import CaseRecord
from watermark.errors import CapacityError, ConflictError, InputError, KeyMismatchError, UnavailableError
from watermark.evidence import (
    THRESHOLD_LOG2_P,
    THRESHOLD_RECIPIENT_LOG2_P,
    THRESHOLD_STAMPED_LOG2_P,
    KeyedTest,
)
from watermark.marks import commitment
from watermark.marks.dispute import (
    DISPUTABLE,
    OWNER_BLOCKS,
    RECIPIENT_BLOCKS,
    absent_tensors,
    blocks_needed,
    draw_blocks,
    draw_choices,
    present_blocks,
)
from watermark.marks.geometry import Geometry, owner_digest
from watermark.marks.plan import leaf_tree
from watermark.marks.secret import ReleaseKey
from watermark.model.digest import Span, block_digests, read_span, spans_of
from watermark.model.directory import Model
from watermark.model.parallel import in_order
from watermark.model.safetensors import TensorInfo

OWNER_LAYER, RECIPIENT_LAYER = "owner", "recipient"
#: `--case new` logs a case and stops, so that the other side can give its challenge.
NEW_CASE = "new"
_MIN_CHALLENGE_BYTES = 16
_HINT_MORE_BITS = (
    "run again: a new case draws other blocks and pays for one more try. A draw by the other side (--case new, then "
    "--challenge) needs 64 bits only where a time stamp on the release is older than the suspect"
)
#: More blocks than this for one recipient would spend too much of the mark: the owner's layer is shown alone.
_MAX_RECIPIENT_BLOCKS = 64


@dataclass(frozen=True)
class CaseOrder:
    """What a case is to be: new or logged before, drawn by whom, and written where; `copy` and `recipient` as found."""

    case: str | None
    challenge: str | None
    evidence: Path | None
    reference: Path | str | None
    suspect_date: str | None
    suspect_source: str | None
    copy: str | None
    recipient: str | None
    stamper: Stamper = NO_STAMPER


def open_case(
    finding: Finding,
    order: CaseOrder,
    registry: EmbeddedRegistry,
    key: Signer,
    home: Home,
    suspect: Model,
    digest: bytes,
) -> CaseRecord:
    """Log a new case for this finding, or take up the logged one that the caller names.

    Raises:
        InputError: the named case is of another suspect or release, or was opened already.
    """
    if order.case not in (None, NEW_CASE):
        return _known_case(finding, registry, digest, str(order.case))
    mark = MarkRecord.from_document(finding.record.mark_document)
    usable = [test for test in finding.tests if test.name in DISPUTABLE]
    best = min(usable, key=lambda test: test.log2_p, default=None)
    shown = best.log2_p if best is not None else 0.0
    if finding.best is not None and finding.best.name.endswith(ALIGNED) and shown > THRESHOLD_STAMPED_LOG2_P:
        raise CapacityError(
            "the mark shows only after the suspect is aligned to the reference, which opened blocks cannot show",
            hint="show the verifier the whole reference under confidence: he aligns the suspect himself and checks",
        )
    if best is None or best.log2_p == 0:
        raise CapacityError("what this verdict rests on cannot be shown from few opened blocks")
    if mark.geometry.owner != owner_digest(home.owner):
        raise CapacityError(
            "this release was marked before R named its owner, and evidence about it is refused",
            hint="your own `check` stays as good as it was; for what strangers shall verify, release a new reference",
        )
    blocks, layer = _how_many(finding, best, mark.geometry)
    body = {
        "owner": home.owner,
        "release": finding.record.release_id,
        "R": finding.record.mark_root,
        "copy": order.copy if layer == RECIPIENT_LAYER else None,
        "layer": layer,
        "suspect": digest.hex(),
        "statistic": best.name,
        "blocks": blocks,
        "absent": absent_tensors(mark.geometry, suspect),
        "prior": [case.log_index for case in registry.records.cases(finding.record.release_id) if case.opened],
        "logged_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "nonce": os.urandom(16).hex(),
    }
    receipt = registry.append([make_entry(CASE, body, key)])[0]
    record = CaseRecord(
        receipt.index,
        finding.record.release_id,
        order.copy if layer == RECIPIENT_LAYER else None,
        digest.hex(),
        layer,
        blocks,
        None,
        None,
        int(datetime.now(UTC).timestamp()),
    )
    registry.records.put_case(record)
    return record


def _how_many(finding: Finding, best: KeyedTest, geometry: Geometry) -> tuple[int, str]:
    """Blocks to ask for, and whether the recipient can be shown too."""
    wanted = -THRESHOLD_LOG2_P + 32
    owner = blocks_needed(-best.log2_p, geometry.blocks, wanted_bits=wanted, at_least=OWNER_BLOCKS)
    if finding.recipient is None or finding.recipient_test is None:
        return owner, OWNER_LAYER
    share = finding.recipient_test.trials / max(1, best.trials)
    bits = -finding.recipient_test.log2_p / max(share, 1e-9)
    wanted = -THRESHOLD_RECIPIENT_LOG2_P + 32
    recipient = blocks_needed(bits, geometry.blocks, wanted_bits=wanted, at_least=RECIPIENT_BLOCKS)
    if recipient > max(owner, _MAX_RECIPIENT_BLOCKS):
        return owner, OWNER_LAYER
    return max(owner, recipient), RECIPIENT_LAYER


def _known_case(finding: Finding, registry: EmbeddedRegistry, digest: bytes, wanted: str) -> CaseRecord:
    if not wanted.isdecimal():
        raise InputError(f"--case {wanted!r} is neither `new` nor the log index of a case")
    cases = registry.records.cases(finding.record.release_id)
    case = next((one for one in cases if one.log_index == int(wanted)), None)
    if case is None:
        raise InputError(f"log entry {wanted} is not a case about this release", hint="see `weightmark show RELEASE`")
    if case.suspect_digest != digest.hex():
        raise InputError(f"case {wanted} is about another suspect")
    if case.opened is not None:
        raise ConflictError(f"case {wanted} was opened before", hint="log a new one with --case new")
    return case


@dataclass(frozen=True)
class _Reference:
    """The opened reference: its model, its tensors by digest, and the digests of its marked blocks in order."""

    model: Model
    tensors: Mapping[str, TensorInfo]
    blocks: list[bytes]


def make_evidence(
    case: CaseRecord,
    finding: Finding,
    order: CaseOrder,
    registry: EmbeddedRegistry,
    home: Home,
    key: Signer,
    suspect: Model,
    secret: bytes,
) -> None:
    """Draw the blocks of a case, open them, and write the signed file; they are spent from then on.

    Raises:
        CapacityError: the drawn blocks do not show enough; nothing is opened, and the case stays a try.
        KeyMismatchError: reference and secret do not lead to the R that was logged.
    """
    assert order.evidence is not None
    mark = MarkRecord.from_document(finding.record.mark_document)
    release_key = ReleaseKey.of(secret, bytes.fromhex(finding.record.reference_digest))
    root = bytes.fromhex(str(finding.record.mark_root))
    with ExitStack() as stack:
        reference = _open_reference(finding, mark.geometry, order.reference, stack)
        case_proof = registry.prove(case.log_index, _first_size(registry, case.log_index))
        entry = read_proof(case_proof).extra or b""
        draw, randomness = _randomness(order, case_proof)
        prior, spent = _prior(registry, finding.record.release_id, case)
        present = present_blocks(mark.geometry, absent_tensors(mark.geometry, suspect))
        unspent = [block for block in present if block not in spent]
        digest = bytes.fromhex(case.suspect_digest)
        chosen = draw_blocks(root, digest, entry, randomness, unspent, case.blocks_wanted)
        cost = CaseCost(case.log_index, draw_choices(len(present), len(present) - len(unspent), len(chosen)))
        openings = _open_blocks(chosen, mark.geometry, root, release_key, reference)
    copy = release_key.copy_key(str(order.recipient)) if case.layer == RECIPIENT_LAYER else None
    statistic = str(read_entry(entry).body["statistic"])
    outcome = score(openings, mark.geometry, root, mark.stretched, suspect, statistic, copy)
    trust = home.trust()
    leak = leak_of(home, secret, registry)
    release_proof, stamps = _release_proof(registry, case, trust)
    threshold = _threshold(order, draw, order_of(release_proof, stamps, trust))
    adjusted = threshold.adjust(outcome.owner.log2_p, [count for _, count in cost.counts])
    if adjusted > threshold.log2_p:
        raise CapacityError(
            f"the {len(chosen)} drawn blocks show {abs(adjusted):.0f} bits after multiplicity, and "
            f"{-threshold.log2_p:.0f} are needed: nothing was opened",
            hint=_HINT_MORE_BITS,
        )
    body = EvidenceBody(
        owner=home.owner,
        draw=draw,
        randomness=randomness,
        proofs={
            "owner": registry.prove(0),
            "release": release_proof,
            "case": case_proof,
            **({} if leak is None else {"leak": registry.prove(leak.index)}),
        },
        prior=prior,
        geometry=mark.geometry.document(),
        openings=openings,
        copy=None if copy is None else CopyOpening(copy.key, copy.salt, copy.recipient),
        suspect=_describe_suspect(suspect, case, order),
        result=outcome.to_json(cost, threshold.log2_p),
        tool=f"weightmark {version('weightmark')}",
        stamps=stamps,
    )
    data = write_evidence(body, key, order.stamper.stamp)
    opened = json.dumps({"blocks": list(chosen), "randomness": randomness.hex()})
    registry.records.put_case(replace(case, opened=opened, challenge=randomness.hex()))
    _write_once(order.evidence, data)


def _open_reference(finding: Finding, geometry: Geometry, given: Path | str | None, stack: ExitStack) -> _Reference:
    found = open_reference(finding.record, given, stack)
    if found.model is None:
        raise InputError(
            f"evidence needs the unmarked reference: {found.problem}", hint="say where it is with --reference"
        )
    model = found.model
    spans = [span for tensor in geometry.marked for span in spans_of(found.tensors[tensor.digest])]
    digests = in_order(lambda span: block_digests(read_span(model, span), span), spans)
    return _Reference(model, found.tensors, [digest for part in digests for digest in part])


def _open_blocks(
    chosen: tuple[int, ...], geometry: Geometry, root: bytes, release_key: ReleaseKey, reference: _Reference
) -> tuple[commitment.BlockOpening, ...]:
    tree = leaf_tree(release_key, reference.blocks)
    if commitment.bind_root(tree.root, geometry.digest()) != root:
        raise KeyMismatchError("the owner secret and the reference do not lead to the root that was logged")
    secrets = release_key.block_secrets()
    openings = []
    for block in chosen:
        marked = geometry.tensor_of_block(block)
        place = block - marked.first_block
        values = read_span(reference.model, Span(reference.tensors[marked.digest], place, place + 1))
        openings.append(
            commitment.BlockOpening(block, secrets.secret(block), secrets.salt(block), values, tree.path(block))
        )
    return tuple(openings)


def _first_size(registry: EmbeddedRegistry, index: int) -> int | None:
    """The first signed size that covers an entry; None for the published one where no earlier was kept."""
    try:
        registry.prove(index, index + 1)
    except InputError:
        return None
    return index + 1


def _randomness(order: CaseOrder, case_proof: bytes) -> tuple[str, bytes]:
    if order.challenge is None:
        return SELF_ASSERTED_DRAW, checkpoint_randomness(read_proof(case_proof).checkpoint)
    try:
        challenge = bytes.fromhex(order.challenge)
    except ValueError as err:
        raise InputError("--challenge is not hex") from err
    if len(challenge) < _MIN_CHALLENGE_BYTES:
        raise InputError(f"--challenge has {len(challenge)} bytes; at least {_MIN_CHALLENGE_BYTES} are needed")
    return CHALLENGED_DRAW, challenge


def _prior(registry: EmbeddedRegistry, release_id: str, case: CaseRecord) -> tuple[tuple[PriorCase, ...], list[int]]:
    """Cases opened before this one, as their proofs, and the blocks that they spent."""
    named = set(read_entry(registry.entry(case.log_index)).body["prior"])
    prior, spent = [], []
    for one in registry.records.cases(release_id):
        if one.log_index in named and one.opened is not None:
            opened = json.loads(one.opened)
            prior.append(PriorCase(registry.prove(one.log_index), bytes.fromhex(opened["randomness"])))
            spent += opened["blocks"]
    return tuple(prior), spent


def _release_proof(registry: EmbeddedRegistry, case: CaseRecord, trust: TrustPolicy) -> tuple[bytes, tuple[bytes, ...]]:
    """The proof of the release entry that holds R (and the copy's commitment), with the stamps on its checkpoint.

    Without a stamp the proof is made anew: a later checkpoint may carry more witnesses.
    """
    copies = registry.records.copies(case.release_id)
    own = [one for one in copies if one.copy_id == case.copy_id]
    copy, stamps = best_known_copy(own or copies, trust)
    return copy.proof if stamps else registry.prove(copy.log_index), stamps


def _threshold(order: CaseOrder, draw: str, known: Order) -> Threshold:
    """What the opened blocks must show: the lower threshold needs an older stamp and a draw by the other side."""
    if draw != CHALLENGED_DRAW or order.suspect_date is None:
        return DEFAULT_THRESHOLD
    return threshold_for(known, read_date(order.suspect_date))


def _describe_suspect(suspect: Model, case: CaseRecord, order: CaseOrder) -> dict[str, Any]:
    return {
        "digest": case.suspect_digest,
        "files": [{"path": entry.path, "size": entry.size_bytes} for entry in suspect.files],
        "tensors": [
            {"name": name, "dtype": tensor.dtype.name, "shape": list(tensor.shape)}
            for name, tensor in suspect.tensors.items()
        ],
        "date": order.suspect_date,
        "source": order.suspect_source,
    }


def _write_once(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        sync(draft)
        os.link(draft, path)
        sync(path.parent)
    except FileExistsError as err:
        raise ConflictError(f"{path} is there already", hint="name another file with --evidence") from err
    except OSError as err:
        raise UnavailableError(f"cannot write {path}: {err.strerror}") from err
    finally:
        draft.unlink(missing_ok=True)
