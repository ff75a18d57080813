"""Cosignatures: a witness's timed word that a checkpoint continues all it saw before (C2SP tlog-cosignature v1).

Ed25519 cosignatures (key type 0x04) and ML-DSA-44 ones (0x06, see `subtree`) are written and verified. The Ed25519
message holds the time and the whole checkpoint text, not the witness's name: one key serves one witness. Knows no
policy: how many witnesses are enough is said in `policy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from registry.log.checkpoint import parse_checkpoint
from registry.log.note import (
    ED25519_COSIGNATURE,
    ML_DSA_44_COSIGNATURE,
    Ed25519Key,
    Note,
    NoteVerifier,
    RawSigner,
    SignatureLine,
    unambiguous,
)
from registry.log.subtree import sign_subtree, verify_subtree
from watermark.errors import DocumentError, SignatureError

_TIME_BYTES = 8
_PAYLOAD_BYTES = _TIME_BYTES + 64


@dataclass(frozen=True)
class Cosignature:
    """A verified cosignature: which witness key, and the time it states (POSIX seconds)."""

    verifier: NoteVerifier
    time: int


def cosignature_message(text: str, time: int) -> bytes:
    """The bytes that an Ed25519 cosignature signs over the text of a checkpoint, at a POSIX time in seconds."""
    if not 0 <= time < 2**63:
        raise DocumentError(f"cosignature time {time}: not between 0 and 2^63-1")
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def cosign(text: str, name: str, key: Ed25519Key, time: int) -> SignatureLine:
    """Cosign the text of a checkpoint as witness `name` at `time` (POSIX seconds).

    The caller must have verified that the checkpoint continues the last one it cosigned, and stored it.
    """
    verifier = NoteVerifier(name, ED25519_COSIGNATURE, key.public.raw)
    signature = key.sign(cosignature_message(text, time))
    return SignatureLine(name, verifier.key_id, time.to_bytes(_TIME_BYTES, "big") + signature)


def cosign_with_mldsa(text: str, name: str, key: RawSigner, time: int) -> SignatureLine:
    """Cosign the text of a checkpoint with an ML-DSA-44 key; as `cosign`, and its extension lines are not covered."""
    checkpoint = parse_checkpoint(text)
    return sign_subtree(name, key, time, checkpoint.origin, checkpoint.size, checkpoint.root)


def verify_cosignatures(note: Note, verifiers: Sequence[NoteVerifier]) -> tuple[Cosignature, ...]:
    """Return the cosignatures by trusted witness keys, one a key; lines of other keys are passed over.

    A line of a trusted key that does not verify makes the whole note invalid: SignatureError. None at all is an
    empty answer, since only a policy can say how many are wanted.
    """
    kinds = (ED25519_COSIGNATURE, ML_DSA_44_COSIGNATURE)
    known = unambiguous(verifier for verifier in verifiers if verifier.algorithm in kinds)
    found: dict[NoteVerifier, Cosignature] = {}
    for line in note.signatures:
        verifier = known.get((line.name, line.key_id))
        if verifier is None:
            continue
        if verifier.algorithm == ML_DSA_44_COSIGNATURE:
            head = parse_checkpoint(note.text)
            time = verify_subtree(line, verifier, head.origin, head.size, head.root)
        else:
            time = _verify_ed25519(line, verifier, note.text)
        found.setdefault(verifier, Cosignature(verifier, time))
    return tuple(found.values())


def _verify_ed25519(line: SignatureLine, verifier: NoteVerifier, text: str) -> int:
    if len(line.signature) != _PAYLOAD_BYTES:
        raise SignatureError(f"the cosignature of {line.name} has {len(line.signature)} bytes, not its 72")
    time = int.from_bytes(line.signature[:_TIME_BYTES], "big")
    if time >= 2**63:
        raise SignatureError(f"the cosignature of {line.name} states an impossible time")
    verifier.verify(cosignature_message(text, time), line.signature[_TIME_BYTES:])
    return time
