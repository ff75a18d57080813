"""Stamped bundles in other hands: model-signing takes them, Sigstore reads them, `openssl ts` verifies the stamps."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from registry.signing.bundle import read_bundle
from registry.signing.keys import generate
from registry.signing.oms import sign_model
from registry.signing.stamp_claims import signature_of, with_stamps
from registry.signing.timestamps import verify_stamp
from tests.conformance.test_model_signing import key_files, their_verify_by_certificate, their_verify_by_key
from tests.registry.signing.authority import ec_key, new_root, write_certificates
from tests.registry.signing.models import TINY, write_tree
from tests.stamping_authority import LocalTsa, new_tsa, openssl
from watermark.errors import DigestError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def tsa(tmp_path: Path) -> LocalTsa:
    return new_tsa(tmp_path / "tsa")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "model", TINY)


def test_they_verify_stamped_signatures_by_key_and_by_certificate(tmp_path: Path, model: Path, tsa: LocalTsa) -> None:
    key, root = generate(), new_root()
    _, public = key_files(tmp_path, key)
    leaf = root.issue("signer", ec_key(key).public_key())
    signature = model / "model.sig"
    for certificates in ((), (leaf,)):
        bundle = sign_model(model, key, certificates=certificates).bundle
        signature.write_bytes(with_stamps(bundle, [tsa.stamp(signature_of(bundle))]))
        if certificates:
            their_verify_by_certificate(model, signature, write_certificates(tmp_path / "root.pem", root.certificate))
        else:
            their_verify_by_key(model, signature, public)


def test_sigstore_reads_the_stamps_that_we_write(model: Path, tsa: LocalTsa) -> None:
    from sigstore_models.bundle.v1 import Bundle

    plain = sign_model(model, generate()).bundle
    stamp = tsa.stamp(signature_of(plain))
    theirs = Bundle.from_json(with_stamps(plain, [stamp]))
    data = theirs.verification_material.timestamp_verification_data
    assert [bytes(one.signed_timestamp) for one in data.rfc3161_timestamps] in ([stamp], [_base64(stamp)])


def _base64(data: bytes) -> bytes:
    from base64 import b64encode

    return b64encode(data)


def test_openssl_verifies_and_refuses_as_we_do(tmp_path: Path, model: Path, tsa: LocalTsa) -> None:
    plain = sign_model(model, generate()).bundle
    bundle = read_bundle(with_stamps(plain, [tsa.stamp(signature_of(plain))]))
    message, other = bundle.envelope.signatures[0].sig, b"other bytes"
    (tmp_path / "stamp.tsr").write_bytes(bundle.stamps[0])
    for data in (message, other):
        (tmp_path / "data").write_bytes(data)
        command = [openssl(), "ts", "-verify", "-data", "data", "-in", "stamp.tsr", "-CAfile", tsa.root_pem]
        theirs = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
        assert theirs == (data == message)
    assert verify_stamp(bundle.stamps[0], message, [tsa.trusted]).tsa == "clock"
    with pytest.raises(DigestError):
        verify_stamp(bundle.stamps[0], other, [tsa.trusted])
