"""Keyless bundles with which exactly one thing is wrong, each with the code of the refusal that must follow."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from tests.registry.sigstore.instance import (
    IDENTITY,
    ISSUER,
    SIGNED_AT,
    V2,
    Instance,
    Recipe,
    b64,
    log_id_v1,
    log_id_v2,
    make_body,
    pae,
    rfc3339,
)

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
HERE, ELSEWHERE = Instance(), Instance()
DIGEST = hashlib.sha256(b"weights")


def statement(digest: bytes = DIGEST.digest(), name: str = "w.bin") -> bytes:
    """An OMS statement about one file, without touching a disk."""
    predicate = {
        "resources": [{"name": name, "digest": digest.hex(), "algorithm": "sha256"}],
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": [".git", ".gitattributes", ".github", ".gitignore", "model.sig"],
        },
    }
    subject = [{"name": "model", "digest": {"sha256": hashlib.sha256(digest).hexdigest()}}]
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": subject,
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": predicate,
        }
    ).encode()


PAYLOAD = statement()


@dataclass
class Attempt:
    """A bundle and what its reader believes; variants change it in place."""

    bundle: dict[str, Any]
    root: dict[str, Any]
    identity: str = IDENTITY
    issuer: str = ISSUER

    @property
    def material(self) -> dict[str, Any]:
        return self.bundle["verificationMaterial"]

    @property
    def entry(self) -> dict[str, Any]:
        return self.material["tlogEntries"][0]

    @property
    def proof(self) -> dict[str, Any]:
        return self.entry["inclusionProof"]

    @property
    def signature(self) -> dict[str, Any]:
        return self.bundle["dsseEnvelope"]["signatures"][0]

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(base64.b64decode(self.material["certificate"]["rawBytes"]))


@dataclass(frozen=True)
class Variant:
    """`code` is that of our refusal; None for an attempt that must be accepted."""

    name: str
    code: str | None
    make: Callable[[], Attempt]


def attempt(recipe: Recipe | None = None, payload: bytes = PAYLOAD) -> Attempt:
    return Attempt(HERE.sign(payload, recipe), HERE.trusted_root())


def with_body(at: Attempt, body: bytes, recipe: Recipe) -> Attempt:
    """The same bundle with another body, which the log did take."""
    at.material["tlogEntries"] = [HERE.log(body, recipe)]
    return at


def flipped(text: str, at: int = -1) -> str:
    data = bytearray(base64.b64decode(text))
    data[at] ^= 1
    return b64(bytes(data))


def changed(recipe: Recipe | None, change: Callable[[Attempt], object]) -> Callable[[], Attempt]:
    def make() -> Attempt:
        at = attempt(recipe)
        change(at)
        return at

    return make


def _set(holder: Callable[[Attempt], dict[str, Any]], **values: Any) -> Callable[[Attempt], None]:
    return lambda at: holder(at).update(values)


def _malleable(at: Attempt) -> None:
    r, s = decode_dss_signature(base64.b64decode(at.signature["sig"]))
    at.signature["sig"] = b64(encode_dss_signature(r, P256_ORDER - s))


def _entry_of_another(at: Attempt) -> None:
    at.material["tlogEntries"] = HERE.sign(statement(b"\x22" * 32))["verificationMaterial"]["tlogEntries"]


def _other_certificate_in_entry() -> Attempt:
    at, recipe = attempt(), Recipe()
    other = HERE.issue(ec.generate_private_key(ec.SECP256R1()), recipe)
    return with_body(at, make_body(recipe, PAYLOAD, base64.b64decode(at.signature["sig"]), other), recipe)


def _signature_of_another_key() -> Attempt:
    """All is consistent and public, but the certified key did not sign."""
    at, recipe = attempt(), Recipe()
    forged = ec.generate_private_key(ec.SECP256R1()).sign(pae(PAYLOAD), ec.ECDSA(hashes.SHA256()))
    at.signature["sig"] = b64(forged)
    return with_body(at, make_body(recipe, PAYLOAD, forged, at.leaf), recipe)


def _body_changed(recipe: Recipe, change: Callable[[dict[str, Any]], object]) -> Callable[[], Attempt]:
    """The log took a body that differs from what it should say about this signature."""

    def make() -> Attempt:
        at = attempt(recipe)
        body = json.loads(base64.b64decode(at.entry["canonicalizedBody"]))
        change(body)
        return with_body(at, rfc8785.dumps(body), recipe)

    return make


def _checkpoint_by_another_log(at: Attempt) -> None:
    text = at.proof["checkpoint"]["envelope"].partition("\n\n")[0] + "\n"
    signature = ELSEWHERE.rekor_v1.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
    line = f"\u2014 rekor.example {b64(log_id_v1(HERE.rekor_v1)[:4] + signature)}\n"
    at.proof["checkpoint"]["envelope"] = f"{text}\n{line}"


def _checkpoint_of_another_origin(at: Attempt) -> None:
    size, root = int(at.proof["treeSize"]), base64.b64decode(at.proof["rootHash"])
    at.proof["checkpoint"]["envelope"] = HERE.checkpoint_v2(size, root, "log2.rekor.example")


def _same_key_under_the_old_id(at: Attempt) -> None:
    """A line with the log's key id, by the log's key, but under the name of another log."""
    size, root = int(at.proof["treeSize"]), base64.b64decode(at.proof["rootHash"])
    text = f"log2.rekor.example\n{size}\n{b64(root)}\n"
    key_id = log_id_v2(HERE.rekor_v2)[:4]
    line = f"\u2014 log2.rekor.example {b64(key_id + HERE.rekor_v2.sign(text.encode()))}\n"
    at.proof["checkpoint"]["envelope"] = f"{text}\n{line}"


def _later_checkpoint(at: Attempt) -> None:
    at.proof["checkpoint"]["envelope"] = HERE.checkpoint_v1(12, hashlib.sha256(b"grown").digest())


def _forged_promise(at: Attempt) -> None:
    promise = ELSEWHERE.rekor_v1.sign(b"anything", ec.ECDSA(hashes.SHA256()))
    at.entry["inclusionPromise"]["signedEntryTimestamp"] = b64(promise)


def _promise_in_v2(at: Attempt) -> None:
    at.entry["integratedTime"] = str(int(SIGNED_AT.timestamp()))
    at.entry["inclusionPromise"] = {"signedEntryTimestamp": b64(HERE.promise(at.entry))}


def _stamp_over(message: bytes, by: Instance = HERE) -> Callable[[Attempt], None]:
    def change(at: Attempt) -> None:
        signed = message or base64.b64decode(at.signature["sig"])
        stamp = b64(by.tsa.stamp(signed, SIGNED_AT))
        at.material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": stamp}]}

    return change


def _sct(change: Callable[[bytes], bytes]) -> Callable[[], Attempt]:
    """A certificate whose SCT the certificate log answered with a change."""

    def make() -> Attempt:
        liar = copy.copy(HERE)
        liar.certify = lambda tbs, time: change(HERE.certify(tbs, time))  # type: ignore[method-assign]
        return Attempt(liar.sign(PAYLOAD), HERE.trusted_root())

    return make


def _sct_by_another_key() -> Attempt:
    liar = copy.copy(HERE)
    liar.certify = lambda tbs, time: log_id_first(ELSEWHERE.certify(tbs, time))  # type: ignore[method-assign]
    return Attempt(liar.sign(PAYLOAD), HERE.trusted_root())


def log_id_first(sct: bytes) -> bytes:
    return sct[:1] + log_id_v1(HERE.ct_key) + sct[33:]


def _sct_of_another_certificate() -> Attempt:
    liar = copy.copy(HERE)
    liar.certify = lambda tbs, time: HERE.certify(tbs[:-1] + b"?", time)  # type: ignore[method-assign]
    return Attempt(liar.sign(PAYLOAD), HERE.trusted_root())


def _root(section: str, **changes: Any) -> Callable[[Attempt], None]:
    return lambda at: at.root[section][0].update(changes)


def _swap(section: str) -> Callable[[Attempt], None]:
    return lambda at: at.root.update({section: ELSEWHERE.trusted_root()[section]})


def _ended(section: str, days_before: int = 1) -> Callable[[Attempt], None]:
    """What the root names was out of use when it was signed."""
    end = rfc3339(SIGNED_AT - timedelta(days=days_before))

    def change(at: Attempt) -> None:
        for one in at.root[section]:
            one.get("publicKey", one)["validFor"]["end"] = end

    return change


def _unlogged_kind(at: Attempt) -> None:
    at.entry["kindVersion"] = {"kind": "rekord", "version": "0.0.1"}


LATE = Recipe(time=SIGNED_AT + timedelta(minutes=11))
EARLY = Recipe(time=SIGNED_AT - timedelta(minutes=1))

GOOD = [
    Variant("rekor v1, dsse 0.0.1, promise", None, attempt),
    Variant("rekor v2, hashedrekord 0.0.2, stamp", None, lambda: attempt(V2)),
    Variant("rekor v1, promise and stamp", None, lambda: attempt(Recipe(stamp_time=SIGNED_AT))),
    Variant("rekor v1, stamp alone", None, lambda: attempt(Recipe(promise=False, stamp_time=SIGNED_AT))),
    Variant(
        "a workflow's URI",
        None,
        lambda: replace(
            attempt(Recipe(identity=x509.UniformResourceIdentifier("https://code.example/w.yml@refs/tags/v1"))),
            identity="https://code.example/w.yml@refs/tags/v1",
        ),
    ),
    Variant("signed at the first second", None, lambda: attempt(Recipe(leaf_start=SIGNED_AT))),
    Variant("signed at the last second", None, lambda: attempt(Recipe(leaf_end=SIGNED_AT))),
    Variant(
        "trusted root v0.2",
        None,
        changed(None, _set(lambda at: at.root, mediaType="application/vnd.dev.sigstore.trustedroot.v0.2+json")),
    ),
]

BROKEN = [
    # who
    Variant("another identity", "identity", lambda: replace(attempt(), identity="thief@models.example")),
    Variant("identity in capitals", "identity", lambda: replace(attempt(), identity=IDENTITY.upper())),
    Variant("a part of the identity", "identity", lambda: replace(attempt(), identity=IDENTITY[:-1])),
    Variant("another issuer", "issuer", lambda: replace(attempt(), issuer="https://accounts.other.example")),
    Variant("issuer with a slash", "issuer", lambda: replace(attempt(), issuer=ISSUER + "/")),
    Variant("certificate without issuer", "issuer", lambda: attempt(Recipe(issuer=None, issuer_v1=None))),
    # the entry is about this signature
    Variant("entry of another envelope", "log-entry", changed(None, _entry_of_another)),
    Variant("entry of another certificate", "log-entry", _other_certificate_in_entry),
    Variant(
        "payload replaced",
        "log-entry",
        changed(None, lambda at: at.bundle["dsseEnvelope"].update(payload=b64(statement(b"\x33" * 32)))),
    ),
    Variant("signature in its malleable form", "log-entry", changed(None, _malleable)),
    Variant("entry of an unknown kind", "log-entry", changed(None, _unlogged_kind)),
    Variant(
        "entry of another kind than it says",
        "log-entry",
        changed(None, lambda at: at.entry.update(kindVersion={"kind": "hashedrekord", "version": "0.0.2"})),
    ),
    Variant("entry body is no JSON", "log-entry", lambda: with_body(attempt(), b"{", Recipe())),
    Variant(
        "dsse entry with another payload hash",
        "log-entry",
        _body_changed(Recipe(), lambda body: body["spec"]["payloadHash"].update(value="00" * 32)),
    ),
    Variant(
        "dsse entry with two signatures",
        "log-entry",
        _body_changed(Recipe(), lambda body: body["spec"]["signatures"].append(body["spec"]["signatures"][0])),
    ),
    Variant(
        "v2 entry with another digest",
        "log-entry",
        _body_changed(V2, lambda body: body["spec"]["hashedRekordV002"]["data"].update(digest=b64(b"\0" * 32))),
    ),
    Variant(
        "v2 entry with another key kind",
        "log-entry",
        _body_changed(
            V2,
            lambda body: body["spec"]["hashedRekordV002"]["signature"]["verifier"].update(
                keyDetails="PKIX_ECDSA_P384_SHA_384"
            ),
        ),
    ),
    Variant(
        "v2 entry with another hash",
        "log-entry",
        _body_changed(V2, lambda body: body["spec"]["hashedRekordV002"]["data"].update(algorithm="SHA2_512")),
    ),
    # the log holds it
    Variant("no log entry", "untrusted-log", changed(None, lambda at: at.material.update(tlogEntries=[]))),
    Variant("no inclusion proof", "document", changed(None, lambda at: at.entry.pop("inclusionProof"))),
    Variant("no checkpoint", "document", changed(None, lambda at: at.proof.pop("checkpoint"))),
    Variant("log not in the root", "untrusted-log", changed(None, lambda at: at.root["tlogs"].pop(0))),
    Variant(
        "proof hash changed",
        "inclusion",
        changed(None, lambda at: at.proof["hashes"].__setitem__(0, flipped(at.proof["hashes"][0]))),
    ),
    Variant("proof too short", "inclusion", changed(None, lambda at: at.proof["hashes"].pop())),
    Variant("proof too long", "inclusion", changed(None, lambda at: at.proof["hashes"].append(b64(b"\1" * 32)))),
    Variant("proof of a neighbour", "inclusion", changed(None, _set(lambda at: at.proof, logIndex="7"))),
    Variant(
        "root beside the checkpoint",
        "inclusion",
        changed(None, lambda at: at.proof.update(rootHash=flipped(at.proof["rootHash"]))),
    ),
    Variant("checkpoint by another log", "checkpoint", changed(None, _checkpoint_by_another_log)),
    Variant("checkpoint of another tree", "inclusion", changed(None, _later_checkpoint)),
    Variant(
        "checkpoint without signature",
        "checkpoint",
        changed(
            None,
            lambda at: at.proof["checkpoint"].update(
                envelope=at.proof["checkpoint"]["envelope"].partition("\n\n")[0] + "\n\n"
            ),
        ),
    ),
    Variant("v2 checkpoint of another origin", "checkpoint", changed(V2, _checkpoint_of_another_origin)),
    # when
    Variant("promise by another log", "promise", changed(None, _forged_promise)),
    Variant(
        "promised time changed",
        "promise",
        changed(None, lambda at: at.entry.update(integratedTime=str(int(at.entry["integratedTime"]) + 1))),
    ),
    Variant("promised index changed", "promise", changed(None, _set(lambda at: at.entry, logIndex="5"))),
    Variant("promise in a v2 entry", "promise", changed(V2, _promise_in_v2)),
    Variant("signed after the certificate ended", "certificate-not-valid-then", lambda: attempt(LATE)),
    Variant("signed before the certificate began", "certificate-not-valid-then", lambda: attempt(EARLY)),
    Variant("no time at all", "no-time", lambda: attempt(replace(V2, stamp_time=None))),
    Variant("time without a promise", "no-time", changed(Recipe(), lambda at: at.entry.pop("inclusionPromise"))),
    Variant("stamp over other bytes", "stamp-imprint", changed(V2, _stamp_over(b"other bytes"))),
    Variant("stamp by an unknown authority", "no-time", changed(V2, _stamp_over(b"", ELSEWHERE))),
    Variant(
        "stamp after the certificate ended",
        "certificate-not-valid-then",
        lambda: attempt(replace(V2, stamp_time=LATE.time)),
    ),
    Variant("good promise, late stamp", "certificate-not-valid-then", lambda: attempt(Recipe(stamp_time=LATE.time))),
    Variant("stamp authority out of use", "stamp-authority-not-in-use", changed(V2, _ended("timestampAuthorities"))),
    # the certificate
    Variant("authority not in the root", "authority", changed(None, _swap("certificateAuthorities"))),
    Variant("no SCT", "certificate-log", lambda: attempt(Recipe(sct=False))),
    Variant("SCT by another key", "certificate-log", _sct_by_another_key),
    Variant("SCT of another certificate", "certificate-log", _sct_of_another_certificate),
    Variant("SCT with another time", "certificate-log", _sct(lambda sct: sct[:40] + bytes([sct[40] ^ 1]) + sct[41:])),
    Variant("certificate log not in the root", "certificate-log", changed(None, _swap("ctlogs"))),
    Variant("certificate not for code", "certificate-usage", lambda: attempt(Recipe(code_signing=False))),
    Variant("certificate not for signatures", "certificate-usage", lambda: attempt(Recipe(digital_signature=False))),
    Variant("certificate of an authority", "certificate-usage", lambda: attempt(Recipe(ca=True))),
    Variant(
        "certificate with a broken tail",
        "certificate-form",
        changed(
            None, lambda at: at.material["certificate"].update(rawBytes=at.material["certificate"]["rawBytes"][:-8])
        ),
    ),
    # the signature
    Variant("signature of another key", "signature", _signature_of_another_key),
    Variant("payload of another type", "payload-type", lambda: attempt(Recipe(payload_type="text/plain"))),
    Variant("unknown key in the entry", "document", changed(None, _set(lambda at: at.entry, comment="hello"))),
]

#: What sigstore-python 4.5 lets pass.
STRICTER = [
    Variant("index with a leading zero", "document", changed(V2, _set(lambda at: at.entry, logIndex="06"))),
    Variant("authority out of use", "authority-not-in-use", changed(None, _ended("certificateAuthorities"))),
    Variant("log out of use", "log-not-in-use", changed(None, _ended("tlogs"))),
    Variant("certificate log out of use", "certificate-log", changed(None, _ended("ctlogs"))),
    Variant(
        "two issuers in one certificate", "issuer", lambda: attempt(Recipe(issuer="https://accounts.other.example"))
    ),
    Variant("good promise, stamp over other bytes", "stamp-imprint", changed(Recipe(), _stamp_over(b"other bytes"))),
    Variant("v2 checkpoint under another name", "checkpoint", changed(V2, _same_key_under_the_old_id)),
    Variant("size beside the checkpoint", "inclusion", changed(None, _set(lambda at: at.proof, treeSize="12"))),
]

#: What sigstore-python 4.5 does not read, though its meaning is as clear.
WIDER = [
    Variant("rekor v1, intoto 0.0.2", None, lambda: attempt(Recipe("intoto", "0.0.2"))),
    Variant("rekor v1, hashedrekord 0.0.1", None, lambda: attempt(Recipe("hashedrekord", "0.0.1"))),
    Variant("rekor v2, dsse 0.0.2", None, lambda: attempt(replace(V2, kind="dsse"))),
    Variant("P-384", None, lambda: attempt(replace(V2, curve=ec.SECP384R1()))),
    Variant("P-521", None, lambda: attempt(replace(V2, curve=ec.SECP521R1()))),
    Variant("issuer in its present form alone", None, lambda: attempt(Recipe(issuer_v1=None))),
    Variant("two log entries", None, changed(None, lambda at: at.material["tlogEntries"].append(at.entry))),
]


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
