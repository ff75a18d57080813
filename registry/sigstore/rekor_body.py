"""What Rekor stores about a signed envelope: the bodies of its entries, as a log makes them.

`hashedrekord_v002` builds the one kind that Rekor v2 still takes (the digest of the PAE, the signature, and key or
certificate); it is exported for our own signatures and recomputed to check others'. The older kinds are only compared,
since some of what they hold (the digest of the envelope as it was uploaded) nobody can recompute. Knows no log: whether
a body stands in one is `tlog`'s to say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from registry.signing import dsse
from registry.signing.canonical import canonical
from registry.signing.encoding import to_base64
from registry.signing.keys import P256, P384, P521, PublicKey
from registry.signing.strict_json import as_object, loads
from watermark.errors import DocumentError, InputError, LogEntryError

MAX_BODY_BYTES = 1 << 20
HASHEDREKORD: Final = "hashedrekord"
DSSE: Final = "dsse"
INTOTO: Final = "intoto"

_WHAT = "the body of the log entry"


@dataclass(frozen=True)
class _Scheme:
    """What Sigstore's algorithm registry says of a key: its name, and the hash in both spellings."""

    key_details: str
    hash_name: str
    rekor_v1_hash: str


_SCHEMES: Final = {
    P256: _Scheme("PKIX_ECDSA_P256_SHA_256", "SHA2_256", "sha256"),
    P384: _Scheme("PKIX_ECDSA_P384_SHA_384", "SHA2_384", "sha384"),
    P521: _Scheme("PKIX_ECDSA_P521_SHA_512", "SHA2_512", "sha512"),
}


@dataclass(frozen=True)
class Verifier:
    """Whose signature an entry records: a key and, for keyless signatures, the certificate (DER and PEM) it is in."""

    key: PublicKey
    certificate: bytes | None = None
    certificate_pem: bytes | None = None

    @property
    def material(self) -> dict[str, Any]:
        """As Rekor v2 writes it."""
        if self.certificate is not None:
            return {"x509Certificate": {"rawBytes": to_base64(self.certificate)}}
        return {"publicKey": {"rawBytes": to_base64(self.key.der)}}

    @property
    def pem(self) -> str:
        """As Rekor v1 writes it: base64 of the PEM text."""
        return to_base64(self.certificate_pem or self.key.pem.encode("ascii"))


def hashedrekord_v002(envelope: dsse.Envelope, verifier: Verifier) -> bytes:
    """The entry that Rekor v2 stores for this envelope's one signature: kind hashedrekord 0.0.2 in RFC 8785 form.

    Raises InputError for keys that Rekor v2 does not take (all but ECDSA), and for several signatures.
    """
    return canonical(_hashedrekord_v002(envelope, verifier))


def check_body(kind: str, version: str, body: bytes, envelope: dsse.Envelope, verifier: Verifier) -> None:
    """Raise LogEntryError unless `body` records exactly this envelope's signature by this verifier.

    Kinds: hashedrekord 0.0.2 and dsse 0.0.2 (Rekor v2), hashedrekord 0.0.1, dsse 0.0.1 and intoto 0.0.2 (Rekor v1).
    """
    expect = _EXPECTED.get((kind, version))
    if expect is None:
        raise LogEntryError(
            f"the log entry is of the kind {kind!a} {version!a}, which says nothing about an envelope",
            hint="hashedrekord 0.0.1 and 0.0.2, dsse 0.0.1 and 0.0.2 and intoto 0.0.2 are read",
        )
    try:
        stored = as_object(loads(body, what=_WHAT, max_bytes=MAX_BODY_BYTES), _WHAT)
    except DocumentError as error:
        raise LogEntryError(str(error)) from error
    expected = expect(envelope, verifier)
    if (kind, version) in _UNCHECKED:
        _forget(stored, _UNCHECKED[kind, version])
    difference = _difference(expected, stored, "")
    if difference is not None:
        raise LogEntryError(f"the log entry is about another signature than the one in the bundle: {difference}")


def _hashedrekord_v002(envelope: dsse.Envelope, verifier: Verifier) -> dict[str, Any]:
    scheme = _scheme(verifier.key)
    data = {"algorithm": scheme.hash_name, "digest": to_base64(_digest(envelope.pae, scheme))}
    return _entry(HASHEDREKORD, "0.0.2", {"hashedRekordV002": {"data": data, "signature": _v2(envelope, verifier)}})


def _dsse_v002(envelope: dsse.Envelope, verifier: Verifier) -> dict[str, Any]:
    """Written by Rekor v2 until June 2026."""
    payload_hash = {"algorithm": "SHA2_256", "digest": to_base64(hashlib.sha256(envelope.payload).digest())}
    spec = {"dsseV002": {"payloadHash": payload_hash, "signatures": [_v2(envelope, verifier)]}}
    return _entry(DSSE, "0.0.2", spec)


def _hashedrekord_v001(envelope: dsse.Envelope, verifier: Verifier) -> dict[str, Any]:
    scheme = _scheme(verifier.key)
    digest = {"algorithm": scheme.rekor_v1_hash, "value": _digest(envelope.pae, scheme).hex()}
    signature = {"content": to_base64(_signature(envelope)), "publicKey": {"content": verifier.pem}}
    return _entry(HASHEDREKORD, "0.0.1", {"data": {"hash": digest}, "signature": signature})


def _dsse_v001(envelope: dsse.Envelope, verifier: Verifier) -> dict[str, Any]:
    signature = {"signature": to_base64(_signature(envelope)), "verifier": verifier.pem}
    spec = {"envelopeHash": None, "payloadHash": _payload_hash(envelope), "signatures": [signature]}
    return _entry(DSSE, "0.0.1", spec)


def _intoto_v002(envelope: dsse.Envelope, verifier: Verifier) -> dict[str, Any]:
    # This kind kept the envelope's base64 text as bytes, and wrote those in base64 once more.
    twice = to_base64(to_base64(_signature(envelope)).encode("ascii"))
    signed = {"payloadType": envelope.payload_type, "signatures": [{"publicKey": verifier.pem, "sig": twice}]}
    content = {"envelope": signed, "hash": None, "payloadHash": _payload_hash(envelope)}
    return _entry(INTOTO, "0.0.2", {"content": content})


_EXPECTED: Final = {
    (HASHEDREKORD, "0.0.2"): _hashedrekord_v002,
    (DSSE, "0.0.2"): _dsse_v002,
    (HASHEDREKORD, "0.0.1"): _hashedrekord_v001,
    (DSSE, "0.0.1"): _dsse_v001,
    (INTOTO, "0.0.2"): _intoto_v002,
}
#: Digests of the envelope's JSON as its signer happened to write it: nobody can recompute them from a bundle.
_UNCHECKED: Final = {(DSSE, "0.0.1"): ("spec", "envelopeHash"), (INTOTO, "0.0.2"): ("spec", "content", "hash")}


def _entry(kind: str, version: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "spec": spec}


def _v2(envelope: dsse.Envelope, verifier: Verifier) -> dict[str, Any]:
    details = {"keyDetails": _scheme(verifier.key).key_details, **verifier.material}
    return {"content": to_base64(_signature(envelope)), "verifier": details}


def _payload_hash(envelope: dsse.Envelope) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(envelope.payload).hexdigest()}


def _scheme(key: PublicKey) -> _Scheme:
    if key.algorithm not in _SCHEMES:
        raise InputError(
            f"Rekor takes no {key.algorithm} signatures", hint="sign with a key on P-256, P-384 or P-521 as well"
        )
    return _SCHEMES[key.algorithm]


def _digest(data: bytes, scheme: _Scheme) -> bytes:
    return hashlib.new(scheme.rekor_v1_hash, data).digest()


def _signature(envelope: dsse.Envelope) -> bytes:
    if len(envelope.signatures) != 1:
        raise InputError(f"an envelope with {len(envelope.signatures)} signatures: a log entry is about one")
    return envelope.signatures[0].sig


def _forget(stored: dict[str, Any], path: tuple[str, ...]) -> None:
    """Blank what cannot be checked; where it is absent or the way there is blocked, the comparison will say so."""
    holder: Any = stored
    for name in path[:-1]:
        holder = holder.get(name) if isinstance(holder, dict) else None
    if isinstance(holder, dict) and path[-1] in holder:
        holder[path[-1]] = None


def _difference(expected: Any, stored: Any, where: str) -> str | None:
    """The first place at which two JSON values differ, in words; None when they are the same."""
    if isinstance(expected, dict) and isinstance(stored, dict):
        for name in sorted({*expected, *stored}):
            place = f"{where}.{name}" if where else name
            if name not in stored or name not in expected:
                return f"{place!a} is {'missing' if name in expected else 'more than there should be'}"
            difference = _difference(expected[name], stored[name], place)
            if difference is not None:
                return difference
        return None
    if isinstance(expected, list) and isinstance(stored, list) and len(expected) == len(stored):
        found = (_difference(*pair, f"{where}[{at}]") for at, pair in enumerate(zip(expected, stored, strict=True)))
        return next((one for one in found if one is not None), None)
    return None if type(expected) is type(stored) and expected == stored else f"{where!a} differs"
