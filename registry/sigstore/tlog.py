"""Does a trusted log hold this very signature? Entry, checkpoint, Merkle proof and promise, verified offline.

Rekor v2 logs sign C2SP checkpoints; Rekor v1 logs sign nearly the same (the origin is the key's name with a tree id)
and also promise, by a signed entry timestamp, at which time they took an entry: only that time counts. Size and root
are believed from the checkpoint alone. Knows neither who signed nor whether the certificate was any good.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from registry.log.decimal_text import read_decimal
from registry.log.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from registry.log.note import ED25519_NOTE, Note, parse_note
from registry.signing import dsse
from registry.signing.canonical import canonical
from registry.signing.encoding import from_base64, to_base64
from registry.signing.keys import ED25519, PublicKey
from registry.sigstore.entries import TlogEntry
from registry.sigstore.rekor_body import DSSE, HASHEDREKORD, INTOTO, Verifier, check_body
from registry.sigstore.trusted_root import TrustedLog
from watermark.errors import (
    CheckpointError,
    DocumentError,
    InclusionError,
    LimitError,
    PromiseError,
    SignatureError,
    UntrustedLogError,
)

#: Kinds that Rekor v1 writes. Later ones carry no time: it must come from elsewhere.
_KINDS_WITH_TIME: Final = ((HASHEDREKORD, "0.0.1"), (DSSE, "0.0.1"), (INTOTO, "0.0.2"))
_TREE_ID = re.compile(r" - [0-9]{1,20}")
_LATEST = 253_402_300_799  # the last second that a datetime can hold


@dataclass(frozen=True)
class LoggedSignature:
    """A signature that stands in a trusted log: where, and at what time the log took it, if it promised one."""

    log: TrustedLog
    origin: str
    index: int
    size: int
    time: datetime | None


def verify_entry(
    entry: TlogEntry, envelope: dsse.Envelope, verifier: Verifier, logs: Sequence[TrustedLog]
) -> LoggedSignature:
    """Verify that a log of `logs` holds an entry about exactly this envelope's signature by this verifier.

    In this order: the log is trusted, the entry is about this signature, the checkpoint is the log's, the entry is
    below its root, the promise (if there is one) is the log's. Raises UntrustedLogError, LogEntryError,
    CheckpointError, InclusionError or PromiseError.
    """
    log, key = _find_log(entry, logs)
    check_body(entry.kind, entry.version, entry.body, envelope, verifier)
    origin, size, root = _verify_checkpoint(entry.proof.checkpoint, log, key)
    if (entry.proof.size, entry.proof.root) != (size, root):
        raise InclusionError("the log proof says another size or root than the checkpoint that it brings")
    verify_inclusion(entry.proof.index, size, leaf_hash(entry.body), entry.proof.hashes, root)
    time = _verify_promise(entry, key)
    # Rekor v1 counts on over its shards, and vouches for that number in the promise only.
    index = entry.proof.index if time is None else entry.log_index
    return LoggedSignature(log, origin, index, size, time)


def _find_log(entry: TlogEntry, logs: Sequence[TrustedLog]) -> tuple[TrustedLog, PublicKey]:
    for log in logs:
        if log.log_id == entry.log_id:
            if log.key is None:
                raise UntrustedLogError(
                    f"the log {log.url!a} signs with {log.key_details}, which is not verified here",
                    hint="ECDSA and Ed25519 are; ask the signer for an entry in a newer log",
                )
            return log, log.key
    raise UntrustedLogError(
        f"the signature stands in the log {to_base64(entry.log_id)}, which the trusted root does not name"
    )


def _verify_checkpoint(data: bytes, log: TrustedLog, key: PublicKey) -> tuple[str, int, bytes]:
    """The origin, size and root that the log signed."""
    try:
        note = parse_note(data)
        origin, size, root = _read_checkpoint(note)
    except (DocumentError, LimitError) as error:
        raise CheckpointError(f"the checkpoint in the log proof cannot be read: {error}") from error
    lines = [line for line in note.signatures if line.key_id == log.log_id[:4] and _names(line.name, log, key)]
    if not lines:
        raise CheckpointError(f"the checkpoint of {origin!a} is not signed by the log {log.url!a}")
    for line in lines:
        rest = origin.removeprefix(line.name)
        if not origin.startswith(line.name) or (rest and not _TREE_ID.fullmatch(rest)):
            raise CheckpointError(f"the checkpoint of {origin!a} is signed under another name, {line.name!a}")
        try:
            key.verify(line.signature, note.text.encode("utf-8"))
        except SignatureError as error:
            raise CheckpointError(f"the signature of the log {log.url!a} on its checkpoint does not verify") from error
    return origin, size, root


def _names(name: str, log: TrustedLog, key: PublicKey) -> bool:
    """Whether a log of this id signs under this name.

    The id of a Rekor v2 log is the C2SP key id in full, which holds the name; that of a Rekor v1 log holds the key
    alone.
    """
    if log.log_id == key.der_sha256 or key.algorithm != ED25519:
        return True
    return hashlib.sha256(f"{name}\n".encode() + bytes([ED25519_NOTE]) + key.raw).digest() == log.log_id


def _read_checkpoint(note: Note) -> tuple[str, int, bytes]:
    lines = note.text.split("\n")
    if len(lines) < 4 or not lines[0]:
        raise DocumentError("fewer than the three lines origin, size and root")
    root = from_base64(lines[2], what="its root")
    if len(root) != HASH_BYTES:
        raise DocumentError(f"its root has {len(root)} bytes, not {HASH_BYTES}")
    return lines[0], read_decimal(lines[1], what="its size"), root


def _verify_promise(entry: TlogEntry, key: PublicKey) -> datetime | None:
    """The time at which the log promised to take the entry; None when it promised nothing."""
    if entry.promise is None:
        return None
    if (entry.kind, entry.version) not in _KINDS_WITH_TIME:
        raise PromiseError(f"an entry of the kind {entry.kind} {entry.version} comes with a promise: no log gives one")
    if entry.integrated_time is None:
        raise PromiseError("the log promises an entry without a time")
    if entry.integrated_time > _LATEST:
        raise PromiseError(f"the log promises an entry at the impossible time {entry.integrated_time}")
    promised = {
        "body": to_base64(entry.body),
        "integratedTime": entry.integrated_time,
        "logID": entry.log_id.hex(),
        "logIndex": entry.log_index,
    }
    try:
        key.verify(entry.promise, canonical(promised))
    except (SignatureError, DocumentError) as error:
        raise PromiseError("the log's promise is not about this entry, index and time") from error
    return datetime.fromtimestamp(entry.integrated_time, UTC)
