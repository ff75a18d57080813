"""Links: refused with a way out, followed only where signer or reader says so, hashed as what they lead to."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.signing.files import ModelFile, ModelTree
from registry.signing.hashing import Span, hash_spans, whole_files
from registry.signing.oms import sign_model, verify_model
from tests.registry.signing.models import KEY_ONE, SHARDED, write_tree
from watermark.errors import DigestError, InputError, PathEscapeError, WeightmarkError


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model as the Hugging Face hub's client keeps it: files by digest in `blobs`, a snapshot of links to them."""
    root = tmp_path / "hub/models--acme--mini"
    snapshot = root / "snapshots/0123abc"
    for name, content in SHARDED.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        write_tree(blob.parent, {blob.name: content})
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return root


@pytest.fixture
def snapshot(repository: Path) -> Path:
    return repository / "snapshots/0123abc"


def hashed(model: Path, links_below: Path) -> dict[str, bytes]:
    with ModelTree(model, links_below=links_below) as tree:
        return hash_spans(tree, whole_files(tree.enumerate(("model.sig",))))


EXPECTED = {name: hashlib.sha256(content).digest() for name, content in SHARDED.items()}


def test_a_cache_is_explained_with_the_flag_that_reads_it(snapshot: Path, repository: Path) -> None:
    with pytest.raises(PathEscapeError) as caught:
        sign_model(snapshot, KEY_ONE)
    assert caught.value.code == "link"
    assert f"--allow-links-below {repository}`" in caught.value.hint
    assert "cp -rL" in caught.value.hint


def test_the_same_content_by_links_and_as_files(snapshot: Path, repository: Path, tmp_path: Path) -> None:
    assert hashed(snapshot, repository) == EXPECTED
    signed = sign_model(snapshot, KEY_ONE, links_below=repository)
    assert signed.manifest.serialization.allow_symlinks
    real = write_tree(tmp_path / "copy", SHARDED)
    assert signed.root == sign_model(real, KEY_ONE).root
    assert not sign_model(real, KEY_ONE, links_below=repository).manifest.serialization.allow_symlinks
    verify_model(real, signed.bundle, key=KEY_ONE.public)
    verify_model(snapshot, signed.bundle, key=KEY_ONE.public, links_below=repository)
    with pytest.raises(PathEscapeError, match="leads out of the model") as caught:
        verify_model(snapshot, signed.bundle, key=KEY_ONE.public)
    assert (caught.value.code, "--allow-links-below" in caught.value.hint) == ("link-outside", True)


def test_what_a_publisher_signed_is_verified_in_the_cache(snapshot: Path, repository: Path, tmp_path: Path) -> None:
    """The way to most users: signed as files, fetched into a cache, where the signature is a link as well."""
    bundle = sign_model(write_tree(tmp_path / "published", SHARDED), KEY_ONE).bundle
    write_tree(repository, {"blobs/sig": bundle})
    (snapshot / "model.sig").symlink_to("../../blobs/sig")
    for options in ({}, {"ignore_unsigned_files": True}):
        verify_model(snapshot, bundle, key=KEY_ONE.public, links_below=repository, **options)
        with pytest.raises(PathEscapeError):
            verify_model(snapshot, bundle, key=KEY_ONE.public, **options)
    blob = (snapshot / "config.json").resolve()
    blob.write_bytes(b"changed")
    with pytest.raises(DigestError, match=r"config\.json"):
        verify_model(snapshot, bundle, key=KEY_ONE.public, links_below=repository)
    (snapshot / "config.json").unlink()
    for options in ({}, {"ignore_unsigned_files": True}):
        with pytest.raises(DigestError, match=r"missing: config\.json"):
            verify_model(snapshot, bundle, key=KEY_ONE.public, links_below=repository, **options)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/etc/passwd", "link-outside"),
        ("../../../outside", "link-outside"),
        ("../../../twin", "link-outside"),
        ("../../blobs", "not-a-file"),
        ("../../blobs/absent", "not-a-file"),
        ("odd", "not-a-file"),
        ("../../blobs/pipe", "not-a-file"),
    ],
)
def test_links_elsewhere_are_refused(snapshot: Path, repository: Path, target: str, code: str) -> None:
    write_tree(repository.parent, {"outside": b"", "models--acme--mini-too/x": b""})
    (repository.parent / "twin").symlink_to("models--acme--mini-too/x")  # begins as the root's name does
    os.mkfifo(repository / "blobs/pipe")
    (snapshot / "odd").symlink_to(target)
    with pytest.raises(PathEscapeError, match="odd") as caught:
        hashed(snapshot, repository)
    assert caught.value.code == code


def test_links_over_links_count_by_where_they_end(snapshot: Path, repository: Path) -> None:
    (repository / "by").symlink_to("blobs")
    (snapshot / "first").symlink_to("config.json")
    (snapshot / "second").symlink_to("../../by/../snapshots/0123abc/first")
    digests = hashed(snapshot, repository)
    assert digests["first"] == digests["second"] == EXPECTED["config.json"]


def test_linked_folders_are_not_entered(snapshot: Path, repository: Path) -> None:
    write_tree(repository, {"blobs/folder/a": b"a"})
    (snapshot / "folder").symlink_to("../../blobs/folder")
    with pytest.raises(PathEscapeError, match="'folder'"):
        hashed(snapshot, repository)
    bundle = sign_model(snapshot, KEY_ONE, ignore=("folder",), links_below=repository).bundle
    verify_model(snapshot, bundle, key=KEY_ONE.public, links_below=repository)


def test_the_named_folder_must_be_one(snapshot: Path, repository: Path) -> None:
    for wrong in (repository / "absent", snapshot / "config.json"):
        with pytest.raises(InputError) as caught:
            ModelTree(snapshot, links_below=wrong)
        assert "--allow-links-below" in caught.value.hint
    through = repository.parent / "through"
    through.symlink_to(repository)
    assert hashed(snapshot, through) == EXPECTED


def test_no_descriptor_is_left_open(snapshot: Path, repository: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        hashed(snapshot, repository)
        for model, links in ((snapshot / "absent", repository), (snapshot, repository / "absent")):
            with pytest.raises(InputError):
                ModelTree(model, links_below=links)
    assert len(os.listdir("/proc/self/fd")) == before


@contextmanager
def swapping(link: Path, targets: tuple[str, str]) -> Iterator[None]:
    """While the block runs, `link` leads now here, now there, and is never absent."""
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for target in targets:
                spare = link.with_name(link.name + ".spare")
                spare.symlink_to(target)
                os.replace(spare, link)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("walks", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_link_swapped_while_it_is_read_leads_inside_or_nowhere(repository: Path, walks: int) -> None:
    """Another thread swaps a link between a blob and a secret: what is read is the blob, or nothing."""
    model = repository / "snapshots/raced"
    model.mkdir()
    write_tree(repository, {"blobs/good": b"inside"})
    write_tree(repository.parent, {"secret": b"secret"})
    targets = ("../../blobs/good", "../../../secret")
    (model / "w").symlink_to(targets[0])
    read = refused = 0
    with swapping(model / "w", targets):
        for _ in range(walks):
            try:
                with ModelTree(model, links_below=repository) as tree:
                    digests = hash_spans(tree, [Span("w", tree.find("w"), 0, 6)])
            except WeightmarkError:
                refused += 1
            else:
                assert digests == {"w": hashlib.sha256(b"inside").digest()}
                read += 1
    assert read > 0
    assert refused > 0


def test_a_blob_swapped_for_a_link_is_not_followed(repository: Path) -> None:
    """The links' own root is walked without following anything: a blob that becomes a link is refused."""
    model = repository / "snapshots/raced"
    model.mkdir()
    write_tree(repository, {"blobs/good": b"inside"})
    write_tree(repository.parent, {"secret": b"secret"})
    (model / "w").symlink_to("../../blobs/good")
    with ModelTree(model, links_below=repository) as tree:
        (file,) = tree.enumerate(())
        assert file == ModelFile("w", "blobs/good", 6, linked=True)
        (repository / "blobs/good").unlink()
        (repository / "blobs/good").symlink_to("../../secret")
        with pytest.raises(PathEscapeError, match="link"):
            hash_spans(tree, whole_files([file]))
        (repository / "blobs").rename(repository / "moved")
        (repository / "blobs").symlink_to("..")
        with pytest.raises(PathEscapeError, match="link"):
            hash_spans(tree, whole_files([file]))
