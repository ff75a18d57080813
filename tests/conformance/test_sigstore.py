"""Keyless signatures: the same verdict as sigstore-python and model-signing 1.1.1, offline, on good and broken bundles.

Where the verdicts differ the difference is named: what they let pass and we do not, and what they do not read.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from registry.signing.comparison import compare
from registry.signing.oms import sign_model
from registry.sigstore.trusted_root import parse_trusted_root, read_trusted_root
from registry.sigstore.verify import verify_keyless
from tests.registry.signing.models import KEY_ONE, TINY, write_tree
from tests.registry.sigstore.instance import IDENTITY, ISSUER, V2, Recipe, encode
from tests.registry.sigstore.variants import BROKEN, GOOD, HERE, STRICTER, WIDER, Attempt, Variant
from watermark.errors import DigestError, WeightmarkError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

IN_TOTO = "application/vnd.in-toto+json"


def we_accept(at: Attempt) -> bool:
    try:
        root = parse_trusted_root(encode(at.root))
        verify_keyless(encode(at.bundle), root, identity=at.identity, issuer=at.issuer)
    except WeightmarkError:
        return False
    return True


def they_accept(at: Attempt) -> bool:
    """sigstore-python, and the payload type as model-signing checks it. Anything that it raises is a refusal."""
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier, policy
    from sigstore_models.trustroot import v1

    try:
        # Their reader knows v0.2 of the document, but the class around it only v0.1: give the media type it takes.
        inner = v1.TrustedRoot.from_json(encode({**at.root, "mediaType": HERE.trusted_root()["mediaType"]}))
        verifier = Verifier(trusted_root=TrustedRoot(inner))
        bundle = Bundle.from_json(encode(at.bundle))
        kind, _ = verifier.verify_dsse(bundle, policy.Identity(identity=at.identity, issuer=at.issuer))
    except Exception:  # noqa: BLE001  whatever they raise, they did not accept
        return False
    return kind == IN_TOTO


@pytest.mark.parametrize("variant", [*GOOD, *BROKEN], ids=lambda variant: variant.name)
def test_same_verdict_as_sigstore_python(variant: Variant) -> None:
    at = variant.make()
    assert we_accept(at) == (variant.code is None)
    assert they_accept(at) == (variant.code is None)


def test_there_is_enough_to_agree_on() -> None:
    assert len(BROKEN) >= 20
    assert len(GOOD) >= 4


@pytest.mark.parametrize("variant", STRICTER, ids=lambda variant: variant.name)
def test_what_they_let_pass_and_we_do_not(variant: Variant) -> None:
    at = variant.make()
    assert they_accept(at)
    assert not we_accept(at)


@pytest.mark.parametrize("variant", WIDER, ids=lambda variant: variant.name)
def test_what_we_read_and_they_do_not(variant: Variant) -> None:
    at = variant.make()
    assert not they_accept(at)
    assert we_accept(at)


def client_trust_config(path: Path) -> Path:
    service = {
        "url": "https://x.example",
        "majorApiVersion": 1,
        "operator": "x",
        "validFor": {"start": "2020-01-01T00:00:00Z"},
    }
    signing = {
        "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
        "caUrls": [service],
        "oidcUrls": [service],
        "rekorTlogUrls": [service],
        "tsaUrls": [service],
        "rekorTlogConfig": {"selector": "ANY"},
        "tsaConfig": {"selector": "ANY"},
    }
    document = {
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": HERE.trusted_root(),
        "signingConfig": signing,
    }
    path.write_text(json.dumps(document))
    return path


def signed_folder(folder: Path, recipe: Recipe) -> Path:
    """A model whose `model.sig` is keyless, over the payload that we would sign."""
    model = write_tree(folder / "model", TINY)
    bundle = json.loads(sign_model(model, KEY_ONE).bundle)
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    (model / "model.sig").write_bytes(encode(HERE.sign(payload, recipe)))
    return model


@pytest.mark.parametrize("recipe", [Recipe(), V2], ids=["rekor v1", "rekor v2"])
def test_model_signing_accepts_the_same_folder(tmp_path: Path, recipe: Recipe) -> None:
    from model_signing import verifying
    from sigstore.errors import VerificationError

    model = signed_folder(tmp_path, recipe)
    signature = model / "model.sig"
    config = client_trust_config(tmp_path / "config.json")

    def theirs(identity: str) -> None:
        verifying.Config().use_sigstore_verifier(identity=identity, oidc_issuer=ISSUER, trust_config=config).verify(
            model, signature
        )

    def ours(identity: str) -> None:
        root = parse_trusted_root(encode(HERE.trusted_root()))
        found = verify_keyless(signature.read_bytes(), root, identity=identity, issuer=ISSUER)
        compare(model, found.signed)

    for verify, refusal in ((theirs, (ValueError, VerificationError)), (ours, WeightmarkError)):
        verify(IDENTITY)
        with pytest.raises(refusal):
            verify("thief@models.example")
    (model / next(iter(TINY))).write_bytes(b"changed")
    for verify, refusal in ((theirs, ValueError), (ours, DigestError)):
        with pytest.raises(refusal):
            verify(IDENTITY)


@pytest.mark.parametrize("instance", ["sigstore.dev", "sigstage.dev"])
def test_the_public_trusted_roots_are_read(instance: str) -> None:
    import sigstore

    (path,) = Path(sigstore.__file__).parent.glob(f"_store/*{instance}/trusted_root.json")
    root = read_trusted_root(path)
    document: dict[str, Any] = json.loads(path.read_bytes())
    assert [log.url for log in root.logs] == [log["baseUrl"] for log in document["tlogs"]]
    assert len(root.certificate_logs) == len(document["ctlogs"])
    assert [len(one.chain) for one in root.authorities] == [
        len(one["certChain"]["certificates"]) for one in document["certificateAuthorities"]
    ]
    assert all(log.key is not None for log in root.logs)
    # The one RSA key, of a test log that ended in 2022, is known by name only.
    assert [log.key_details for log in root.certificate_logs if log.key is None] in ([], ["PKCS1_RSA_PKCS1V5"])
