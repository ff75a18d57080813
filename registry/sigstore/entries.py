"""Transparency log entries as Sigstore bundles carry them: read strictly, nothing verified.

Protobuf writes 64-bit integers as decimal text and bytes as base64; the names are those of `sigstore_rekor.proto`
(TransparencyLogEntry). What an entry is worth is judged in `tlog`; this module loads no cryptography, since every
bundle is read through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from registry.log.decimal_text import read_decimal
from registry.signing.encoding import from_base64
from registry.signing.strict_json import as_object, member
from watermark.errors import DocumentError, LimitError

MAX_ENTRIES = 16
MAX_PROOF_HASHES = 63

_ENTRY_KEYS = (
    "logIndex",
    "logId",
    "kindVersion",
    "integratedTime",
    "inclusionPromise",
    "inclusionProof",
    "canonicalizedBody",
)
_PROOF_KEYS = ("logIndex", "rootHash", "treeSize", "hashes", "checkpoint")


@dataclass(frozen=True)
class InclusionProof:
    """The place of an entry in a log's tree. `root` and `size` are only believed where the checkpoint says the same."""

    index: int
    size: int
    root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: bytes


@dataclass(frozen=True)
class TlogEntry:
    """An entry of a public log about one signature, as read: nothing in it is verified yet.

    `log_index` counts over all shards of a Rekor v1 log, `proof.index` within one. `integrated_time` (POSIX seconds) is
    worth something only with the log's `promise` over it.
    """

    log_index: int
    log_id: bytes
    kind: str
    version: str
    body: bytes
    proof: InclusionProof
    integrated_time: int | None = None
    promise: bytes | None = None


def read_entries(listed: list[Any], what: str) -> tuple[TlogEntry, ...]:
    """Read the `tlogEntries` of a bundle; DocumentError for anything that is not exactly in its form."""
    if len(listed) > MAX_ENTRIES:
        raise LimitError(f"{what} has {len(listed)} log entries; at most {MAX_ENTRIES} are read")
    return tuple(_read_entry(one, f"log entry {number} of {what}") for number, one in enumerate(listed, start=1))


def _read_entry(value: Any, what: str) -> TlogEntry:
    fields = as_object(value, what, allowed=_ENTRY_KEYS)
    kind = as_object(member(fields, "kindVersion", dict, what), what, allowed=("kind", "version"))
    return TlogEntry(
        log_index=_integer(fields, "logIndex", what),
        log_id=read_key_id(member(fields, "logId", dict, what), what),
        kind=member(kind, "kind", str, what),
        version=member(kind, "version", str, what),
        body=_bytes(fields, "canonicalizedBody", what),
        proof=_read_proof(_required(fields, "inclusionProof", what), what),
        integrated_time=_read_time(fields, what),
        promise=_read_promise(fields, what),
    )


def _read_proof(fields: dict[str, Any], what: str) -> InclusionProof:
    as_object(fields, what, allowed=_PROOF_KEYS)
    hashes = member(fields, "hashes", list, what) if "hashes" in fields else []  # proto3 leaves out what is empty
    if len(hashes) > MAX_PROOF_HASHES:
        raise LimitError(f"the proof of {what} has {len(hashes)} hashes; at most {MAX_PROOF_HASHES} are read")
    if not all(type(one) is str for one in hashes):
        raise DocumentError(f"a hash in the proof of {what} is not a text")
    checkpoint = as_object(_required(fields, "checkpoint", what), what, allowed=("envelope",))
    return InclusionProof(
        index=_integer(fields, "logIndex", what) if "logIndex" in fields else 0,
        size=_integer(fields, "treeSize", what),
        root=_bytes(fields, "rootHash", what),
        hashes=tuple(from_base64(one, what=f"a hash in the proof of {what}") for one in hashes),
        checkpoint=member(checkpoint, "envelope", str, what).encode("utf-8"),
    )


def _read_time(fields: dict[str, Any], what: str) -> int | None:
    """Rekor v2 writes no time, or 0: neither is one."""
    if fields.get("integratedTime") is None:
        return None
    return _integer(fields, "integratedTime", what) or None


def _read_promise(fields: dict[str, Any], what: str) -> bytes | None:
    if fields.get("inclusionPromise") is None:
        return None
    promise = as_object(fields["inclusionPromise"], what, allowed=("signedEntryTimestamp",))
    return _bytes(promise, "signedEntryTimestamp", what)


def read_key_id(fields: dict[str, Any], what: str) -> bytes:
    """The 32 bytes of a `logId`: what a log is called in bundles and in trusted roots."""
    as_object(fields, what, allowed=("keyId",))
    key_id = _bytes(fields, "keyId", what)
    if len(key_id) != 32:
        raise DocumentError(f"the log id of {what} has {len(key_id)} bytes, not 32")
    return key_id


def _required(fields: dict[str, Any], key: str, what: str) -> dict[str, Any]:
    if key not in fields:
        raise DocumentError(
            f"{what} has no {key}: nothing shows that it stands in the log",
            hint="ask the signer for a bundle with an inclusion proof (v0.3)",
        )
    return member(fields, key, dict, what)


def _integer(fields: dict[str, Any], key: str, what: str) -> int:
    return read_decimal(member(fields, key, str, what), what=f"{key} of {what}")


def _bytes(fields: dict[str, Any], key: str, what: str) -> bytes:
    data = from_base64(member(fields, key, str, what), what=f"{key} of {what}")
    if not data:
        raise DocumentError(f"{key} of {what} is empty")
    return data
