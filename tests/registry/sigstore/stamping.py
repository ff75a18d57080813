"""A time stamping authority for tests, in process and with a clock that can be set (RFC 3161, CMS by asn1crypto)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

YEARS = timedelta(days=3650)


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: tuple[str, ec.EllipticCurvePrivateKey],
    start: datetime,
    end: datetime,
    *,
    ca: bool,
    purpose: x509.ObjectIdentifier | None = None,
    critical_purpose: bool = False,
) -> x509.Certificate:
    """A certificate with all that RFC 5280 asks of one."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer[0])]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(
            x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key()), critical=False)
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=critical_purpose)
    return builder.sign(issuer[1], hashes.SHA256())


@dataclass(frozen=True)
class StampingAuthority:
    """Stamps whatever it is given, at whatever time it is told."""

    root: x509.Certificate
    signer: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def chain(self) -> tuple[bytes, ...]:
        return tuple(one.public_bytes(Encoding.DER) for one in (self.signer, self.root))

    def stamp(self, message: bytes, time: datetime) -> bytes:
        """A whole TimeStampResp over SHA-256 of `message`."""
        sha256 = algos.DigestAlgorithm({"algorithm": "sha256"})
        imprint = {"hash_algorithm": sha256, "hashed_message": hashlib.sha256(message).digest()}
        info = tsp.TSTInfo(
            {
                "version": "v1",
                "policy": "1.2.3.4",
                "message_imprint": imprint,
                "serial_number": 7,
                "gen_time": time,
            }
        )
        signer_der = self.signer.public_bytes(Encoding.DER)
        signer = asn1_x509.Certificate.load(signer_der)
        ess = tsp.SigningCertificateV2({"certs": [{"cert_hash": hashlib.sha256(signer_der).digest()}]})
        attributes = cms.CMSAttributes(
            [
                {"type": "content_type", "values": ["tst_info"]},
                {"type": "message_digest", "values": [hashlib.sha256(info.dump()).digest()]},
                {"type": "signing_certificate_v2", "values": [ess]},
            ]
        )
        signer_info = {
            "version": "v1",
            "sid": cms.SignerIdentifier(
                "issuer_and_serial_number", {"issuer": signer.issuer, "serial_number": signer.serial_number}
            ),
            "digest_algorithm": sha256,
            "signed_attrs": attributes,
            "signature_algorithm": {"algorithm": "sha256_ecdsa"},
            "signature": self.key.sign(attributes.dump(), ec.ECDSA(hashes.SHA256())),
        }
        signed = cms.SignedData(
            {
                "version": "v3",
                "digest_algorithms": [sha256],
                "encap_content_info": {"content_type": "tst_info", "content": core.ParsableOctetString(info.dump())},
                "certificates": [signer],
                "signer_infos": [signer_info],
            }
        )
        token = cms.ContentInfo({"content_type": "signed_data", "content": signed})
        return tsp.TimeStampResp({"status": {"status": "granted"}, "time_stamp_token": token}).dump()


def new_stamping_authority(name: str, start: datetime) -> StampingAuthority:
    """A root and a signer below it, both valid for ten years from `start`."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = certificate(name, root_key, (name, root_key), start, start + YEARS, ca=True)
    signer = certificate(
        f"{name} signer",
        key,
        (name, root_key),
        start,
        start + YEARS,
        ca=False,
        purpose=ExtendedKeyUsageOID.TIME_STAMPING,
        critical_purpose=True,
    )
    return StampingAuthority(root, signer, key)
