"""A whole Sigstore of our own for tests: CA, certificate log, Rekor v1 and v2 logs, time stamping authority.

Everything that the public instance does, done with `cryptography` alone and a clock that can be set, so that each step
can also be done wrong.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from registry.log.merkle import inclusion_proof, leaf_hash, root_of
from tests.registry.sigstore.stamping import StampingAuthority, certificate, new_stamping_authority

NOW = datetime.now(UTC).replace(microsecond=0)
SIGNED_AT = NOW - timedelta(days=30)
START = NOW - timedelta(days=400)
IDENTITY = "release@models.example"
ISSUER = "https://accounts.example"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
DETAILS = {
    "secp256r1": ("PKIX_ECDSA_P256_SHA_256", "SHA2_256", "sha256"),
    "secp384r1": ("PKIX_ECDSA_P384_SHA_384", "SHA2_384", "sha384"),
    "secp521r1": ("PKIX_ECDSA_P521_SHA_512", "SHA2_512", "sha512"),
}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def spki(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rfc3339(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    return b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type.encode(), len(payload), payload)


@dataclass(frozen=True)
class Recipe:
    """How to sign: the defaults make a bundle with which nothing is wrong."""

    kind: str = "dsse"
    version: str = "0.0.1"
    curve: ec.EllipticCurve = field(default_factory=ec.SECP256R1)
    identity: x509.GeneralName = field(default_factory=lambda: x509.RFC822Name(IDENTITY))
    issuer: str | None = ISSUER
    issuer_v1: str | None = ISSUER
    leaf_start: datetime = SIGNED_AT - timedelta(seconds=30)
    leaf_end: datetime = SIGNED_AT + timedelta(minutes=10)
    code_signing: bool = True
    digital_signature: bool = True
    ca: bool = False
    time: datetime = SIGNED_AT
    promise: bool = True
    stamp_time: datetime | None = None
    sct: bool = True
    sct_time: datetime = SIGNED_AT - timedelta(seconds=20)
    payload_type: str = PAYLOAD_TYPE

    @property
    def v2(self) -> bool:
        return (self.kind, self.version) in (("hashedrekord", "0.0.2"), ("dsse", "0.0.2"))


V2 = Recipe("hashedrekord", "0.0.2", promise=False, stamp_time=SIGNED_AT)


class Instance:
    """One Sigstore instance, with keys of its own."""

    def __init__(self) -> None:
        self.root_key, self.ca_key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
        end = START + timedelta(days=3650)
        self.root = certificate("test root", self.root_key, ("test root", self.root_key), START, end, ca=True)
        self.ca = certificate(
            "test intermediate",
            self.ca_key,
            ("test root", self.root_key),
            START,
            end,
            ca=True,
            purpose=ExtendedKeyUsageOID.CODE_SIGNING,
        )
        self.ct_key = ec.generate_private_key(ec.SECP256R1())
        self.rekor_v1 = ec.generate_private_key(ec.SECP256R1())
        self.rekor_v2 = Ed25519PrivateKey.generate()
        self.tsa: StampingAuthority = new_stamping_authority("test tsa", START)

    # -- what a reader is given

    def trusted_root(self) -> dict[str, Any]:
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [
                _log("https://rekor.example", self.rekor_v1, "PKIX_ECDSA_P256_SHA_256", log_id_v1(self.rekor_v1)),
                _log("https://log1.rekor.example", self.rekor_v2, "PKIX_ED25519", log_id_v2(self.rekor_v2)),
            ],
            "certificateAuthorities": [_authority("https://fulcio.example", (self.ca, self.root))],
            "ctlogs": [
                _log("https://ct.example", self.ct_key, "PKIX_ECDSA_P256_SHA_256", log_id_v1(self.ct_key)),
            ],
            "timestampAuthorities": [_authority("https://tsa.example", (self.tsa.signer, self.tsa.root))],
        }

    # -- what a signer gets

    def sign(self, payload: bytes, recipe: Recipe | None = None) -> dict[str, Any]:
        """Sign a payload keyless: the whole bundle."""
        recipe = recipe or Recipe()
        key = ec.generate_private_key(recipe.curve)
        leaf = self.issue(key, recipe)
        signature = key.sign(pae(payload, recipe.payload_type), ec.ECDSA(HASHES[recipe.curve.name]))
        body = make_body(recipe, payload, signature, leaf)
        material: dict[str, Any] = {
            "certificate": {"rawBytes": b64(leaf.public_bytes(Encoding.DER))},
            "tlogEntries": [self.log(body, recipe)],
        }
        if recipe.stamp_time is not None:
            stamp = self.tsa.stamp(signature, recipe.stamp_time)
            material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": b64(stamp)}]}
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": b64(payload),
                "payloadType": recipe.payload_type,
                "signatures": [{"sig": b64(signature)}],
            },
        }

    def issue(self, key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey, recipe: Recipe) -> x509.Certificate:
        """A certificate as Fulcio issues it: first shown to the certificate log, then signed with its answer inside."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(recipe.leaf_start)
            .not_valid_after(recipe.leaf_end)
            .add_extension(
                x509.KeyUsage(recipe.digital_signature, False, not recipe.digital_signature, *[False] * 6),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca_key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([recipe.identity]), critical=True)
        )
        usage = ExtendedKeyUsageOID.CODE_SIGNING if recipe.code_signing else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if recipe.ca:
            builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        if recipe.issuer_v1 is not None:
            builder = builder.add_extension(_extension("1.3.6.1.4.1.57264.1.1", recipe.issuer_v1.encode()), False)
        if recipe.issuer is not None:
            text = recipe.issuer.encode()
            builder = builder.add_extension(
                _extension("1.3.6.1.4.1.57264.1.8", b"\x0c" + bytes([len(text)]) + text), False
            )
        if recipe.sct:
            precertificate = builder.sign(self.ca_key, hashes.SHA384())
            sct = self.certify(precertificate.tbs_certificate_bytes, recipe.sct_time)
            builder = builder.add_extension(_extension("1.3.6.1.4.1.11129.2.4.2", _sct_list(sct)), False)
        return builder.sign(self.ca_key, hashes.SHA384())

    def certify(self, tbs: bytes, time: datetime) -> bytes:
        """The certificate log's promise (RFC 6962 section 3.2)."""
        stamp = (int(time.timestamp()) * 1000 + 123).to_bytes(8, "big")
        issuer = hashlib.sha256(spki(self.ca_key)).digest()
        signed = b"\x00\x00" + stamp + b"\x00\x01" + issuer + len(tbs).to_bytes(3, "big") + tbs + b"\x00\x00"
        signature = self.ct_key.sign(signed, ec.ECDSA(hashes.SHA256()))
        return (
            b"\x00"
            + log_id_v1(self.ct_key)
            + stamp
            + b"\x00\x00\x04\x03"
            + len(signature).to_bytes(2, "big")
            + signature
        )

    def log(self, body: bytes, recipe: Recipe) -> dict[str, Any]:
        """Put a body into a log among others, and return the bundle's entry."""
        leaves = [leaf_hash(b"other %d" % number) for number in range(11)]
        index = 6
        leaves[index] = leaf_hash(body)
        root = root_of(leaves)
        hashes_ = inclusion_proof(
            index, len(leaves), lambda level, at: root_of(leaves[at << level : (at + 1) << level])
        )
        checkpoint = self.checkpoint_v2 if recipe.v2 else self.checkpoint_v1
        entry: dict[str, Any] = {
            "logIndex": str(index if recipe.v2 else 9_000_000 + index),
            "logId": {"keyId": b64(log_id_v2(self.rekor_v2) if recipe.v2 else log_id_v1(self.rekor_v1))},
            "kindVersion": {"kind": recipe.kind, "version": recipe.version},
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": b64(root),
                "treeSize": str(len(leaves)),
                "hashes": [b64(one) for one in hashes_],
                "checkpoint": {"envelope": checkpoint(len(leaves), root)},
            },
            "canonicalizedBody": b64(body),
        }
        if recipe.promise:
            entry["integratedTime"] = str(int(recipe.time.timestamp()))
            entry["inclusionPromise"] = {"signedEntryTimestamp": b64(self.promise(entry))}
        return entry

    def promise(self, entry: dict[str, Any]) -> bytes:
        """The log's signed entry timestamp over what the entry says now."""
        promised = {
            "body": entry["canonicalizedBody"],
            "integratedTime": int(entry["integratedTime"]),
            "logID": base64.b64decode(entry["logId"]["keyId"]).hex(),
            "logIndex": int(entry["logIndex"]),
        }
        return self.rekor_v1.sign(rfc8785.dumps(promised), ec.ECDSA(hashes.SHA256()))

    def checkpoint_v1(self, size: int, root: bytes) -> str:
        text = f"rekor.example - 3904496407287907110\n{size}\n{b64(root)}\n"
        signature = self.rekor_v1.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
        return f"{text}\n\u2014 rekor.example {b64(log_id_v1(self.rekor_v1)[:4] + signature)}\n"

    def checkpoint_v2(self, size: int, root: bytes, origin: str = "log1.rekor.example") -> str:
        text = f"{origin}\n{size}\n{b64(root)}\n"
        key_id = log_id_v2(self.rekor_v2, origin)[:4]
        return f"{text}\n\u2014 {origin} {b64(key_id + self.rekor_v2.sign(text.encode()))}\n"


def log_id_v1(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(spki(key)).digest()


def log_id_v2(key: Ed25519PrivateKey, origin: str = "log1.rekor.example") -> bytes:
    return hashlib.sha256(f"{origin}\n".encode() + b"\x01" + key.public_key().public_bytes_raw()).digest()


def make_body(recipe: Recipe, payload: bytes, signature: bytes, leaf: x509.Certificate) -> bytes:
    """What the log stores, for each kind that a Rekor has ever written about envelopes."""
    details, v2_hash, v1_hash = DETAILS[recipe.curve.name]
    pem = b64(leaf.public_bytes(Encoding.PEM))
    digest = hashlib.new(v1_hash, pae(payload, recipe.payload_type)).digest()
    payload_sha256 = hashlib.sha256(payload)
    v2_signature = {
        "content": b64(signature),
        "verifier": {"keyDetails": details, "x509Certificate": {"rawBytes": b64(leaf.public_bytes(Encoding.DER))}},
    }
    specs: dict[tuple[str, str], dict[str, Any]] = {
        ("dsse", "0.0.1"): {
            "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(b"as uploaded").hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": payload_sha256.hexdigest()},
            "signatures": [{"signature": b64(signature), "verifier": pem}],
        },
        ("intoto", "0.0.2"): {
            "content": {
                "envelope": {
                    "payloadType": recipe.payload_type,
                    "signatures": [{"publicKey": pem, "sig": b64(b64(signature).encode())}],
                },
                "hash": {"algorithm": "sha256", "value": hashlib.sha256(b"as uploaded").hexdigest()},
                "payloadHash": {"algorithm": "sha256", "value": payload_sha256.hexdigest()},
            }
        },
        ("hashedrekord", "0.0.1"): {
            "data": {"hash": {"algorithm": v1_hash, "value": digest.hex()}},
            "signature": {"content": b64(signature), "publicKey": {"content": pem}},
        },
        ("hashedrekord", "0.0.2"): {
            "hashedRekordV002": {"data": {"algorithm": v2_hash, "digest": b64(digest)}, "signature": v2_signature}
        },
        ("dsse", "0.0.2"): {
            "dsseV002": {
                "payloadHash": {"algorithm": "SHA2_256", "digest": b64(payload_sha256.digest())},
                "signatures": [v2_signature],
            }
        },
    }
    spec = specs[recipe.kind, recipe.version]
    return rfc8785.dumps({"apiVersion": recipe.version, "kind": recipe.kind, "spec": spec})


def encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _extension(oid: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(ObjectIdentifier(oid), value)


def _sct_list(*scts: bytes) -> bytes:
    listed = b"".join(len(one).to_bytes(2, "big") + one for one in scts)
    content = len(listed).to_bytes(2, "big") + listed
    length = bytes([len(content)]) if len(content) < 128 else b"\x81" + bytes([len(content)])
    return b"\x04" + length + content


def _log(url: str, key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey, details: str, log_id: bytes) -> dict[str, Any]:
    public = {"rawBytes": b64(spki(key)), "keyDetails": details, "validFor": {"start": rfc3339(START)}}
    return {"baseUrl": url, "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": {"keyId": b64(log_id)}}


def _authority(url: str, chain: tuple[x509.Certificate, ...]) -> dict[str, Any]:
    return {
        "subject": {"organization": "example", "commonName": "example"},
        "uri": url,
        "certChain": {"certificates": [{"rawBytes": b64(one.public_bytes(Encoding.DER))} for one in chain]},
        "validFor": {"start": rfc3339(START)},
    }
