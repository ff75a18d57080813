"""Further signatures on a release or a plain signature: by Ed25519 and ML-DSA keys, or by further people of an owner.

They stand as countersignatures in `claims.jsonl`, which no other signature covers. Opens keys and reads and writes that
file; what is said and verified is `registry.signing.countersignature`'s. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.signing.claims import read_claims, write_claims
from registry.signing.countersignature import (
    Countersignature,
    countersignatures,
    is_of_unknown_key,
    make_countersignature,
    says_countersignature,
    verify_countersignature,
)
from registry.signing.keys import PublicKey, read_public_key
from registry.signing.manifest import CLAIMS_NAME
from registry.signing.signer import Signer
from registry.signing.small_files import read_small_file
from registry.signing.strict_json import MAX_BUNDLE_BYTES
from registry.signing.trust import TrustPolicy
from watermark.errors import ConflictError, InputError, SignatureError, UntrustedKeyError

if TYPE_CHECKING:
    from cli.home import Home
    from registry.keystores.interface import PinSource
    from registry.signing.comparison import SignedManifest


@dataclass(frozen=True)
class FurtherSignature:
    """A verified countersignature: key id, algorithm as its standard spells it, and whose key it is, if known."""

    key: str
    algorithm: str
    owner: str | None = None


def open_signers(
    references: Sequence[str], passphrase: Callable[[], bytes] | None, pin: PinSource | None
) -> tuple[Signer, ...]:
    """Open further keys by file or reference; InputError when one is named twice."""
    from registry.keystores.interface import open_signer

    signers = tuple(open_signer(one, passphrase=passphrase, pin=pin) for one in references)
    if len({signer.public for signer in signers}) != len(signers):
        raise InputError("--also-sign names one key twice", hint="name each further key once")
    return signers


def open_countersigners(
    references: Sequence[str], home: Home, passphrase: Callable[[], bytes], pin: PinSource | None
) -> tuple[Signer, ...]:
    """Open the keys that countersign a release: each one of the owner's own, or no reader could verify it."""
    if not references:
        return ()
    signers, trust = open_signers(references, passphrase, pin), home.trust()
    spent = {**trust.revoked, **trust.retired}
    for signer in signers:
        if signer.public not in trust.owners.get(home.owner, ()) or signer.public.key_id in spent:
            raise UntrustedKeyError(
                f"the {signer.public.algorithm_name} key {signer.public.key_id[:16]} is no key of {home.owner} in use",
                hint="bring it in with `weightmark keys enrol`, and give others the new trust file",
            )
        if signer.public == home.public_key:
            raise InputError("--also-sign names the key that signs the model", hint="leave it out: it signs anyway")
    return signers


def countersign_lines(name: str, root: bytes, model_signature: bytes, signers: Iterable[Signer]) -> bytes:
    """The lines for `claims.jsonl` in which each of these keys countersigns a model signature."""
    return write_claims(make_countersignature(name, root, model_signature, signer) for signer in signers)


def demand_countersigned(claims: bytes, signers: Sequence[Signer]) -> None:
    """Refuse to take a release for one that these keys signed, when they did not; ConflictError.

    A release is made again with its very signatures; a further one is added to the copy that is out already.
    """
    hints = {
        getattr(claim.bundle.material, "hint", "") for claim in read_claims(claims) if says_countersignature(claim)
    }
    for signer in signers:
        if signer.public.key_id not in hints:
            raise ConflictError(
                f"this copy was released before without a signature by key {signer.public.key_id[:16]}",
                hint="release it as before, then add the signature with `weightmark keys cosign DIR --key REF`",
            )


def claims_with(signature: Path, name: str, root: bytes, model_signature: bytes, signers: Sequence[Signer]) -> bytes:
    """The `claims.jsonl` beside a new plain signature: countersigned by these keys.

    Claims of another kind that lie there stay; countersignatures of an older signature go. Raises DocumentError for a
    file of that name that holds no claims.
    """
    place, others = signature.with_name(CLAIMS_NAME), []
    if place.exists():
        data = read_small_file(place, what="the claims", max_bytes=MAX_BUNDLE_BYTES)
        others = [claim.line for claim in read_claims(data) if not says_countersignature(claim)]
    return write_claims(others) + countersign_lines(name, root, model_signature, signers)


def verify_also_signed(signature: Path, signed: SignedManifest, keys: Sequence[Path]) -> tuple[FurtherSignature, ...]:
    """Verify that every one of these keys countersigned a plain signature, in the `claims.jsonl` beside it.

    Raises SignatureError when one of them did not, or wrongly. Lines of other keys are passed over.
    """
    wanted = [read_public_key(path) for path in keys]
    data = read_small_file(signature.with_name(CLAIMS_NAME), what="the claims", max_bytes=MAX_BUNDLE_BYTES)
    verified = [
        verify_countersignature(claim, wanted, root=signed.manifest.root, model_signature=signed.pae_sha256)
        for claim in read_claims(data)
        if says_countersignature(claim) and not is_of_unknown_key(claim, wanted)
    ]
    found = countersignatures(verified)
    for key in wanted:
        if key not in {one.key for one in found}:
            raise SignatureError(
                f"key {key.key_id[:16]} ({key.algorithm_name}) did not countersign the model signature"
            )
    return tuple(FurtherSignature(one.key.key_id, one.key.algorithm_name) for one in found)


def further_signatures(found: Iterable[Countersignature], trust: TrustPolicy) -> tuple[FurtherSignature, ...]:
    """What was verified, with the owner of each key."""
    return tuple(FurtherSignature(one.key.key_id, one.key.algorithm_name, _owner_of(one.key, trust)) for one in found)


def _owner_of(key: PublicKey, trust: TrustPolicy) -> str | None:
    return next((name for name, keys in trust.owners.items() if key in keys), None)
