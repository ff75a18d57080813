"""A small certificate authority for tests: a root, an intermediate, and signers made to order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from registry.signing.keys import PrivateKey

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def ec_key(key: PrivateKey) -> ec.EllipticCurvePrivateKey:
    loaded = load_pem_private_key(key.to_pem(None), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return loaded


@dataclass(frozen=True)
class Authority:
    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def issue(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        *,
        ca: bool | None = None,
        digital_signature: bool = True,
        code_signing: bool = False,
        start: datetime = NOW - 10 * DAY,
        end: datetime = NOW + 10 * DAY,
        extra: x509.ExtensionType | None = None,
    ) -> x509.Certificate:
        builder = _builder(name, self.name, public_key, start, end)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        if ca or digital_signature:
            builder = builder.add_extension(_usage(ca=bool(ca)), critical=True)
        if code_signing:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        if extra is not None:
            builder = builder.add_extension(extra, critical=True)
        return builder.sign(self.key, hashes.SHA256())

    def subordinate(self, name: str, **options: object) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return Authority(name, key, self.issue(name, key.public_key(), **{"ca": True, **options}))


def new_root(name: str = "test root", *, start: datetime = NOW - 10 * DAY, end: datetime = NOW + 10 * DAY) -> Authority:
    key = ec.generate_private_key(ec.SECP384R1())
    builder = _builder(name, name, key.public_key(), start, end)
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    return Authority(name, key, builder.sign(key, hashes.SHA256()))


def write_certificates(path: Path, *certificates: x509.Certificate) -> Path:
    path.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in certificates))
    return path


def _builder(
    name: str, issuer: str, public_key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
