"""What the OMS conformance suite does with an implementation: its two commands, its flags, the exit status."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cli.commands_conformance import spread_lists
from cli.conformance import below_root
from registry.signing.bundle import read_bundle
from registry.signing.keys import P256, P384, P521, PrivateKey, generate
from tests.cli.command import Finished, weightmark, weightmark_process
from tests.conformance.test_old_bundles import CHAIN, OLD, pem
from tests.conformance.test_old_bundles import FILES as OLD_FILES
from tests.registry.signing.authority import NOW, Authority, ec_key, new_root, write_certificates
from tests.registry.signing.models import write_tree
from watermark.errors import InputError

SIMPLE = {"signme-1": b"signme-1\n", "signme-2": b"signme-2\n", "ignore-me": b"ignore\n"}
DAY = timedelta(days=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "model", SIMPLE)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "bundle.sig"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_key(tmp_path / "keys", generate(P384))


def write_key(folder: Path, key: PrivateKey) -> Path:
    """Keys as the suite keeps them: unencrypted files that everybody may read."""
    folder.mkdir(exist_ok=True)
    (folder / "key.pem").write_bytes(key.to_pem(None))
    (folder / "key.pem").chmod(0o644)
    (folder / "key.pub").write_text(key.public.pem)
    return folder


def by_key(model: Path, bundle: Path, keys: Path, *more: str | Path) -> Finished:
    return weightmark(
        *("sign-model", "--method", "key", "--model-path", model, "--output-bundle", bundle),
        *("--private-key", keys / "key.pem", *more),
        passphrase=None,
    )


def verified_by_key(model: Path, bundle: Path, keys: Path, *more: str | Path) -> Finished:
    return weightmark(
        *("verify-model", "--method", "key", "--model-path", model, "--bundle", bundle),
        *("--public-key", keys / "key.pub", *more),
        passphrase=None,
    )


def signed_names(bundle: Path) -> list[str]:
    statement = json.loads(read_bundle(bundle.read_bytes()).envelope.payload)
    resources = statement["predicate"]["resources"]
    joined = b"".join(bytes.fromhex(one["digest"]) for one in resources)
    assert statement["subject"][0]["digest"]["sha256"] == hashlib.sha256(joined).hexdigest()
    assert "shard_size" not in statement["predicate"]["serialization"]
    names = [one["name"] for one in resources]
    assert names == sorted(names)
    return names


@pytest.mark.parametrize("algorithm", [P256, P384, P521])
def test_key_method_from_end_to_end(model: Path, bundle: Path, tmp_path: Path, algorithm: str) -> None:
    keys = write_key(tmp_path / "keys", generate(algorithm))
    ignore = ("--ignore-paths", model / "ignore-me")
    assert by_key(model, bundle, keys, *ignore).code == 0
    assert signed_names(bundle) == ["signme-1", "signme-2"]
    assert json.loads(bundle.read_bytes())["verificationMaterial"]["publicKey"]["hint"]
    assert verified_by_key(model, bundle, keys, *ignore).code == 0
    assert verified_by_key(model, bundle, keys).code == 0


def test_it_works_as_a_process_of_its_own(model: Path, bundle: Path, keys: Path) -> None:
    start = (sys.executable, "-m", "cli.main")
    arguments = ("--method", "key", "--model-path", model)
    signed = weightmark_process(
        *("sign-model", *arguments, "--output-bundle", bundle, "--private-key", keys / "key.pem"),
        passphrase=None,
        start=start,
    )
    assert signed.code == 0, signed.err
    for expected, content in ((0, SIMPLE["signme-1"]), (1, b"tampered")):
        (model / "signme-1").write_bytes(content)
        checked = weightmark_process(
            *("verify-model", *arguments, "--bundle", bundle, "--public-key", keys / "key.pub"), passphrase=None
        )
        assert checked.code == expected


def test_the_two_commands_are_not_listed() -> None:
    assert "sign-model" not in weightmark("--help").out
    assert "--ignore-paths" in weightmark("verify-model", "--help").out


MODELS: dict[str, tuple[dict[str, bytes], list[str]]] = {
    "nested": ({"weights.bin": b"w", "config.json": b"{}", "subdir/adapter.bin": b"a"}, []),
    "git paths": ({"model.bin": b"m", ".git/HEAD": b"", ".github/ci.yml": b"", ".gitignore": b""}, ["model.bin"]),
    "nested git paths": ({"model.bin": b"m", "subdir/.gitignore": b"x"}, []),
    "dot files": ({".config": b"", ".env.example": b"", "model.bin": b"m", ".cache/w.bin": b"", ".local/d": b""}, []),
    "unicode": ({"weights.bin": b"w", "模型.bin": b"m"}, []),
    "odd names": ({"file (copy).bin": b"", "path with spaces/model.bin": b"m"}, []),
    "empty file": ({"empty.bin": b"", "signme-1": b"x"}, []),
    "binary": ({"weights.bin": bytes(range(256)), "header.bin": b"\x89PNG\r\n\x1a\n\x00"}, []),
    "deep": ({"a/very/deep/directory/tree/w": b"w"}, []),
}


@pytest.mark.parametrize(("files", "expected"), MODELS.values(), ids=MODELS.keys())
def test_models_of_every_shape(
    tmp_path: Path, bundle: Path, keys: Path, files: dict[str, bytes], expected: list[str]
) -> None:
    model = write_tree(tmp_path / "m", files)
    assert by_key(model, bundle, keys).code == 0
    assert signed_names(bundle) == (expected or sorted(files))
    again = tmp_path / "again.sig"
    assert by_key(model, again, keys).code == 0
    assert again.read_bytes() == bundle.read_bytes()
    assert verified_by_key(model, bundle, keys).code == 0


def test_a_single_file(tmp_path: Path, bundle: Path, keys: Path) -> None:
    model = write_tree(tmp_path / "m", {"model.bin": b"m", "beside": b""}) / "model.bin"
    assert by_key(model, bundle, keys).code == 0
    assert signed_names(bundle) == ["model.bin"]
    ignore = ("--ignore-paths", model.parent / "ignore-me")
    assert verified_by_key(model, bundle, keys, *ignore).code == 0
    model.write_bytes(b"x")
    assert verified_by_key(model, bundle, keys, *ignore).code == 1


def test_a_bundle_inside_the_model(model: Path, keys: Path) -> None:
    inside = model / "bundle.sig"
    assert by_key(model, inside, keys).code == 0
    assert "bundle.sig" not in signed_names(inside)
    assert verified_by_key(model, inside, keys).code == 0


def test_ignored_paths_match_exactly_and_from_the_root(tmp_path: Path, bundle: Path, keys: Path) -> None:
    model = write_tree(tmp_path / "m", {"signme-1": b"", "ignore-me": b"", "subdir/ignore-me": b""})
    assert by_key(model, bundle, keys, "--ignore-paths", model / "ignore-me").code == 0
    assert signed_names(bundle) == ["signme-1", "subdir/ignore-me"]


def test_unsigned_files_are_ignored_on_request_and_signed_ones_never(model: Path, bundle: Path, keys: Path) -> None:
    assert by_key(model, bundle, keys).code == 0
    (model / "injected.bin").write_bytes(b"")
    lenient = ("--ignore-unsigned-files",)
    assert verified_by_key(model, bundle, keys).code == 1
    assert verified_by_key(model, bundle, keys, *lenient).code == 0
    (model / "signme-1").write_bytes(b"tampered")
    assert verified_by_key(model, bundle, keys, *lenient).code == 1
    (model / "signme-1").write_bytes(SIMPLE["signme-1"])
    (model / "signme-2").unlink()
    assert verified_by_key(model, bundle, keys, *lenient).code == 1


def refused_models(tmp_path: Path) -> dict[str, Path]:
    empty = write_tree(tmp_path / "empty", {".gitignore": b"x"})
    inner, outer, cycle = (write_tree(tmp_path / name, SIMPLE) for name in ("inner", "outer", "cycle"))
    (inner / "link").symlink_to("signme-1")
    (outer / "link").symlink_to("/tmp/nonexistent-target")
    (cycle / "loop").symlink_to(".")
    return {"empty": empty, "link": inner, "link outside": outer, "cycle": cycle, "absent": tmp_path / "absent"}


@pytest.mark.parametrize("name", ["empty", "link", "link outside", "cycle", "absent"])
def test_models_that_cannot_be_signed(tmp_path: Path, bundle: Path, keys: Path, name: str) -> None:
    assert by_key(refused_models(tmp_path)[name], bundle, keys).code == 2
    assert not bundle.exists()


def spoil(change: Callable[[dict[str, object]], object]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    return changed


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda data: b"{garbage" + data,
    "truncated": lambda data: data[:100],
    "empty": lambda data: b"",
    "media type": spoil(lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1")),
    "no signature": spoil(lambda d: d["dsseEnvelope"].update(signatures=[])),  # type: ignore[attr-defined]
    "no envelope": spoil(lambda d: d.pop("dsseEnvelope")),
}


@pytest.mark.parametrize("change", SPOILED.values(), ids=SPOILED.keys())
def test_spoiled_bundles(model: Path, bundle: Path, keys: Path, change: Callable[[bytes], bytes]) -> None:
    assert by_key(model, bundle, keys).code == 0
    bundle.write_bytes(change(bundle.read_bytes()))
    assert verified_by_key(model, bundle, keys).code in (1, 2)


def test_wrong_keys_and_methods(model: Path, bundle: Path, keys: Path, tmp_path: Path) -> None:
    assert by_key(model, bundle, keys).code == 0
    assert verified_by_key(model, bundle, write_key(tmp_path / "other", generate(P384))).code == 1
    roots = write_certificates(tmp_path / "ca.pem", new_root().certificate)
    place = ("--model-path", model, "--bundle", bundle)
    for arguments in (
        ("--method", "certificate", *place, "--cert-chain", roots),
        ("--method", "sigstore", *place, "--identity", "x", "--identity-provider", "y"),
        ("--method", "sigstore", *place),
        ("--method", "certificate", *place),
        ("--method", "key", *place),
        ("--method", "key", *place, "--public-key", tmp_path / "absent"),
    ):
        refused = weightmark("verify-model", *arguments, passphrase=None)
        assert refused.code in (1, 2), arguments
    for arguments in (("--method", "key"), ("--method", "certificate", "--private-key", keys / "key.pem")):
        assert weightmark("sign-model", *arguments, "--model-path", model, "--output-bundle", bundle).code == 2


class Pki:
    """A root, an intermediate and signers' certificates, written as PEM files."""

    def __init__(self, folder: Path, *, root: Authority | None = None, middle: dict[str, object] | None = None) -> None:
        self.folder = folder
        folder.mkdir()
        self.root = root or new_root()
        self.middle = self.root.subordinate("middle", **(middle or {}))
        self.key = generate(P384)
        write_key(folder, self.key)
        self.anchor = write_certificates(folder / "ca.pem", self.root.certificate)
        self.between = write_certificates(folder / "int.pem", self.middle.certificate)

    def leaf(self, **options: object) -> x509.Certificate:
        options = {"code_signing": True, **options}
        return self.middle.issue("signer", ec_key(self.key).public_key(), **options)  # type: ignore[arg-type]

    def sign(self, model: Path, bundle: Path, leaf: x509.Certificate, *chain: Path) -> int:
        certificate = write_certificates(self.folder / "leaf.pem", leaf)
        return weightmark(
            *("sign-model", "--method", "certificate", "--model-path", model, "--output-bundle", bundle),
            *("--private-key", self.folder / "key.pem", "--signing-cert", certificate),
            *(("--cert-chain", *chain) if chain else ()),
            passphrase=None,
        ).code

    def verify(self, model: Path, bundle: Path, *roots: Path) -> int:
        return weightmark(
            *("verify-model", "--method", "certificate", "--model-path", model, "--bundle", bundle),
            *("--cert-chain", *roots),
            passphrase=None,
        ).code


def test_certificate_method_from_end_to_end(model: Path, bundle: Path, tmp_path: Path) -> None:
    pki = Pki(tmp_path / "pki")
    assert pki.sign(model, bundle, pki.leaf(), pki.between, pki.anchor) == 0
    assert pki.verify(model, bundle, pki.anchor) == 0
    assert pki.verify(model, bundle, pki.between, pki.anchor) == 0
    assert pki.verify(model, bundle, Pki(tmp_path / "wrong").anchor) == 1
    assert verified_by_key(model, bundle, pki.folder).code == 1
    (model / "signme-1").write_bytes(b"tampered")
    assert pki.verify(model, bundle, pki.anchor) == 1


def test_a_self_signed_certificate_that_the_reader_names(model: Path, bundle: Path, tmp_path: Path) -> None:
    pki = Pki(tmp_path / "pki")
    own = Authority("self", ec_key(pki.key), pki.root.certificate)
    for code_signing in (True, False):
        leaf = own.issue("self", ec_key(pki.key).public_key(), code_signing=code_signing)
        assert pki.sign(model, bundle, leaf) == 0
        assert pki.verify(model, bundle, write_certificates(tmp_path / "self.pem", leaf)) == 0
        assert pki.verify(model, bundle, pki.anchor) == 1


@pytest.mark.parametrize(("start", "end"), [(NOW - 2 * DAY, NOW - DAY), (NOW + DAY, NOW + 2 * DAY)])
def test_certificates_outside_their_time(
    model: Path, bundle: Path, tmp_path: Path, start: datetime, end: datetime
) -> None:
    times = {"start": start, "end": end}
    leaf = Pki(tmp_path / "leaf")
    assert leaf.sign(model, bundle, leaf.leaf(**times), leaf.between) == 0
    assert leaf.verify(model, bundle, leaf.anchor) == 1
    middle = Pki(tmp_path / "middle", middle=dict(times))
    assert middle.sign(model, bundle, middle.leaf(), middle.between) == 0
    assert middle.verify(model, bundle, middle.anchor) == 1
    root = Pki(tmp_path / "root", root=new_root(start=start, end=end))
    assert root.sign(model, bundle, root.leaf(), root.between) == 0
    assert root.verify(model, bundle, root.anchor) == 1
    # All out of date, so that a verifier that asks the leaf for the time finds everything in order.
    past = Pki(tmp_path / "all", root=new_root(start=start, end=end), middle=dict(times))
    assert past.sign(model, bundle, past.leaf(**times), past.between) == 0
    assert past.verify(model, bundle, past.anchor) == 1


def test_certificates_that_are_not_for_code(model: Path, bundle: Path, tmp_path: Path) -> None:
    pki = Pki(tmp_path / "pki")
    for options in ({"digital_signature": True}, {"digital_signature": False}):
        signed = pki.sign(model, bundle, pki.leaf(code_signing=False, **options), pki.between)
        assert signed != 0 or pki.verify(model, bundle, pki.anchor) == 1


@pytest.mark.parametrize("name", OLD)
def test_old_bundles_with_what_the_suite_says_beside_them(tmp_path: Path, bundle: Path, name: str) -> None:
    model = write_tree(tmp_path / "m", {**OLD_FILES, "ignore-me": b"anything"})
    bundle.write_bytes(OLD[name][0])
    (tmp_path / "key.pub").write_bytes(pem())
    roots = write_certificates(tmp_path / "ca.pem", CHAIN.root)
    method = "certificate" if "certificate" in name else "key"
    trust = ("--cert-chain", roots) if method == "certificate" else ("--public-key", tmp_path / "key.pub")
    arguments = ("verify-model", "--method", method, "--model-path", model, "--bundle", bundle, *trust)
    assert weightmark(*arguments, "--ignore-paths", model / "ignore-me", passphrase=None).code == 0
    (model / "signme-1").write_bytes(b"tampered")
    assert weightmark(*arguments, "--ignore-paths", model / "ignore-me", passphrase=None).code == 1


def test_lists_after_one_flag_or_repeated() -> None:
    once = ["verify-model", "--cert-chain", "a", "b", "--ignore-paths", "x", "y", "z", "--method", "key"]
    repeated = [
        *("verify-model", "--cert-chain", "a", "--cert-chain", "b"),
        *("--ignore-paths", "x", "--ignore-paths", "y", "--ignore-paths", "z", "--method", "key"),
    ]
    assert spread_lists(once) == spread_lists(repeated) == repeated
    assert spread_lists(["verify", "m", "--cert-chain", "a", "b"]) == ["verify", "m", "--cert-chain", "a", "b"]
    assert spread_lists([]) == []


def test_ignored_paths_on_the_disk_become_paths_of_the_model(tmp_path: Path) -> None:
    model = write_tree(tmp_path / "real", {"a": b""})
    (tmp_path / "link").symlink_to(model)
    for root in (model, tmp_path / "link"):
        for path in (f"{root}/a", f"{root}/./a", f"{root}/b/../a", f"{model}/a", "a", "./a"):
            assert below_root(root, [path]) == ("a",)
        assert below_root(root, [f"{tmp_path}/elsewhere", f"{root}-too/a", "/etc", "../x"]) == ()
        assert below_root(root, [f"{root}/a", f"{model}/a", f"{root}/s/t"]) == ("a", "s/t")
        for whole in (str(root), f"{root}/", f"{root}/x/..", ".", str(model)):
            with pytest.raises(InputError, match="whole model"):
                below_root(root, [whole])


def test_ignoring_everything_is_refused(model: Path, bundle: Path, keys: Path) -> None:
    assert by_key(model, bundle, keys, "--ignore-paths", model).code == 2
    assert by_key(model, bundle, keys, "--ignore-paths", *(model / name for name in SIMPLE)).code == 2
    shutil.copy(keys / "key.pem", model)
    assert by_key(model, bundle, keys, "--ignore-paths", *(model / name for name in SIMPLE)).code == 0
