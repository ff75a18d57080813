"""Signed notes and verifier keys, as C2SP signed-note v1.0.0 defines them.

A note is text that ends in a newline, an empty line, and signature lines. A verifier key ("vkey") is one line of text
that binds a name, an algorithm and a public key. Ed25519 notes (type 0x01), Ed25519 cosignatures (type 0x04, see
`cosignature`) and ML-DSA-44 signatures of tree heads (type 0x06, see `subtree`) are understood; the algorithm byte
travels with every key, so that others can follow. Knows nothing of checkpoints: the text of a note is opaque here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from registry.signing.ed25519_points import check_ed25519_point
from registry.signing.encoding import from_base64, to_base64
from watermark.errors import DocumentError, InputError, LimitError, SignatureError, UntrustedKeyError

ED25519_NOTE = 0x01
ED25519_COSIGNATURE = 0x04
ML_DSA_44_COSIGNATURE = 0x06
MAX_NOTE_BYTES = 1 << 20
MAX_SIGNATURES = 64

_ML_DSA_44_PUBLIC_BYTES = 1312  # FIPS 204 table 2
_MARK = "\u2014 "
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f]")


class RawPublicKey(Protocol):
    """A public key that can give its raw bytes (32 for Ed25519, 1312 for ML-DSA-44)."""

    @property
    def raw(self) -> bytes:
        """The key as RFC 8032 or FIPS 204 encodes it."""


class RawSigner(Protocol):
    """A signing key whose public half has a raw form, wherever it is kept."""

    @property
    def public(self) -> RawPublicKey:
        """The public half."""

    def sign(self, message: bytes) -> bytes:
        """Sign the message itself: 64 bytes of pure Ed25519, 2420 of ML-DSA-44."""


#: A `RawSigner` that is Ed25519.
Ed25519Key = RawSigner


@dataclass(frozen=True)
class SignatureLine:
    """One signature line of a note: who says to have signed, and the bytes that claim it (not verified yet)."""

    name: str
    key_id: bytes
    signature: bytes

    def text(self) -> str:
        """The line as it stands in a note, with its final newline."""
        return f"{_MARK}{self.name} {to_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True)
class Note:
    """A parsed note: the signed text with its final newline, and its signature lines (not verified yet)."""

    text: str
    signatures: tuple[SignatureLine, ...]

    def encode(self) -> bytes:
        """The note as bytes, exactly as it is signed, stored and served."""
        return (self.text + "\n" + "".join(line.text() for line in self.signatures)).encode("utf-8")


@dataclass(frozen=True)
class NoteVerifier:
    """A public key that verifies one kind of signature line under one name."""

    name: str
    algorithm: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """First 4 bytes of sha256(name || newline || algorithm || public key): a hint, not a proof."""
        return _key_id(self.name, self.algorithm, self.public)

    @property
    def vkey(self) -> str:
        """The verifier key as one line of text."""
        return f"{self.name}+{self.key_id.hex()}+{to_base64(bytes([self.algorithm]) + self.public)}"

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check signature bytes over the message, or raise SignatureError naming the key."""
        key = MLDSA44PublicKey if self.algorithm == ML_DSA_44_COSIGNATURE else Ed25519PublicKey
        try:
            key.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature as error:
            raise SignatureError(f"the signature of {self.name} does not verify") from error


@dataclass(frozen=True)
class NoteSigner:
    """Signs notes under a name with an Ed25519 key."""

    name: str
    key: Ed25519Key

    def __post_init__(self) -> None:
        """Refuse a name that could not be read back."""
        check_name(self.name)

    @property
    def verifier(self) -> NoteVerifier:
        """The public half: who verifies what this signs."""
        return NoteVerifier(self.name, ED25519_NOTE, self.key.public.raw)

    def sign(self, text: str) -> SignatureLine:
        """Sign the text of a note (with its final newline)."""
        return SignatureLine(self.name, self.verifier.key_id, self.key.sign(text.encode("utf-8")))


def check_name(name: str) -> None:
    """Refuse a key name that C2SP signed-note does not allow: empty, with a Unicode space, a `+`, or a control."""
    if not name or "+" in name or any(letter.isspace() or ord(letter) < 0x20 for letter in name):
        raise DocumentError(f"key name {name[:80]!r}: must not be empty nor hold a space, a control or a plus sign")


def read_vkey(vkey: str) -> NoteVerifier:
    """Read a verifier key line `NAME+ID+BASE64`, or raise DocumentError (C2SP signed-note, "verifier keys").

    A weak Ed25519 key (small order, non-canonical, off the curve) is an InputError: one signature would fit several
    messages.
    """
    name, plus, rest = vkey.partition("+")
    key_id, second_plus, material = rest.partition("+")  # base64 may hold further plus signs
    if not plus or not second_plus:
        raise DocumentError(f"verifier key {vkey[:80]!r}: not of the form NAME+ID+BASE64")
    check_name(name)
    raw = from_base64(material, what=f"verifier key of {name}")
    if not raw or raw[0] not in (ED25519_NOTE, ED25519_COSIGNATURE, ML_DSA_44_COSIGNATURE):
        kind = f"0x{raw[0]:02x}" if raw else "missing"
        raise DocumentError(
            f"verifier key of {name}: algorithm {kind} is not supported (Ed25519, 0x01 and 0x04, is, and "
            "ML-DSA-44, 0x06)"
        )
    if raw[0] != ML_DSA_44_COSIGNATURE:
        check_ed25519_point(raw[1:])
    elif len(raw) != 1 + _ML_DSA_44_PUBLIC_BYTES:
        raise InputError(
            f"verifier key of {name}: an ML-DSA-44 key has {_ML_DSA_44_PUBLIC_BYTES} bytes, not {len(raw) - 1}"
        )
    verifier = NoteVerifier(name, raw[0], raw[1:])
    if verifier.key_id.hex() != key_id:
        raise DocumentError(f"verifier key of {name}: the key id {key_id[:16]!r} does not belong to this key")
    return verifier


def parse_note(data: bytes) -> Note:
    """Read a note strictly without verifying it, or raise DocumentError (C2SP signed-note, "format")."""
    if len(data) > MAX_NOTE_BYTES:
        raise LimitError(f"signed note: {len(data)} bytes, more than {MAX_NOTE_BYTES}")
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"signed note: not UTF-8 at byte {error.start}") from error
    if _CONTROL.search(data):
        raise DocumentError("signed note: holds a control character")
    body, empty_line, signature_part = content.rpartition("\n\n")
    if not empty_line or not body or not signature_part.endswith("\n"):
        raise DocumentError("signed note: no empty line before the signatures, or no newline at the end")
    lines = signature_part[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise LimitError(f"signed note: {len(lines)} signatures, more than {MAX_SIGNATURES}")
    return Note(body + "\n", tuple(parse_signature_line(line) for line in lines))


def parse_signature_line(line: str) -> SignatureLine:
    """Read one signature line, without its newline."""
    if not line.startswith(_MARK):
        raise DocumentError(f"signed note: {line[:40]!r} is not a signature line")
    name, space, material = line[len(_MARK) :].partition(" ")
    check_name(name)
    raw = from_base64(material, what=f"signature of {name}") if space else b""
    if len(raw) < 5:
        raise DocumentError(f"signature of {name}: shorter than its key id and one byte")
    return SignatureLine(name, raw[:4], raw[4:])


def unambiguous(verifiers: Iterable[NoteVerifier]) -> dict[tuple[str, bytes], NoteVerifier]:
    """Index verifiers by name and key id; two different keys under one pair raise DocumentError."""
    known: dict[tuple[str, bytes], NoteVerifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.key_id), verifier) != verifier:
            raise DocumentError(f"two keys of {verifier.name} share the key id {verifier.key_id.hex()}")
    return known


def verify_note(note: Note, verifiers: Sequence[NoteVerifier]) -> tuple[NoteVerifier, ...]:
    """Return the distinct note verifiers (type 0x01) that signed; at least one, or UntrustedKeyError.

    Lines of unknown keys and of other types are passed over. A line of a known key that does not verify makes the
    whole note invalid: SignatureError (C2SP signed-note, "verification").
    """
    known = unambiguous(verifier for verifier in verifiers if verifier.algorithm == ED25519_NOTE)
    signed: list[NoteVerifier] = []
    for line in note.signatures:
        verifier = known.get((line.name, line.key_id))
        if verifier is None:
            continue
        verifier.verify(note.text.encode("utf-8"), line.signature)
        if verifier not in signed:
            signed.append(verifier)
    if not signed:
        names = ", ".join(sorted({line.name for line in note.signatures}))
        raise UntrustedKeyError(f"signed note: no signature by a trusted key (it names {names})")
    return tuple(signed)


def _key_id(name: str, algorithm: int, public: bytes) -> bytes:
    return hashlib.sha256(name.encode("utf-8") + b"\n" + bytes([algorithm]) + public).digest()[:4]
