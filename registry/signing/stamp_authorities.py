"""Time stamping authorities (TSAs) that a reader believes, and whether one of them stands behind a stamp's signer.

An authority is a root certificate under a name of the reader's choice. Who stands behind a signer is found by
signatures alone, so that a stamp by a believed authority that is wrong in any other way is told apart from one by a
stranger. Knows certificates; stamps are `timestamps`' affair.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from watermark.errors import DocumentError, ExpiredKeyError, InputError, SignatureError, UntrustedKeyError

if TYPE_CHECKING:
    from cryptography import x509

_MAX_PATH = 8
_MAX_PATHS = 16
#: What to do about a stamp that does not hold.
FETCH_AGAIN = "a stamp in an unsigned place can be swapped by anyone: fetch the file again from its owner"


@dataclass(frozen=True)
class StampAuthority:
    """A TSA that a reader believes: a name of his choice and its root certificate in DER.

    `others` are certificates below the root (DER) that its stamps may leave out.
    """

    name: str
    root: bytes
    others: tuple[bytes, ...] = ()


def authority(name: str, der: bytes, *, what: str = "the TSA certificate") -> StampAuthority:
    """An authority by its root certificate; DocumentError for other bytes, InputError for one that others issued."""
    certificate = load_certificate(der, what)
    if certificate.subject != certificate.issuer:
        raise InputError(
            f"{what} of {name} is not a root: another certificate issued it",
            hint="give the root certificate of the time stamping authority; stamps bring the ones below it",
            code="tsa-not-root",
        )
    return StampAuthority(name, der)


def read_authorities(path: Path) -> tuple[StampAuthority, ...]:
    """Every root certificate of a PEM file as an authority, named as the certificate names itself."""
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    from registry.signing.certificates import read_certificates

    found = []
    for certificate in read_certificates(path):
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        name = str(common[0].value) if common else certificate.subject.rfc4514_string()
        found.append(authority(name, certificate.public_bytes(Encoding.DER), what=f"the certificate in {path}"))
    return tuple(found)


def load_certificate(der: bytes, what: str) -> x509.Certificate:
    """A certificate that was parsed to its last field; DocumentError for anything that RFC 5280 does not allow."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        with warnings.catch_warnings(action="ignore"):  # about serial numbers, which are refused below
            certificate = x509.load_der_x509_certificate(der)
            # Parsed lazily; what is broken must fail here.
            _ = certificate.extensions, certificate.subject, certificate.issuer, certificate.public_key()
            serial = certificate.serial_number
    except (ValueError, KeyError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion) as error:
        raise DocumentError(f"{what} holds a broken certificate: {error}") from error
    if serial <= 0:
        raise DocumentError(f"{what} holds a certificate with the serial number {serial}")
    return certificate


def find_authority(
    signer: tuple[x509.Name, int], embedded: list[x509.Certificate], authorities: Sequence[StampAuthority]
) -> tuple[StampAuthority, list[x509.Certificate]]:
    """The authority whose root stands behind the signer by signatures, whatever else is wrong; and the path to it."""
    issuer = signer[0].rfc4514_string()
    for one in authorities:
        root = load_certificate(one.root, f"the TSA {one.name}")
        pool = [*embedded, *(load_certificate(der, f"the TSA {one.name}") for der in one.others), root]
        leaf = next((c for c in pool if (c.issuer, c.serial_number) == signer), None)
        path = _path(leaf, pool, root) if leaf is not None else None
        if path is not None:
            return one, path
    raise UntrustedKeyError(
        f"a time stamp by an authority that is not trusted (its certificate is issued by {issuer[:100]!a})",
        hint="give the root certificate of the time stamping authority with --tsa-root, or put it in the trust file",
        code="untrusted-tsa",
    )


def _path(
    leaf: x509.Certificate, pool: Sequence[x509.Certificate], root: x509.Certificate
) -> list[x509.Certificate] | None:
    """Certificates from `leaf` to `root`, each issued by the next; few at a time, so that no crafted pool delays us."""
    paths = [[leaf]]
    for _ in range(_MAX_PATH):
        for path in paths:
            if path[-1] == root:
                return path
        paths = [
            [*path, issuer]
            for path in paths[:_MAX_PATHS]
            for issuer in pool
            if issuer not in path and _issued(path[-1], issuer)
        ]
    return None


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def check_time(certificate: x509.Certificate, at: datetime, name: str) -> None:
    """Raise ExpiredKeyError unless the certificate was valid at the time that the stamp of `name` states."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= at <= last:
        raise ExpiredKeyError(
            f"the stamp of {name} states {at:%Y-%m-%dT%H:%M:%SZ}, when its certificate was not valid "
            f"({first:%F} to {last:%F})",
            hint=FETCH_AGAIN,
            code="tsa-certificate-time",
        )


def check_purpose(signer: x509.Certificate, name: str) -> None:
    """RFC 3161 section 2.3: one extendedKeyUsage, critical, for time stamping and nothing else."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        usage = None
    if usage is None or not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise SignatureError(
            f"the stamp of {name} is signed with a certificate that is not made for time stamping alone",
            hint=FETCH_AGAIN,
            code="tsa-certificate-usage",
        )
