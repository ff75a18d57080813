from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from registry.signing.bundle import read_bundle
from registry.signing.oms import SignedModel, sign_model, verify_model
from registry.signing.stated_digests import (
    GIT_LFS,
    SHA256SUMS,
    StatedDigest,
    parse_checksum_list,
    parse_lfs_pointer,
    read_stated_digests,
)
from tests.registry.signing.models import KEY_ONE, SHARDED, write_tree
from watermark.errors import DigestError, DocumentError, InputError, PathEscapeError

ABC = hashlib.sha256(b"abc").hexdigest()
SHARD = "model-00001-of-00003.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "m", SHARDED)


def pointer(content: bytes) -> bytes:
    oid = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()


def sums(model: Path, *names: str) -> Path:
    path = model.parent / "SHA256SUMS"
    path.write_text("".join(f"{hashlib.sha256(SHARDED[name]).hexdigest()}  {name}\n" for name in names))
    return path


def sign(model: Path, *lists: Path, **options: object) -> tuple[SignedModel, int]:
    """The signature and how many bytes were read for it."""
    told: list[int] = []
    stated = {name: one for path in lists for name, one in read_stated_digests(path).items()}
    return sign_model(model, KEY_ONE, stated=stated, progress=told.append, **options), sum(told)  # type: ignore[arg-type]


def test_what_coreutils_write_is_read(tmp_path: Path) -> None:
    names = ["w", "a/b", "two words", "é", "star*", "back\\slash", "line\nbreak", "cr\r"]
    folder = write_tree(tmp_path / "m", dict.fromkeys(names[:5], b"abc"))
    for form in ([], ["--binary"], ["--tag"]):
        written = subprocess.run(["sha256sum", *form, *names[:5]], cwd=folder, capture_output=True, check=True).stdout
        assert parse_checksum_list(written) == dict.fromkeys(names[:5], StatedDigest(bytes.fromhex(ABC), SHA256SUMS))
    odd = write_tree(tmp_path / "odd", {"back\\slash": b"abc"})
    escaped = subprocess.run(["sha256sum", "back\\slash"], cwd=odd, capture_output=True, check=True).stdout
    with pytest.raises(PathEscapeError, match="backslash"):  # read rightly, and then no name for a model's file
        parse_checksum_list(escaped)


@pytest.mark.parametrize(
    "line",
    [f"{ABC}  ./w", f"{ABC} *w", f"{ABC.upper()}  w", f"# made by hand\n\n{ABC}  w\r", f"{ABC}  w\n{ABC}  ././w"],
)
def test_forms_of_one_entry(line: str) -> None:
    assert parse_checksum_list(line.encode()) == {"w": StatedDigest(bytes.fromhex(ABC), SHA256SUMS)}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# nothing",
        f"{ABC[:-1]}  w",
        f"{ABC} w",
        f"{ABC}  ",
        f"{'0' * 40}  w",
        f"{ABC}  w\n{'0' * 64}  w",
        f"MD5 (w) = {ABC[:32]}",
        f"{ABC}\tw",
        "\xff",
    ],
)
def test_other_lists_are_refused(line: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_checksum_list(line.encode("latin-1"))
    assert "sha256sum" in caught.value.hint


@pytest.mark.parametrize("name", ["../w", "/etc/passwd", "a/../w", "a//b", "a/", "."])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(PathEscapeError):
        parse_checksum_list(f"{ABC}  {name}".encode())


def test_lfs_pointers() -> None:
    good = pointer(b"abc")
    assert parse_lfs_pointer(good) == StatedDigest(bytes.fromhex(ABC), GIT_LFS, 3)
    with_extension = good.replace(b"oid", b"ext-0-foo sha256:" + b"0" * 64 + b"\noid", 1)
    assert parse_lfs_pointer(with_extension) == parse_lfs_pointer(good)
    for wrong in (
        b"",
        good[:-1],
        good + b"\n",
        good.replace(b"v1", b"v2"),
        good.replace(b"sha256", b"sha1"),
        b"x" + good,
    ):
        assert parse_lfs_pointer(wrong) is None
    assert parse_lfs_pointer(good.replace(b"size 3", b"size 03")) is None
    assert parse_lfs_pointer(good.replace(b"oid", b"ext-0-" + b"x" * 1000 + b"\noid", 1)) is None


def test_stated_files_are_not_read_and_are_marked(model: Path) -> None:
    signed, read = sign(model, sums(model, SHARD, "config.json"))
    plain = sign_model(model, KEY_ONE)
    assert read == sum(map(len, SHARDED.values())) - len(SHARDED[SHARD]) - len(SHARDED["config.json"])
    assert signed.root == plain.root
    assert signed.bundle != plain.bundle
    resources = json.loads(read_bundle(signed.bundle).envelope.payload)["predicate"]["resources"]
    marked = {one["name"]: one["annotations"] for one in resources if "annotations" in one}
    assert marked == {name: {"digest_stated_by": "sha256sums"} for name in (SHARD, "config.json")}
    verified = verify_model(model, signed.bundle, key=KEY_ONE.public)
    assert {one.name: one.stated_by for one in verified.resources if one.stated_by} == {
        SHARD: "sha256sums",
        "config.json": "sha256sums",
    }


def test_a_list_that_lies_makes_a_signature_that_never_holds(model: Path) -> None:
    path = sums(model, SHARD)
    path.write_text(path.read_text().replace(path.read_text()[:64], "0" * 64))
    signed, _ = sign(model, path)
    with pytest.raises(DigestError, match=SHARD):
        verify_model(model, signed.bundle, key=KEY_ONE.public)


def test_a_list_must_fit_the_model(model: Path) -> None:
    path = sums(model, SHARD, "config.json")
    (model / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json") as caught:
        sign(model, path)
    assert "this very folder" in caught.value.hint
    sign(model, path, ignore=("config.json",))
    write_tree(model, {"sub/x": b""})
    path.write_text(f"{ABC}  {SHARD}\n{ABC}  .gitignore\n{ABC}  sub/x\n")
    sign(model, path, ignore=("sub",))


def test_pointers_of_a_clone_beside_the_files(model: Path, tmp_path: Path) -> None:
    clone = write_tree(tmp_path / "clone", {SHARD: pointer(SHARDED[SHARD]), "config.json": SHARDED["config.json"]})
    signed, read = sign(model, clone)
    assert read == sum(map(len, SHARDED.values())) - len(SHARDED[SHARD])
    assert [one.stated_by for one in signed.manifest.resources if one.name == SHARD] == ["git-lfs"]
    verify_model(model, signed.bundle, key=KEY_ONE.public)
    (model / SHARD).write_bytes(SHARDED[SHARD][:-1])
    with pytest.raises(InputError, match="bytes, but its Git LFS pointer says") as caught:
        sign(model, clone)
    assert "git lfs pull" in caught.value.hint


def test_pointers_in_the_model_itself_stand_for_their_objects(model: Path, tmp_path: Path) -> None:
    """Signed without the objects being here at all; it holds for the model that has them."""
    clone = write_tree(tmp_path / "clone", {**SHARDED, SHARD: pointer(SHARDED[SHARD])})
    signed, _ = sign(clone, clone)
    verify_model(model, signed.bundle, key=KEY_ONE.public)
    with pytest.raises(DigestError, match=SHARD):
        verify_model(clone, signed.bundle, key=KEY_ONE.public)


def test_a_folder_without_pointers_states_nothing(model: Path) -> None:
    with pytest.raises(InputError, match="no Git LFS pointer"):
        read_stated_digests(model)


@pytest.mark.parametrize("annotations", [None, [], "x", {}, {"digest_stated_by": 1}, {"other": "x"}])
def test_others_annotations_are_passed_over(model: Path, annotations: object) -> None:
    from tests.registry.signing.test_oms import rewrite

    def annotate(payload: bytes) -> bytes:
        document = json.loads(payload)
        for resource in document["predicate"]["resources"]:
            resource["annotations"] = annotations
        return json.dumps(document).encode()

    bundle = rewrite(sign_model(model, KEY_ONE).bundle, annotate)
    verified = verify_model(model, bundle, key=KEY_ONE.public)
    assert not any(one.stated_by for one in verified.resources)
