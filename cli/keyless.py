"""The part of `weightmark verify` about keyless signatures: a trusted root, a name and an issuer in; who signed out.

Reads the trusted root and nothing else; the judging is `registry.sigstore`'s. Prints nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cli.signing_time import SigningTime, text_of_time
from registry.signing.comparison import SignedManifest
from watermark.errors import InputError


@dataclass(frozen=True)
class SigstoreTrust:
    """Whom to believe about a keyless signature, and who must have made it."""

    trusted_root: Path
    identity: str
    issuer: str


@dataclass(frozen=True)
class KeylessFacts:
    """Who signed, by whose word, and where in which public log the signature stands."""

    identity: str
    issuer: str
    log: str
    log_index: int


def sigstore_trust(trusted_root: Path | None, identity: str | None, issuer: str | None) -> SigstoreTrust | None:
    """The three flags as one, or None for none of them; InputError when some are missing."""
    if trusted_root is None and identity is None and issuer is None:
        return None
    if trusted_root is None or not identity or not issuer:
        raise InputError(
            "a keyless signature is verified against a trusted root, for one signer and one issuer",
            hint="pass --sigstore-trusted-root, --identity and --issuer together",
        )
    return SigstoreTrust(trusted_root, identity, issuer)


def verify_signed_keyless(bundle: bytes, trust: SigstoreTrust) -> tuple[SignedManifest, KeylessFacts, SigningTime]:
    """Verify a keyless signature offline; raises what the step that fails raises."""
    from registry.sigstore.trusted_root import read_trusted_root  # X.509 costs start-up time: only when used
    from registry.sigstore.verify import verify_keyless

    root = read_trusted_root(trust.trusted_root)
    found = verify_keyless(bundle, root, identity=trust.identity, issuer=trust.issuer)
    first, logged = found.times[0], found.logged[0]
    facts = KeylessFacts(found.identity.name, found.identity.issuer, logged.log.url, logged.index)
    return found.signed, facts, SigningTime(text_of_time(first.time), first.source)
