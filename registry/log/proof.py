"""The `.tlog-proof` file: everything that shows an entry to be in a log, offline (C2SP tlog-proof).

It holds the index, the hashes of the Merkle proof, the signed checkpoint word for word and, if wanted, `extra` bytes
that nothing vouches for. The log writes the entry itself there, so that the file stands alone: the entry is then
vouched for by the proof, not by the line it came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from registry.log.checkpoint import read_checkpoint
from registry.log.decimal_text import read_decimal
from registry.log.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from registry.signing.encoding import from_base64, to_base64
from watermark.errors import DocumentError, LimitError

_HEADER = "c2sp.org/tlog-proof@v1"
_MAX_PROOF_BYTES = 2 << 20
_MAX_HASHES = 63


@dataclass(frozen=True)
class TlogProof:
    """A proof as it lies in its file: nothing in it is verified yet."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


@dataclass(frozen=True)
class VerifiedInclusion:
    """An entry's verified place: its index, in which log, and the size and root that the log signed for."""

    index: int
    size: int
    root: bytes
    origin: str


def write_proof(proof: TlogProof) -> bytes:
    """Write a proof into the bytes of a `.tlog-proof` file."""
    lines = [_HEADER]
    if proof.extra is not None:
        lines.append(f"extra {to_base64(proof.extra)}")
    lines.append(f"index {proof.index}")
    lines += [to_base64(part) for part in proof.hashes]
    return "".join(f"{line}\n" for line in [*lines, ""]).encode("ascii") + proof.checkpoint


def read_proof(data: bytes) -> TlogProof:
    """Read a `.tlog-proof` file strictly without verifying it, or raise DocumentError (LimitError over 2 MiB)."""
    if len(data) > _MAX_PROOF_BYTES:
        raise LimitError(f"log proof: {len(data)} bytes, more than {_MAX_PROOF_BYTES}")
    head, empty_line, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise DocumentError("log proof: not ASCII before the checkpoint") from error
    if not empty_line or lines.pop(0) != _HEADER:
        raise DocumentError(f"log proof: does not begin with {_HEADER!r} or has no checkpoint")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = from_base64(lines.pop(0).removeprefix("extra "), what="extra line of the log proof")
    if not lines or not lines[0].startswith("index "):
        raise DocumentError("log proof: no index line")
    index = read_decimal(lines.pop(0).removeprefix("index "), what="index of the log proof")
    if len(lines) > _MAX_HASHES:
        raise LimitError(f"log proof: {len(lines)} hashes, more than {_MAX_HASHES}")
    hashes = tuple(from_base64(line, what="hash of the log proof") for line in lines)
    if any(len(part) != HASH_BYTES for part in hashes):
        raise DocumentError(f"log proof: a hash that is not {HASH_BYTES} bytes")
    return TlogProof(index, hashes, checkpoint, extra)


def verify_proof(proof: TlogProof, entry: bytes, vkeys: Sequence[str]) -> VerifiedInclusion:
    """Return where `entry` stands in the log, after the log's signature and the Merkle proof were verified.

    `vkeys` are the trusted verifier keys of logs. Raises DocumentError, UntrustedKeyError, SignatureError or
    InclusionError.
    """
    checkpoint = read_checkpoint(proof.checkpoint, vkeys)
    verify_inclusion(proof.index, checkpoint.size, leaf_hash(entry), proof.hashes, checkpoint.root)
    return VerifiedInclusion(proof.index, checkpoint.size, checkpoint.root, checkpoint.origin)
