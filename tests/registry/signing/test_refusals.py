"""Every refusal of a model signature has its code, and of two faults the one that is checked first is told."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from registry.signing import dsse
from registry.signing.encoding import to_base64
from registry.signing.keys import generate
from registry.signing.legacy import legacy_pae
from registry.signing.oms import sign_model, verify_model
from registry.signing.refusals import ORDER
from tests.registry.signing.authority import NOW, Authority, ec_key, new_root
from tests.registry.signing.models import KEY_ONE, TINY, write_tree
from watermark.errors import WeightmarkError


@dataclass
class Draft:
    """A bundle in the making and its model, each part of which a fault can spoil."""

    model: Path
    statement: dict[str, Any]
    root: str | None = None
    media_type: str = "application/vnd.dev.sigstore.bundle.v0.3+json"
    material: dict[str, Any] = field(default_factory=lambda: {"publicKey": {"hint": KEY_ONE.public.key_id}})
    payload_type: str = dsse.IN_TOTO_PAYLOAD_TYPE
    signatures: int = 1
    sign: Callable[[str, bytes], bytes] = field(default=lambda kind, payload: KEY_ONE.sign(dsse.pae(kind, payload)))

    def bundle(self) -> bytes:
        resources = self.statement["predicate"]["resources"]
        joined = b"".join(bytes.fromhex(one["digest"]) for one in resources if len(one["digest"]) == 64)
        root = self.root or hashlib.sha256(joined).hexdigest()
        for subject in self.statement["subject"]:
            subject["digest"] = {"sha256": root}
        payload = json.dumps(self.statement).encode()
        one = {"sig": to_base64(self.sign(self.payload_type, payload)), "keyid": ""}
        envelope = {"payload": to_base64(payload), "payloadType": self.payload_type}
        return json.dumps(
            {
                "mediaType": self.media_type,
                "verificationMaterial": self.material,
                "dsseEnvelope": {**envelope, "signatures": [one] * self.signatures},
            }
        ).encode()

    @property
    def predicate(self) -> dict[str, Any]:
        return self.statement["predicate"]

    def resource(self, name: str) -> dict[str, Any]:
        return {"name": name, "digest": hashlib.sha256(name.encode()).hexdigest(), "algorithm": "sha256"}


def in_the_old_form(kind: str, payload: bytes) -> bytes:
    return ec_key(KEY_ONE).sign(legacy_pae(kind, payload), ec.ECDSA(hashes.SHA256()))


#: Fault by code, in the order of the checks; each with the part it spoils, since two cannot spoil one part.
FAULTS: list[tuple[str, str, Callable[[Draft], object]]] = [
    ("bundle-media-type", "media type", lambda d: setattr(d, "media_type", "application/json")),
    ("bundle-material", "material", lambda d: setattr(d, "material", {})),
    ("bundle-signatures", "signatures", lambda d: setattr(d, "signatures", 2)),
    ("bundle-signatures", "signatures", lambda d: setattr(d, "signatures", 0)),
    ("payload-type", "payload type", lambda d: setattr(d, "payload_type", "text/plain")),
    ("signing-method", "material", lambda d: setattr(d, "material", {"x509CertificateChain": CHAIN})),
    ("untrusted-key", "material", lambda d: d.material["publicKey"].update(hint="0" * 64)),
    ("signature", "sign", lambda d: setattr(d, "sign", lambda kind, payload: KEY_ONE.sign(payload))),
    ("old-form", "sign", lambda d: setattr(d, "sign", in_the_old_form)),
    ("statement-type", "statement", lambda d: d.statement.update(_type="https://in-toto.io/Statement/v0.1")),
    ("predicate-type", "predicate type", lambda d: d.statement.update(predicateType="https://slsa.dev/provenance/v1")),
    ("subject", "subject", lambda d: d.statement["subject"].append({"name": "b"})),
    ("no-files", "resources", lambda d: d.predicate.update(resources=[])),
    ("serialization", "serialization", lambda d: d.predicate["serialization"].update(method="tree")),
    ("ignores-all", "ignores", lambda d: d.predicate["serialization"].update(ignore_paths=["."])),
    ("resource-form", "resource", lambda d: d.predicate["resources"].append({**d.resource("x"), "digest": "AB"})),
    ("path-escape", "resource", lambda d: d.predicate["resources"].append(d.resource("../x"))),
    ("listed-twice", "twice", lambda d: d.predicate["resources"].append(d.predicate["resources"][0])),
    ("root-digest", "root", lambda d: setattr(d, "root", "ab" * 32)),
    ("link", "odd entry", lambda d: (d.model / "odd").symlink_to("empty")),
    ("not-a-file", "odd entry", lambda d: os.mkfifo(d.model / "odd")),
    ("missing-file", "one file", lambda d: (d.model / "a-b").unlink()),
    ("unsigned-file", "another file", lambda d: (d.model / "new").write_bytes(b"")),
    ("digest", "third file", lambda d: (d.model / "config.json").write_bytes(b"[]")),
]


def der_of(*chain: Any) -> dict[str, Any]:
    from cryptography.hazmat.primitives.serialization import Encoding

    return {"certificates": [{"rawBytes": to_base64(one.public_bytes(Encoding.DER))} for one in chain]}


ROOT = new_root()
CHAIN = der_of(ROOT.issue("signer", ec_key(KEY_ONE).public_key()))


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    model = write_tree(tmp_path / "m", TINY)
    from registry.signing.bundle import read_bundle

    payload = read_bundle(sign_model(model, KEY_ONE).bundle).envelope.payload
    return Draft(model, json.loads(payload))


def code_of(draft: Draft, **options: Any) -> str:
    with pytest.raises(WeightmarkError) as caught:
        verify_model(draft.model, draft.bundle(), **(options or {"key": KEY_ONE.public}))
    assert caught.value.hint
    return caught.value.code


def test_the_draft_is_good_before_it_is_spoiled(draft: Draft) -> None:
    assert verify_model(draft.model, draft.bundle(), key=KEY_ONE.public).signed_by == f"key {KEY_ONE.public.key_id}"


@pytest.mark.parametrize(("code", "fault"), [(code, fault) for code, _, fault in FAULTS])
def test_each_fault_has_its_code(draft: Draft, code: str, fault: Callable[[Draft], object]) -> None:
    fault(draft)
    assert code_of(draft) == code


PAIRS = [pair for pair in combinations(FAULTS, 2) if pair[0][1] != pair[1][1]]


def test_of_two_faults_the_first_in_order_is_told(tmp_path: Path) -> None:
    told = {}
    for number, ((first, _, spoil), (second, _, spoil_too)) in enumerate(PAIRS):
        model = write_tree(tmp_path / str(number), TINY)
        statement = json.loads(json.dumps(STATEMENT))
        one = Draft(model, statement)
        # The later fault first, so that no fault is undone: "no files" would take the odd resource away again.
        spoil_too(one)
        spoil(one)
        told[number] = (code_of(one), first, second)
    assert {(first, second): code for code, first, second in told.values() if code != first} == {}
    assert len(told) > 200


STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "m"}],
    "predicateType": "https://model_signing/signature/v1.0",
    "predicate": {
        "resources": [
            {"name": name, "digest": hashlib.sha256(content).hexdigest(), "algorithm": "sha256"}
            for name, content in sorted(TINY.items())
        ],
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []},
    },
}


def certified(draft: Draft, authority: Authority = ROOT, **options: Any) -> Draft:
    leaf = authority.issue("signer", ec_key(KEY_ONE).public_key(), **options)
    draft.material = {"x509CertificateChain": der_of(leaf)}
    return draft


def test_certificates_have_their_codes(draft: Draft) -> None:
    day, trusted = timedelta(days=1), {"roots": [ROOT.certificate]}
    assert verify_model(draft.model, certified(draft).bundle(), **trusted).signed_by == "CN=signer"
    assert code_of(draft, roots=[]) == "no-roots"
    assert code_of(draft, roots=[new_root().certificate]) == "untrusted-certificate"
    assert code_of(certified(draft, start=NOW - 2 * day, end=NOW - day), **trusted) == "certificate-expired"
    assert code_of(certified(draft, start=NOW + day, end=NOW + 2 * day), **trusted) == "certificate-not-yet-valid"
    assert code_of(certified(draft, digital_signature=False), **trusted) == "certificate-usage"
    broken = copy.deepcopy(draft.material)
    broken["x509CertificateChain"]["certificates"][0]["rawBytes"] = "AAAA"
    draft.material = broken
    assert code_of(draft, **trusted) == "certificate-form"
    assert code_of(certified(draft), key=KEY_ONE.public) == "signing-method"


@pytest.mark.parametrize("purpose", [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.TIME_STAMPING])
def test_a_certificate_for_other_purposes_signs_no_model(draft: Draft, purpose: x509.ObjectIdentifier) -> None:
    extra = x509.ExtendedKeyUsage([purpose])
    assert code_of(certified(draft, extra=extra), roots=[ROOT.certificate]) == "certificate-usage"
    both = x509.ExtendedKeyUsage([purpose, ExtendedKeyUsageOID.CODE_SIGNING])
    verify_model(draft.model, certified(draft, extra=both).bundle(), roots=[ROOT.certificate])


def test_certificates_that_the_library_balks_at_are_refused_like_others(draft: Draft) -> None:
    """Found by mutation: an unknown version was an error of the library's own, a serial below 1 a warning of it."""
    (certificate,) = certified(draft).material["x509CertificateChain"]["certificates"]
    der = base64.b64decode(certificate["rawBytes"])
    version = der.index(b"\xa0\x03\x02\x01\x02")
    serial = version + 7
    for position, value, code in (
        (version + 4, 6, "certificate-form"),
        (serial, 0x80, "untrusted-certificate"),
    ):
        spoiled = bytearray(der)
        spoiled[position] = value
        certificate["rawBytes"] = to_base64(bytes(spoiled))
        assert code_of(draft, roots=[ROOT.certificate]) == code


def test_links_outside_have_their_code(draft: Draft, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"")
    (draft.model / "odd").symlink_to("../outside")
    draft.predicate["serialization"]["allow_symlinks"] = True
    assert code_of(draft) == "link-outside"


def test_the_table_is_whole_and_its_codes_are_stable() -> None:
    codes = [refusal.code for refusal in ORDER]
    assert len(set(codes)) == len(codes)
    elsewhere = {
        "no-roots",
        "certificate-form",
        "certificate-expired",
        "certificate-not-yet-valid",
        "untrusted-certificate",
        "certificate-usage",
        "link-outside",
    }
    assert {code for code, _, _ in FAULTS} | elsewhere == set(codes)
    assert [code for code in codes if code not in elsewhere] == list(dict.fromkeys(code for code, _, _ in FAULTS))
    for refusal in ORDER:
        error = refusal("what is wrong")
        assert (error.code, error.hint, str(error)) == (refusal.code, refusal.hint, "what is wrong")


def test_unknown_keys_are_not_taken_for_a_bad_signature(draft: Draft) -> None:
    assert code_of(draft, key=generate().public) == "untrusted-key"
    draft.material = {"publicKey": {}}
    assert code_of(draft, key=generate().public) == "signature"


def test_the_page_about_signing_lists_every_code_in_order() -> None:
    page = (Path(__file__).parents[3] / "docs/signing.md").read_text()
    table = page[page.index("| step |") : page.index("Certificates: the chain")]
    assert re.findall(r"`([a-z-]+)`", table) == ["document", *(refusal.code for refusal in ORDER)]
