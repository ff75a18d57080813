"""The body that asks a witness to cosign: old size, consistency proof, checkpoint (C2SP tlog-witness v1.0.0).

Knows the bytes of the request only; sending it, and a witness's check-and-store in one step, live elsewhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from registry.log.decimal_text import read_decimal
from registry.log.merkle import HASH_BYTES
from registry.signing.encoding import from_base64, to_base64
from watermark.errors import DocumentError

MAX_PROOF_HASHES = 63


@dataclass(frozen=True)
class AddCheckpoint:
    """A request to `add-checkpoint`: the size the witness is thought to know, the proof from there, the new note."""

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        """The request body."""
        lines = [f"old {self.old_size}", *(to_base64(part) for part in self.proof), ""]
        return "".join(f"{line}\n" for line in lines).encode("ascii") + self.checkpoint


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Read a request body strictly, or raise DocumentError; nothing in it is verified yet."""
    head, empty_line, checkpoint = body.partition(b"\n\n")
    try:
        first, *rest = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise DocumentError("witness request: not ASCII before the checkpoint") from error
    if not empty_line or not first.startswith("old "):
        raise DocumentError("witness request: does not begin with an old size, or has no checkpoint")
    if len(rest) > MAX_PROOF_HASHES:
        raise DocumentError(f"witness request: {len(rest)} proof hashes, more than {MAX_PROOF_HASHES}")
    proof = tuple(from_base64(line, what="proof hash of the witness request") for line in rest)
    if any(len(part) != HASH_BYTES for part in proof):
        raise DocumentError(f"witness request: a proof hash that is not {HASH_BYTES} bytes")
    return AddCheckpoint(read_decimal(first.removeprefix("old "), what="old size"), proof, checkpoint)


def witness_log_id(origin: str) -> str:
    """The name under which a witness serves its last checkpoint of a log: hex sha256 of the origin."""
    return hashlib.sha256(origin.encode("utf-8")).hexdigest()
