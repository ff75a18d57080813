"""Time stamps of a real authority (`openssl ts`): good ones count, every other kind is refused by its own name."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from rfc3161_client import TimestampRequestBuilder
from rfc3161_client.base import HashAlgorithm

from registry.signing.encoding import to_base64
from registry.signing.keys import generate
from registry.signing.oms import sign_model, verify_model, verify_signature
from registry.signing.stamp_claims import signature_of, with_stamps
from registry.signing.timestamps import (
    MAX_STAMP_BYTES,
    VerifiedStamp,
    authority,
    check_answer,
    judge_stamps,
    make_request,
    read_authorities,
    verify_stamp,
)
from registry.signing.trust import format_trust, parse_trust
from tests.registry.signing.authority import DAY, NOW, Authority, ec_key, new_root
from tests.registry.signing.models import KEY_ONE, TINY, write_tree
from tests.stamping_authority import LocalTsa, new_tsa
from watermark.errors import (
    DigestError,
    DocumentError,
    ExpiredKeyError,
    InputError,
    LimitError,
    SignatureError,
    UnavailableError,
    UntrustedKeyError,
    WeightmarkError,
)

MESSAGE = b"the bytes of a signature"


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> LocalTsa:
    return new_tsa(tmp_path_factory.mktemp("tsa") / "clock")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> LocalTsa:
    return new_tsa(tmp_path_factory.mktemp("tsa") / "other", "other")


@pytest.fixture(scope="module")
def stamp(tsa: LocalTsa) -> bytes:
    return tsa.stamp(MESSAGE)


def test_a_good_stamp_says_when_and_by_whom(tsa: LocalTsa, other: LocalTsa, stamp: bytes) -> None:
    found = verify_stamp(stamp, MESSAGE, [other.trusted, tsa.trusted])
    assert (found.tsa, found.policy, found.source) == ("clock", "1.3.6.1.4.1.99999.1", "rfc3161 clock")
    assert abs(found.time - datetime.now(UTC)) < timedelta(minutes=10)
    assert found.latest - found.time == timedelta(seconds=1)
    assert found.time.tzinfo is not None


def refused(stamp: bytes, message: bytes, *trusted: object) -> tuple[str, str]:
    with pytest.raises(WeightmarkError) as caught:
        verify_stamp(stamp, message, trusted)  # type: ignore[arg-type]
    assert caught.value.hint
    return type(caught.value).__name__, caught.value.code


def test_wrong_stamps_have_each_their_own_refusal(tsa: LocalTsa, other: LocalTsa, stamp: bytes) -> None:
    assert refused(stamp, MESSAGE + b"!", tsa.trusted) == (DigestError.__name__, "stamp-imprint")
    assert refused(stamp, MESSAGE, other.trusted) == (UntrustedKeyError.__name__, "untrusted-tsa")
    assert refused(stamp, MESSAGE) == (UntrustedKeyError.__name__, "untrusted-tsa")
    namesake = authority("clock", new_root("clock root").certificate.public_bytes(Encoding.DER))
    assert refused(stamp, MESSAGE, namesake) == (UntrustedKeyError.__name__, "untrusted-tsa")
    for broken in (b"", b"\x30", stamp[:-1], stamp + b"\0", b"-----BEGIN", stamp[40:]):
        assert refused(broken, MESSAGE, tsa.trusted) == (DocumentError.__name__, "stamp-form")
    assert refused(bytes(MAX_STAMP_BYTES + 1), MESSAGE, tsa.trusted) == (LimitError.__name__, "stamp-size")
    with pytest.raises(SignatureError, match="nonce") as caught:
        verify_stamp(stamp, MESSAGE, [tsa.trusted], nonce=7)
    assert caught.value.code == "stamp-nonce"


@pytest.mark.parametrize(("start", "end"), [(-3, -2), (2, 3)])
def test_the_authority_must_have_been_valid_when_it_stamped(tmp_path: Path, start: int, end: int) -> None:
    tsa = new_tsa(tmp_path / "tsa", start=NOW + start * DAY, end=NOW + end * DAY)
    assert refused(tsa.stamp(MESSAGE), MESSAGE, tsa.trusted) == (ExpiredKeyError.__name__, "tsa-certificate-time")


def test_an_expired_root_gives_no_time(tmp_path: Path) -> None:
    tsa = new_tsa(tmp_path / "tsa", root=new_root("old", start=NOW - 3 * DAY, end=NOW - 2 * DAY))
    assert refused(tsa.stamp(MESSAGE), MESSAGE, tsa.trusted) == (ExpiredKeyError.__name__, "tsa-certificate-time")


def bare_stamp(tsa: LocalTsa) -> bytes:
    """A stamp that leaves its signer's certificate out."""
    request = TimestampRequestBuilder().data(MESSAGE).hash_algorithm(HashAlgorithm.SHA512).build()
    with_certificates = request.as_bytes()
    assert with_certificates.endswith(b"\x01\x01\xff")  # certReq TRUE, the last field; absent means FALSE
    without = bytearray(with_certificates[:-3])
    without[1] -= 3
    return tsa.reply(bytes(without))


def twin(tsa: LocalTsa, *extensions: tuple[x509.ExtensionType, bool]) -> bytes:
    """The signer's certificate of an authority once more, with other extensions."""
    real = x509.load_pem_x509_certificate((tsa.folder / "tsa.pem").read_bytes())
    builder = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(real.issuer)
        .public_key(real.public_key())
        .serial_number(real.serial_number)
        .not_valid_before(real.not_valid_before_utc)
        .not_valid_after(real.not_valid_after_utc)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(tsa.root.key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_only_a_certificate_for_time_stamping_alone_may_stamp(tsa: LocalTsa) -> None:
    bare = bare_stamp(tsa)
    assert refused(bare, MESSAGE, tsa.trusted) == (UntrustedKeyError.__name__, "untrusted-tsa")
    stamping, code = ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING
    good = twin(tsa, (x509.ExtendedKeyUsage([stamping]), True))
    assert verify_stamp(bare, MESSAGE, [replace(tsa.trusted, others=(good,))]).tsa == "clock"
    for extensions in (
        [],
        [(x509.ExtendedKeyUsage([code]), True)],
        [(x509.ExtendedKeyUsage([stamping, code]), True)],
        [(x509.ExtendedKeyUsage([stamping]), False)],
    ):
        wrong = replace(tsa.trusted, others=(twin(tsa, *extensions),))
        assert refused(bare, MESSAGE, wrong) == (SignatureError.__name__, "tsa-certificate-usage")


def test_intermediate_of_the_authority_may_come_from_the_reader(tmp_path: Path) -> None:
    root = new_root("top")
    tsa = new_tsa(tmp_path / "tsa", root=root.subordinate("middle"))
    below = [tsa.root.certificate.public_bytes(Encoding.DER)]
    top = authority("clock", root.certificate.public_bytes(Encoding.DER))
    stamp = tsa.stamp(MESSAGE)
    assert refused(stamp, MESSAGE, top) == (UntrustedKeyError.__name__, "untrusted-tsa")
    assert verify_stamp(stamp, MESSAGE, [replace(top, others=tuple(below))]).tsa == "clock"
    with pytest.raises(InputError, match="not a root"):
        authority("clock", below[0])


def test_whoever_is_no_ca_makes_no_authority(tmp_path: Path) -> None:
    """A signer below a certificate of the same root that may issue none: signatures lead up, which is not enough."""
    root = new_root("top")
    tsa = new_tsa(tmp_path / "tsa", root=root.subordinate("no ca", ca=False))
    top = authority("clock", root.certificate.public_bytes(Encoding.DER))
    below = (tsa.root.certificate.public_bytes(Encoding.DER),)
    refusal = refused(tsa.stamp(MESSAGE), MESSAGE, replace(top, others=below))
    assert refusal == (SignatureError.__name__, "stamp-signature")


def test_no_changed_byte_makes_another_stamp(tsa: LocalTsa, stamp: bytes) -> None:
    """Fields that nobody signs may differ; what counts must not, and nothing foreign may be raised."""
    trusted, good = [tsa.trusted], verify_stamp(stamp, MESSAGE, [tsa.trusted])
    accepted = 0
    for at in range(len(stamp)):
        changed = stamp[:at] + bytes([stamp[at] ^ (1 << at % 8)]) + stamp[at + 1 :]
        try:
            found = verify_stamp(changed, MESSAGE, trusted)
        except WeightmarkError:
            continue
        assert found == good, at
        accepted += 1
    assert accepted < 25


def test_answers_must_be_to_this_request(tsa: LocalTsa) -> None:
    request = make_request(MESSAGE)
    check_answer(tsa.reply(request.der), request)
    with pytest.raises(DigestError):
        check_answer(tsa.stamp(b"other bytes"), request)
    with pytest.raises(SignatureError, match="nonce"):
        check_answer(tsa.stamp(MESSAGE), request)
    (tsa.folder / "tsa.cnf").write_text((tsa.folder / "tsa.cnf").read_text().replace("sha256, sha384", "sha384"))
    with pytest.raises(UnavailableError, match="refuses"):
        check_answer(tsa.reply(request.der), request)
    (tsa.folder / "tsa.cnf").write_text((tsa.folder / "tsa.cnf").read_text().replace("= sha384", "= sha256, sha384"))


def test_two_authorities_the_earliest_counts_and_strangers_are_told(tsa: LocalTsa, other: LocalTsa) -> None:
    stamps = [other.stamp(MESSAGE), tsa.stamp(MESSAGE)]
    found = judge_stamps(stamps, MESSAGE, [tsa.trusted, other.trusted], what="it")
    assert {stamp.tsa for stamp in found.verified} == {"clock", "other"}
    assert found.verified[0].latest <= found.verified[1].latest
    assert found.notes == ()
    found = judge_stamps(stamps, MESSAGE, [tsa.trusted], what="it")
    assert [stamp.tsa for stamp in found.verified] == ["clock"]
    assert len(found.notes) == 1
    assert "not trusted" in found.notes[0]
    assert judge_stamps(stamps, MESSAGE, [], what="it").notes == (
        "it: 2 time stamps not looked at, since no authority is trusted",
    )
    with pytest.raises(DigestError, match="it: the stamp of clock"):
        judge_stamps([stamps[0], tsa.stamp(b"other")], MESSAGE, [tsa.trusted], what="it")


def test_latest_time_counts_the_accuracy() -> None:
    rough = VerifiedStamp(NOW, "a", "1.2", 1, timedelta(hours=1))
    assert rough.latest == NOW + timedelta(hours=1)


def test_trust_file_names_authorities(tsa: LocalTsa) -> None:
    trust = parse_trust(f"{tsa.line}\n")
    assert trust.authorities == (tsa.trusted,)
    assert parse_trust(format_trust(trust)) == trust
    for text, where in (
        ("tsa clock", "line 1"),
        (f"\n{tsa.line} more", "line 2"),
        ("tsa clock AAAA", "line 1"),
        (f"{tsa.line}\n{tsa.line}", "line 2"),
        ("tsa clock !!", "line 1"),
    ):
        with pytest.raises(DocumentError, match=where):
            parse_trust(text)
    (found,) = read_authorities(tsa.root_pem)
    assert (found.name, found.root) == ("clock root", tsa.trusted.root)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "model", TINY)


def certified(model: Path, *, start: datetime, end: datetime) -> tuple[bytes, Authority]:
    root, key = new_root(start=NOW - 400 * DAY, end=NOW + 400 * DAY), generate()
    leaf = root.issue("signer", ec_key(key).public_key(), start=start, end=end)
    bundle = sign_model(model, key, certificates=[leaf]).bundle
    (model / "model.sig").write_bytes(bundle)
    return bundle, root


def test_certificate_that_expired_after_the_stamp_verifies(model: Path, tsa: LocalTsa) -> None:
    bundle, root = certified(model, start=NOW - DAY, end=NOW + DAY)
    stamped = with_stamps(bundle, [tsa.stamp(signature_of(bundle))])
    later, roots, trusted = NOW + 5 * DAY, [root.certificate], [tsa.trusted]
    with pytest.raises(ExpiredKeyError):
        verify_model(model, bundle, roots=roots, at=later, authorities=trusted)
    with pytest.raises(ExpiredKeyError):
        verify_model(model, stamped, roots=roots, at=later)
    assert verify_model(model, stamped, roots=roots, at=later, authorities=trusted).signed_by == "CN=signer"
    signed = verify_signature(stamped, roots=roots, at=later, authorities=trusted)
    assert [stamp.tsa for stamp in signed.stamps.verified] == ["clock"]
    assert signed.pae_sha256 == verify_signature(bundle, roots=roots).pae_sha256


@pytest.mark.parametrize(("start", "end"), [(-5, -1), (1, 5)])
def test_certificate_not_valid_at_the_stamp_is_refused_though_valid_now(
    model: Path, tsa: LocalTsa, start: int, end: int
) -> None:
    bundle, root = certified(model, start=NOW + start * DAY, end=NOW + end * DAY)
    stamped = with_stamps(bundle, [tsa.stamp(signature_of(bundle))])
    inside = NOW + (start + 1) * DAY
    verify_signature(bundle, roots=[root.certificate], at=inside)
    with pytest.raises(ExpiredKeyError):
        verify_signature(stamped, roots=[root.certificate], at=inside, authorities=[tsa.trusted])


def test_stamps_swapped_between_two_bundles_are_refused(tmp_path: Path, tsa: LocalTsa, other: LocalTsa) -> None:
    bundles = [
        sign_model(write_tree(tmp_path / name, {"w": name.encode()}), KEY_ONE).bundle for name in ("first", "second")
    ]
    stamps = [tsa.stamp(signature_of(bundle)) for bundle in bundles]
    for bundle, stamp in zip(bundles, stamps, strict=True):
        verify_signature(with_stamps(bundle, [stamp]), key=KEY_ONE.public, authorities=[tsa.trusted])
    swapped = with_stamps(bundles[0], [stamps[1]])
    with pytest.raises(DigestError, match="other bytes") as caught:
        verify_signature(swapped, key=KEY_ONE.public, authorities=[tsa.trusted])
    assert caught.value.code == "stamp-imprint"
    passed = verify_signature(swapped, key=KEY_ONE.public, authorities=[other.trusted])
    assert passed.stamps.verified == ()
    assert "not trusted" in passed.stamps.notes[0]


def test_bundles_hold_stamps_as_sigstore_clients_do(model: Path, tsa: LocalTsa) -> None:
    plain = sign_model(model, KEY_ONE).bundle
    assert b"timestampVerificationData" not in plain
    stamp = tsa.stamp(signature_of(plain))
    document = json.loads(with_stamps(plain, [stamp]))
    data = document["verificationMaterial"]["timestampVerificationData"]
    assert data == {"rfc3161Timestamps": [{"signedTimestamp": to_base64(stamp)}]}
    for wrong in (
        [],
        {"rfc3161Timestamps": {}},
        {"rfc3161Timestamps": [{}]},
        {"rfc3161Timestamps": [{"signedTimestamp": "!"}]},
        {"rfc3161Timestamps": [{"signedTimestamp": "AA==", "more": 1}]},
        {"rfc3161Timestamps": [{"signedTimestamp": "AA=="}] * 17},
    ):
        document["verificationMaterial"]["timestampVerificationData"] = wrong
        with pytest.raises(DocumentError):
            verify_signature(json.dumps(document).encode(), key=KEY_ONE.public)
