"""Verify a model signature made keyless through Sigstore, offline, against a trusted root that the reader gives.

What has to hold, in the order in which it is asked:

1. the bundle is exactly in its form, keyless, and brings at least one log entry
2. a trusted log holds each entry, the entry is about this very signature, and the log's checkpoint and proof say so
3. something trusted says when: the log's promise (Rekor v1), or an RFC 3161 stamp over the signature
4. at each such time the log and the certificate authority were in use and the certificate was valid
5. the certificate was shown to a trusted certificate log before it was used
6. it is for exactly the name, vouched for by exactly the issuer, that the reader asks for
7. its key signed the envelope; only then is the payload read

No step asks the network or the bundle whom to believe, and there is no way to leave one out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from registry.signing import dsse
from registry.signing.bundle import Bundle, KeylessMaterial, read_bundle
from registry.signing.certificates import load_certificate, public_key_of
from registry.signing.comparison import SignedManifest
from registry.signing.keys import OMS_ALGORITHMS
from registry.signing.manifest import parse_payload
from registry.signing.refusals import CERTIFICATE_USAGE, PAYLOAD_TYPE, WRONG_KIND, Refusal
from registry.signing.timestamps import StampAuthority, VerifiedStamp, verify_stamp
from registry.sigstore.fulcio import Identity, verify_identity, verify_path
from registry.sigstore.rekor_body import Verifier
from registry.sigstore.sct import verify_sct
from registry.sigstore.tlog import LoggedSignature, verify_entry
from registry.sigstore.trusted_root import Authority, TrustedRoot
from watermark.errors import (
    ExpiredKeyError,
    InputError,
    UnprovenTimeError,
    UntrustedKeyError,
    UntrustedLogError,
)

_CURRENT = "pass a current trusted_root.json; if it says the same, do not use the model"
LOG_NOT_IN_USE: Final = Refusal("log-not-in-use", ExpiredKeyError, _CURRENT)
STAMP_AUTHORITY_NOT_IN_USE: Final = Refusal("stamp-authority-not-in-use", ExpiredKeyError, _CURRENT)


@dataclass(frozen=True)
class ProvenTime:
    """A time by which the signature existed, and who says so: `rekor URL` or `rfc3161 URL`."""

    time: datetime
    source: str


@dataclass(frozen=True)
class KeylessSignature:
    """A signature through Sigstore whose every step held; `times` are sorted, the earliest first."""

    signed: SignedManifest
    identity: Identity
    logged: tuple[LoggedSignature, ...]
    times: tuple[ProvenTime, ...]


def verify_keyless(data: bytes, root: TrustedRoot, *, identity: str, issuer: str) -> KeylessSignature:
    """Verify a keyless OMS bundle and read what it signs, without looking at any file of the model.

    Raises DocumentError for a bundle that is not in its form, SignatureError for one of another kind or whose signature
    does not verify, the KeylessError of the step that fails, InclusionError or ExpiredKeyError.
    """
    if not identity or not issuer:
        raise InputError(
            "a keyless signature is verified for one signer and one issuer",
            hint="pass --identity and --issuer; without both, anybody's signature would do",
        )
    bundle = read_bundle(data, what="the model signature")
    if bundle.envelope.payload_type != dsse.IN_TOTO_PAYLOAD_TYPE:
        raise PAYLOAD_TYPE(f"the model signature has the payload type {bundle.envelope.payload_type!r}")
    leaf_der = _keyless(bundle).certificate
    leaf = load_certificate(leaf_der)
    key = public_key_of(leaf)
    if key.algorithm not in OMS_ALGORITHMS:
        raise CERTIFICATE_USAGE(f"the signer's certificate holds a {key.algorithm} key, which OMS v1.0 does not have")
    verifier = Verifier(key, leaf_der, leaf.public_bytes(Encoding.PEM))
    logged = tuple(verify_entry(entry, bundle.envelope, verifier, root.logs) for entry in bundle.log_entries)
    times = _prove_times(bundle, logged, root.stamp_authorities)
    _check_logs_in_use(logged, times)
    path_issuer = verify_path(leaf, root.authorities, [one.time for one in times])
    verify_sct(leaf, path_issuer, root.certificate_logs)
    signer = verify_identity(leaf, identity, issuer)
    verified = dsse.verify(bundle.envelope, [key])
    signed = SignedManifest(parse_payload(verified.payload), bundle.envelope.pae_sha256, key, str(signer))
    return KeylessSignature(signed, signer, logged, times)


def _keyless(bundle: Bundle) -> KeylessMaterial:
    if not isinstance(bundle.material, KeylessMaterial):
        raise WRONG_KIND(
            "the model was not signed keyless through Sigstore", hint="verify it with --public-key or --root"
        )
    if not bundle.log_entries:
        raise UntrustedLogError(
            "the bundle brings no log entry: nothing shows that the signature is public",
            hint="ask the signer for the bundle as it was made",
        )
    return bundle.material


def _prove_times(
    bundle: Bundle, logged: Sequence[LoggedSignature], authorities: Sequence[Authority]
) -> tuple[ProvenTime, ...]:
    times = [ProvenTime(one.time, f"rekor {one.log.url}") for one in logged if one.time is not None]
    signature = bundle.envelope.signatures[0].sig
    for stamp in bundle.stamps:
        verified = _verify_stamp(stamp, signature, authorities)
        if verified is not None:
            times.append(ProvenTime(verified.time, verified.source))
    if not times:
        unknown = f" ({len(bundle.stamps)} stamps by authorities that are not trusted)" if bundle.stamps else ""
        raise UnprovenTimeError(f"nothing that you trust says when the model was signed{unknown}")
    return tuple(sorted(times, key=lambda one: one.time))


def _verify_stamp(stamp: bytes, signature: bytes, authorities: Sequence[Authority]) -> VerifiedStamp | None:
    """The stamp, when one of the trusted authorities made it while it was in use; None when none of them made it."""
    for authority in authorities:
        chain = [certificate.public_bytes(Encoding.DER) for certificate in authority.chain]
        try:
            verified = verify_stamp(stamp, signature, [StampAuthority(authority.url, chain[-1], tuple(chain[:-1]))])
        except UntrustedKeyError:
            continue
        if not authority.valid.covers(verified.time):
            raise STAMP_AUTHORITY_NOT_IN_USE(
                f"stamped at {verified.time:%FT%TZ}, when the authority {authority.url!a} was not in use "
                f"(it is trusted {authority.valid})"
            )
        return verified
    return None


def _check_logs_in_use(logged: Sequence[LoggedSignature], times: Sequence[ProvenTime]) -> None:
    for one in logged:
        for proven in times:
            if not one.log.valid.covers(proven.time):
                raise LOG_NOT_IN_USE(
                    f"signed at {proven.time:%FT%TZ}, when the log {one.log.url!a} was not in use "
                    f"(it is trusted {one.log.valid})"
                )
