"""`claims.jsonl`: what an owner says about a released model beyond its bytes, one signed statement per line.

Each line is a whole Sigstore bundle over an in-toto statement whose subject is the model's root digest. The file
stands in the model signature's ignore_paths, so that claims can be added later. Knows no predicate type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from registry.signing import dsse
from registry.signing.bundle import Bundle, KeyMaterial, read_bundle, write_bundle
from registry.signing.keys import PublicKey
from registry.signing.signer import Signer
from registry.signing.statement import Statement, build_statement, parse_statement
from registry.signing.strict_json import MAX_BUNDLE_BYTES
from watermark.errors import DigestError, DocumentError, SignatureError, UntrustedKeyError

MAX_CLAIMS = 10_000


@dataclass(frozen=True)
class Claim:
    """One line as read: nothing is verified yet. `number` counts lines from 1, for messages."""

    number: int
    line: bytes
    bundle: Bundle

    @property
    def pae_sha256(self) -> bytes:
        """SHA-256 of the signed PAE: the claim's identity, as the log records it."""
        return self.bundle.envelope.pae_sha256


@dataclass(frozen=True)
class VerifiedClaim:
    """A statement that `key` signed about the model."""

    statement: Statement
    key: PublicKey
    pae_sha256: bytes


def make_claim(statement: Statement, key: Signer) -> bytes:
    """Sign a statement into one line (without line end); a key in a file makes the same line each time."""
    envelope = dsse.sign(build_statement(statement), dsse.IN_TOTO_PAYLOAD_TYPE, key)
    return write_bundle(Bundle(envelope, KeyMaterial(key.public.key_id)))


def write_claims(lines: Iterable[bytes]) -> bytes:
    """Join claims into the content of a `claims.jsonl`."""
    joined = list(lines)
    if any(b"\n" in line for line in joined):
        raise DocumentError("a claim holds a line break")
    return b"".join(line + b"\n" for line in joined)


def read_claims(data: bytes) -> tuple[Claim, ...]:
    """Read a `claims.jsonl` strictly: one bundle a line, a line end after each; DocumentError otherwise."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise DocumentError(f"the claims have {len(data)} bytes; at most {MAX_BUNDLE_BYTES} are read")
    if not data:
        return ()
    if not data.endswith(b"\n"):
        raise DocumentError("the last claim is cut off: its line has no end")
    lines = data[:-1].split(b"\n")
    if len(lines) > MAX_CLAIMS:
        raise DocumentError(f"there are {len(lines)} claims; at most {MAX_CLAIMS} are read")
    return tuple(
        Claim(number, line, read_bundle(line, what=f"claim {number}")) for number, line in enumerate(lines, start=1)
    )


def verify_claim(claim: Claim, keys: Sequence[PublicKey], *, root: bytes | None = None) -> VerifiedClaim:
    """Verify that one of `keys` signed the claim and, with `root`, that it speaks of that model.

    Raises SignatureError (also for claims by certificate), UntrustedKeyError, DocumentError, or DigestError when it
    speaks of another model.
    """
    what = f"claim {claim.number}"
    material = claim.bundle.material
    if not isinstance(material, KeyMaterial):
        raise SignatureError(f"{what} is not signed by a key")
    named = [key for key in keys if material.names(key)]
    if not named:
        raise UntrustedKeyError(f"{what} was signed by key {material.hint!a}, which is not trusted")
    if claim.bundle.envelope.payload_type != dsse.IN_TOTO_PAYLOAD_TYPE:
        raise DocumentError(f"{what} has the payload type {claim.bundle.envelope.payload_type!r}")
    try:
        verified = dsse.verify(claim.bundle.envelope, named)
    except SignatureError as error:
        raise SignatureError(f"{what}: {error}") from error
    statement = parse_statement(verified.payload)
    if root is not None and statement.root != root:
        raise DigestError(f"{what} speaks of another model (root {statement.root.hex()[:16]}, not {root.hex()[:16]})")
    return VerifiedClaim(statement, verified.key, claim.pae_sha256)
