"""Decide whether a certificate chain leads from a signer to a root that the reader named (RFC 5280).

Path building is `cryptography`'s; what OMS v1.0 asks beyond it is checked here: every certificate valid at the given
time, a signer's certificate made for signing, issuers that are CAs. Roots come from the reader, never from the
bundle, and no system store is asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from registry.signing import refusals
from registry.signing.keys import PublicKey, enrol
from watermark.errors import InputError, SignatureError


@dataclass(frozen=True)
class TrustedSigner:
    """The key of a signer whose chain holds, with the name in its certificate."""

    key: PublicKey
    name: str


def verify_chain(chain: Sequence[bytes], roots: Sequence[x509.Certificate], at: datetime) -> TrustedSigner:
    """Verify that the first of `chain` (DER, signer first) leads to one of `roots`, all valid at `at` (with time zone).

    Raises DocumentError for bytes that are no certificate, ExpiredKeyError for one outside its time,
    UntrustedKeyError when no path ends at a root, SignatureError for a signer's certificate that is not made for
    signing.
    """
    if not roots:
        raise refusals.NO_ROOTS("no root certificate was given to verify the signer with")
    leaf, *others = [load_certificate(der) for der in chain]
    for certificate in (leaf, *others):
        _check_time(certificate, at)
    for certificate in find_path(leaf, others, roots, at):
        _check_time(certificate, at)
    _check_usage(leaf)
    return TrustedSigner(public_key_of(leaf), _name(leaf))


def find_path(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], at: datetime
) -> tuple[x509.Certificate, ...]:
    """The path from `leaf` over `others` to one of `roots` as of `at`, both ends included; else UntrustedKeyError."""
    policy = verification.PolicyBuilder().store(verification.Store(list(roots))).time(at)
    verifier = policy.extension_policies(ca_policy=_ISSUERS, ee_policy=_SIGNERS).build_client_verifier()
    try:
        return tuple(verifier.verify(leaf, list(others)).chain)
    except (verification.VerificationError, x509.UnsupportedGeneralNameType) as error:
        raise refusals.CERTIFICATE_PATH(
            f"the certificate of {_name(leaf)} does not lead to a root that you trust: {error}"
        ) from error


def check_signing_chain(chain: Sequence[x509.Certificate], key: PublicKey) -> tuple[bytes, ...]:
    """Check that `chain` may stand in a bundle signed by `key`, and return it in DER.

    Raises InputError when it is empty, its first certificate holds another key, or is not made for signing.
    """
    if not chain:
        raise InputError("no certificate was given")
    if public_key_of(chain[0]) != key:
        raise InputError("the signing certificate holds another key than the private key given")
    try:
        _check_usage(chain[0])
    except SignatureError as error:
        raise InputError(
            str(error), hint="ask your CA for a certificate with the key usage digitalSignature"
        ) from error
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)


def public_key_of(certificate: x509.Certificate) -> PublicKey:
    """The key in a certificate, if it is of a kind that we take; SignatureError otherwise."""
    try:
        return enrol(certificate.public_key(), what=f"the key of {_name(certificate)}")
    except (InputError, ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"the certificate of {_name(certificate)} cannot be used: {error}") from error


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read every certificate of a PEM file; InputError when there is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise InputError(f"{path} holds no PEM certificate: {error}") from error


def _must_be_ca(policy: verification.Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("an issuer is not a CA")  # becomes a VerificationError of the path builder


def _may_issue(policy: verification.Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an issuer may not sign certificates")


# Web rules (a DNS name in the leaf, authority key identifiers, ...) do not apply to signers of models: only what RFC
# 5280 section 6 and OMS need. Critical extensions that nobody looked at still fail the path.
_ISSUERS = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, _must_be_ca)
    .may_be_present(x509.KeyUsage, verification.Criticality.AGNOSTIC, _may_issue)
)
_SIGNERS = verification.ExtensionPolicy.permit_all()


_BROKEN = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def load_certificate(der: bytes, *, what: str = "a certificate of the bundle") -> x509.Certificate:
    """Read a certificate in DER with all its extensions; DocumentError for a broken one."""
    try:
        with warnings.catch_warnings():  # RFC 5280 4.1.2.2: serial numbers below 1 are wrong and to be borne with
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            certificate = x509.load_der_x509_certificate(der)
        # Parsed lazily; whatever is broken must fail here.
        _ = (certificate.extensions, certificate.subject, certificate.issuer, certificate.not_valid_before_utc)
        _ = certificate.not_valid_after_utc
    except _BROKEN as error:
        raise refusals.CERTIFICATE_FORM(f"{what} is broken: {error}") from error
    return certificate


def _check_time(certificate: x509.Certificate, at: datetime) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= at <= last:
        early = at < first
        refusal = refusals.CERTIFICATE_NOT_YET_VALID if early else refusals.CERTIFICATE_EXPIRED
        state = "is not valid yet" if early else "has expired"
        raise refusal(f"the certificate of {_name(certificate)} {state} (valid {first:%F} to {last:%F})")


def check_code_signing(chain: Sequence[bytes], roots: Sequence[x509.Certificate]) -> None:
    """Demand ExtendedKeyUsage codeSigning of the signer's certificate, unless the reader named that very one as a root.

    Stricter than OMS v1.0's text, which is content with KeyUsage digitalSignature; its conformance suite asks for it.
    """
    leaf = load_certificate(chain[0])
    if leaf not in roots and not _is_for_code(leaf):
        raise refusals.CERTIFICATE_USAGE(f"the certificate of {_name(leaf)} is not made for signing code")


def _check_usage(leaf: x509.Certificate) -> None:
    """OMS v1.0: KeyUsage digitalSignature or ExtendedKeyUsage codeSigning; RFC 5280 4.2.1.12: no other purpose."""
    for_code = _is_for_code(leaf)
    may_sign = any(isinstance(one.value, x509.KeyUsage) and one.value.digital_signature for one in leaf.extensions)
    if for_code or (for_code is None and may_sign):
        return
    raise refusals.CERTIFICATE_USAGE(f"the certificate of {_name(leaf)} is not made for signing")


def _is_for_code(leaf: x509.Certificate) -> bool | None:
    """Whether its extended key usages hold codeSigning; None when it has none, so that nothing is restricted."""
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.ExtendedKeyUsage):
            return ExtendedKeyUsageOID.CODE_SIGNING in extension.value
    return None


def _name(certificate: x509.Certificate) -> str:
    return ascii(certificate.subject.rfc4514_string())[1:-1] or "(no name)"
