"""Sigstore bundles v0.3: a DSSE envelope with what a verifier needs to find the signer's key.

Reads the three kinds of key material that the OpenSSF Model Signing specification (OMS v1.0) knows, writes two. Whether
the material is to be believed is decided elsewhere: a bundle never brings its own trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from registry.signing import dsse, refusals
from registry.signing.encoding import from_base64, to_base64
from registry.signing.keys import PublicKey
from registry.signing.strict_json import MAX_BUNDLE_BYTES, as_object, dumps, loads, member
from registry.signing.timestamps import MAX_STAMPS
from registry.sigstore.entries import TlogEntry, read_entries
from watermark.errors import DocumentError

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_CERTIFICATES = 16
_WHAT = "the bundle"
_KINDS = ("publicKey", "x509CertificateChain", "certificate")
_SIDE_FIELDS = ("tlogEntries", "timestampVerificationData")


@dataclass(frozen=True)
class KeyMaterial:
    """Names the public key that signed; the key itself must come from the reader."""

    hint: str = ""
    pem: bytes | None = None  # what model-signing before 1.1.0 wrote instead of a hint

    def names(self, key: PublicKey) -> bool:
        """True when this material points at `key`, or at no key at all.

        Read as hints: hex SHA-256 of the PEM text (OMS), base64 SHA-256 of the DER form (other Sigstore clients).
        """
        if self.pem is not None and self.pem.strip() != key.pem.encode("ascii").strip():
            return False
        return self.hint in ("", key.key_id, to_base64(key.der_sha256))


@dataclass(frozen=True)
class CertificateMaterial:
    """A chain of certificates in DER, the signer's first."""

    chain: tuple[bytes, ...]


@dataclass(frozen=True)
class KeylessMaterial:
    """A short-lived Sigstore certificate; needs an identity, a log proof and a time to be verified."""

    certificate: bytes


Material = KeyMaterial | CertificateMaterial | KeylessMaterial


@dataclass(frozen=True)
class Bundle:
    """An envelope and the material that names its signer, as read: nothing is verified yet."""

    envelope: dsse.Envelope
    material: Material
    stamps: tuple[bytes, ...] = ()  # RFC 3161 responses (DER) over the bytes of the signature
    log_entries: tuple[TlogEntry, ...] = ()  # of keyless signatures; those of others say nothing that we use


def write_bundle(bundle: Bundle) -> bytes:
    """The bundle as one line of JSON, without a final newline. Keyless material is read, never written."""
    if isinstance(bundle.material, KeyMaterial):
        material: dict[str, Any] = {"publicKey": {"hint": bundle.material.hint}}
    elif isinstance(bundle.material, CertificateMaterial):
        certificates = [{"rawBytes": to_base64(der)} for der in bundle.material.chain]
        material = {"x509CertificateChain": {"certificates": certificates}}
    else:
        raise DocumentError("keyless bundles are made by Sigstore clients only")
    return dumps(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {**material, "tlogEntries": [], **_stamp_fields(bundle.stamps)},
            "dsseEnvelope": dsse.to_dict(bundle.envelope),
        }
    )


def read_bundle(data: bytes, *, what: str = _WHAT) -> Bundle:
    """Read a bundle strictly: this media type only, one kind of material, one signature, no unknown key.

    Raises DocumentError.
    """
    document = loads(data, what=what, max_bytes=MAX_BUNDLE_BYTES)
    fields = as_object(document, what, allowed=("mediaType", "verificationMaterial", "dsseEnvelope"))
    media_type = member(fields, "mediaType", str, what)
    if media_type != MEDIA_TYPE:
        raise refusals.MEDIA_TYPE(f"{what} is of the media type {media_type!r}; only {MEDIA_TYPE} is read")
    side_fields = member(fields, "verificationMaterial", dict, what)
    material, stamps = _read_material(side_fields, what), _read_stamps(side_fields, what)
    envelope = dsse.from_dict(member(fields, "dsseEnvelope", dict, what), what=f"the envelope of {what}")
    if len(envelope.signatures) != 1:  # other verifiers look at the first one only, and must not differ from us
        raise refusals.SIGNATURE_COUNT(f"{what} has {len(envelope.signatures)} signatures; exactly one is read")
    return Bundle(envelope, material, stamps, _read_log_entries(side_fields, material, what))


def _read_material(fields: dict[str, Any], what: str) -> Material:
    name = f"the verification material of {what}"
    as_object(fields, name, allowed=(*_KINDS, *_SIDE_FIELDS))
    kinds = [kind for kind in _KINDS if kind in fields]
    if len(kinds) != 1:
        raise refusals.MATERIAL_FORM(f"{name} must hold exactly one of {', '.join(_KINDS)}")
    content = member(fields, kinds[0], dict, name)
    if kinds[0] == "publicKey":
        return _read_key(content, name)
    if kinds[0] == "certificate":
        return KeylessMaterial(_raw_bytes(content, name))
    as_object(content, name, allowed=("certificates",))
    listed = member(content, "certificates", list, name)
    if not 1 <= len(listed) <= MAX_CERTIFICATES:
        raise refusals.MATERIAL_FORM(f"{name} holds {len(listed)} certificates; 1 to {MAX_CERTIFICATES} are read")
    return CertificateMaterial(tuple(_raw_bytes(as_object(one, name), name) for one in listed))


def _read_log_entries(fields: dict[str, Any], material: Material, what: str) -> tuple[TlogEntry, ...]:
    listed = member(fields, "tlogEntries", list, what) if "tlogEntries" in fields else []
    return read_entries(listed, what) if isinstance(material, KeylessMaterial) else ()


def _stamp_fields(stamps: tuple[bytes, ...]) -> dict[str, Any]:
    if not stamps:
        return {}
    listed = [{"signedTimestamp": to_base64(stamp)} for stamp in stamps]
    return {"timestampVerificationData": {"rfc3161Timestamps": listed}}


def _read_stamps(fields: dict[str, Any], what: str) -> tuple[bytes, ...]:
    """The time stamps as bytes; whether they are any, and whose, is judged by `timestamps`."""
    name = f"the time stamps of {what}"
    if fields.get("timestampVerificationData") is None:
        return ()
    data = as_object(fields["timestampVerificationData"], name, allowed=("rfc3161Timestamps",))
    listed = member(data, "rfc3161Timestamps", list, name) if data else []
    if len(listed) > MAX_STAMPS:
        raise DocumentError(f"{name}: {len(listed)} of them; at most {MAX_STAMPS} are read")
    stamps = []
    for one in listed:
        text = member(as_object(one, name, allowed=("signedTimestamp",)), "signedTimestamp", str, name)
        stamps.append(from_base64(text, what=name, url_safe=True))
    return tuple(stamps)


def _read_key(content: dict[str, Any], name: str) -> KeyMaterial:
    as_object(content, name, allowed=("hint", "rawBytes", "keyDetails"))
    hint = "" if content.get("hint") is None else member(content, "hint", str, name)
    pem = _raw_bytes({"rawBytes": content["rawBytes"]}, name) if "rawBytes" in content else None
    return KeyMaterial(hint, pem)


def _raw_bytes(content: dict[str, Any], name: str) -> bytes:
    as_object(content, name, allowed=("rawBytes",))
    return from_base64(member(content, "rawBytes", str, name), what=name, url_safe=True)
