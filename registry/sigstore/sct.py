"""Was a certificate shown to a trusted certificate log before it was used? (RFC 6962 section 3.2.)

A signed certificate timestamp (SCT) inside a certificate is a log's promise to publish it, so that a certificate
issued behind its subject's back can be noticed. The log signs the certificate without the SCTs and the hash of the
issuer's key. Only SCTs inside certificates are read: bundles bring no others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.certificate_transparency import LogEntryType, SignatureAlgorithm, SignedCertificateTimestamp

from registry.signing.keys import P256
from registry.sigstore.trusted_root import TrustedLog
from watermark.errors import CertificateLogError, SignatureError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION_1, _CERTIFICATE_TIMESTAMP, _PRECERT_ENTRY = 0, 0, 1


def verify_sct(leaf: x509.Certificate, issuer: x509.Certificate, logs: Sequence[TrustedLog]) -> datetime:
    """When a trusted certificate log first promised to publish `leaf`, which `issuer` signed.

    One SCT of a trusted log is enough; those of unknown logs are passed over, a false one of a trusted log is not.
    Raises CertificateLogError.
    """
    try:
        embedded = leaf.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value
        tbs = leaf.tbs_precertificate_bytes
    except (x509.ExtensionNotFound, ValueError) as error:
        raise CertificateLogError("the certificate brings no proof that it was shown to a certificate log") from error
    times = []
    for sct in embedded:
        log = next((log for log in logs if log.log_id == sct.log_id), None)
        if log is not None:
            times.append(_verify_one(sct, tbs, issuer, log))
    if not times:
        raise CertificateLogError(
            "the certificate was shown to no certificate log that the trusted root names",
            hint="pass a current trusted_root.json of the Sigstore instance that the signer used",
        )
    return min(times)


def _verify_one(sct: SignedCertificateTimestamp, tbs: bytes, issuer: x509.Certificate, log: TrustedLog) -> datetime:
    time = sct.timestamp.replace(tzinfo=UTC)
    if log.key is None or log.key.algorithm != P256:
        raise CertificateLogError(f"the certificate log {log.url!a} signs with {log.key_details}, not with P-256")
    if sct.entry_type != LogEntryType.PRE_CERTIFICATE:
        raise CertificateLogError(f"the timestamp of {log.url!a} is not about the certificate that holds it")
    if sct.signature_algorithm != SignatureAlgorithm.ECDSA or not isinstance(
        sct.signature_hash_algorithm, hashes.SHA256
    ):
        raise CertificateLogError(f"the timestamp of {log.url!a} is signed in another way than ECDSA with SHA-256")
    try:
        log.key.verify(sct.signature, _signed_bytes(sct, time, tbs, issuer))
    except SignatureError as error:
        raise CertificateLogError(
            f"the timestamp of {log.url!a} is not about this certificate: its signature does not verify"
        ) from error
    if not log.valid.covers(time):
        raise CertificateLogError(f"the certificate log {log.url!a} is trusted {log.valid}, and signed on {time:%F}")
    return time


def _signed_bytes(sct: SignedCertificateTimestamp, time: datetime, tbs: bytes, issuer: x509.Certificate) -> bytes:
    """RFC 6962 section 3.2, `digitally-signed struct` of an SCT over a precertificate."""
    spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    milliseconds = (time - _EPOCH) // timedelta(milliseconds=1)
    return b"".join(
        (
            bytes((_VERSION_1, _CERTIFICATE_TIMESTAMP)),
            milliseconds.to_bytes(8, "big"),
            _PRECERT_ENTRY.to_bytes(2, "big"),
            hashlib.sha256(spki).digest(),
            len(tbs).to_bytes(3, "big"),
            tbs,
            len(sct.extension_bytes).to_bytes(2, "big"),
            sct.extension_bytes,
        )
    )
