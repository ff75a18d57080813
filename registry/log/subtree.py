"""ML-DSA-44 signatures of a tree head: the `subtree/v1` message of C2SP tlog-cosignature v1.1 (key type 0x06).

The message names signer, time, origin, size and root, so one key may serve many logs, and no text is signed: extension
lines of a checkpoint are not covered. A log signs its own checkpoints in this form beside Ed25519, and witnesses may
cosign in it. Pure ML-DSA with empty context (FIPS 204 section 5.2). Knows no checkpoint and no policy.
"""

from __future__ import annotations

from registry.log.note import ML_DSA_44_COSIGNATURE, NoteVerifier, RawSigner, SignatureLine, check_name
from watermark.errors import DocumentError, SignatureError

SIGNATURE_BYTES = 2420
_TIME_BYTES = 8
_LABEL = b"subtree/v1\n\x00"
_MAX_TIME = 2**63


def subtree_message(name: str, time: int, origin: str, size: int, root: bytes) -> bytes:
    """The bytes that an ML-DSA-44 key signs under `name` for a tree of `size` leaves, at a POSIX time in seconds."""
    if not 0 <= time < _MAX_TIME:
        raise DocumentError(f"cosignature time {time}: not between 0 and 2^63-1")
    if not 0 <= size < 2**64 or len(root) != 32:
        raise DocumentError(f"tree head of {origin}: no 64-bit size with a 32-byte root")
    start = 0
    return b"".join(
        (
            _LABEL,
            _framed(name),
            time.to_bytes(_TIME_BYTES, "big"),
            _framed(origin),
            start.to_bytes(8, "big"),
            size.to_bytes(8, "big"),
            root,
        )
    )


def sign_subtree(name: str, key: RawSigner, time: int, origin: str, size: int, root: bytes) -> SignatureLine:
    """Sign a tree head under `name` at `time`. Randomised: the line is kept, not made again."""
    check_name(name)
    verifier = NoteVerifier(name, ML_DSA_44_COSIGNATURE, key.public.raw)
    signature = key.sign(subtree_message(name, time, origin, size, root))
    return SignatureLine(name, verifier.key_id, time.to_bytes(_TIME_BYTES, "big") + signature)


def verify_subtree(line: SignatureLine, verifier: NoteVerifier, origin: str, size: int, root: bytes) -> int:
    """Verify a signature line of an ML-DSA-44 key over a tree head; gives the time it states, or SignatureError."""
    wanted = _TIME_BYTES + SIGNATURE_BYTES
    if len(line.signature) != wanted:
        raise SignatureError(
            f"the ML-DSA-44 signature of {line.name} has {len(line.signature)} bytes, not its {wanted}"
        )
    time = int.from_bytes(line.signature[:_TIME_BYTES], "big")
    if time >= _MAX_TIME:
        raise SignatureError(f"the cosignature of {line.name} states an impossible time")
    message = subtree_message(verifier.name, time, origin, size, root)
    verifier.verify(message, line.signature[_TIME_BYTES:])
    return time


def _framed(text: str) -> bytes:
    raw = text.encode("utf-8")
    if not 1 <= len(raw) <= 255:
        raise DocumentError(f"{text[:40]!r}: {len(raw)} bytes, and a name in a cosignature has 1 to 255")
    return bytes([len(raw)]) + raw
