"""Flags about how a model is read: links below a folder, digests known beforehand, the digest cache."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from cli.home import Home
from cli.reading import Reading, cache_root_of
from registry.signing.digest_cache import SETTLED_NS, DigestCache, FileIdentity
from tests.cli.command import PASSPHRASE, weightmark
from tests.registry.signing.models import write_tree
from tests.watermark.marks.models import random_weights, write_model
from watermark.errors import InputError


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def cached(root: Path, model: Path) -> Path:
    """The model as the Hugging Face hub's client keeps it."""
    snapshot = root / "snapshots/0123abc"
    for path in (one for one in model.rglob("*") if one.is_file()):
        blob = root / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        write_tree(blob.parent, {blob.name: path.read_bytes()})
        link = snapshot / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_snapshot_is_signed_and_verified_in_its_cache(made_home: Path, model: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub/models--acme--mini"
    snapshot = cached(root, model)
    refused = weightmark("sign", snapshot, "--json", home=made_home)
    assert (refused.code, refused.error["code"]) == (2, "link")
    assert f"--allow-links-below {root}" in refused.error["hint"]
    below = ("--allow-links-below", root)
    assert weightmark("sign", snapshot, *below, home=made_home).code == 0
    key = ("--public-key", made_home / "owner.pub")
    assert weightmark("verify", snapshot, *key).code == 2
    assert weightmark("verify", snapshot, *key, *below).code == 0
    assert weightmark("verify", snapshot, *key, "--allow-links-below", tmp_path / "absent").code == 2
    (snapshot / "config.json").resolve().write_text("{}")
    assert weightmark("verify", snapshot, *key, *below).code == 1


def test_known_digests_are_used_and_told(made_home: Path, model: Path, tmp_path: Path) -> None:
    listing = tmp_path / "SHA256SUMS"
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    listing.write_text(f"{digest}  model.safetensors\n")
    signed = weightmark("sign", model, "--known-digests", listing, "--json", home=made_home)
    assert signed.document["stated_digests"] == 1
    told = weightmark("sign", model, "--known-digests", listing, home=made_home)
    assert "not read: 1 file" in told.out
    assert weightmark("verify", model, "--public-key", made_home / "owner.pub").code == 0
    other = tmp_path / "other"
    other.write_text(f"{'0' * 64}  model.safetensors\n")
    refused = weightmark("sign", model, "--known-digests", listing, "--known-digests", other, home=made_home)
    assert refused.code == 2
    assert "another digest" in refused.err
    assert weightmark("sign", model, "--known-digests", other, home=made_home).code == 0
    assert weightmark("verify", model, "--public-key", made_home / "owner.pub").code == 1
    plain = weightmark("sign", model, "--json", home=made_home)
    assert plain.document["stated_digests"] == 0


def test_signing_fills_the_cache_unless_told_otherwise(made_home: Path, model: Path, cache: dict[str, str]) -> None:
    place = Path(cache["XDG_CACHE_HOME"]) / "weightmark/digests"
    with patch("registry.signing.digest_cache.SETTLED_NS", -SETTLED_NS):
        assert weightmark("sign", model, "--no-digest-cache", home=made_home, environment=cache).code == 0
        assert not place.exists()
        assert weightmark("sign", model, home=made_home, environment=cache).code == 0
        assert len(place.read_text().splitlines()) == 3
        # A digest on record that is not the file's, as after a lost bit: signing believes it, verifying does not.
        with DigestCache(place) as wrong:
            wrong.remember({FileIdentity.of((model / "config.json").stat()): bytes(32)})
        assert weightmark("sign", model, home=made_home, environment=cache).code == 0
        verify = ("verify", model, "--public-key", made_home / "owner.pub")
        assert weightmark(*verify, environment=cache).code == 1
        lenient = weightmark(*verify, "--use-digest-cache", environment=cache)
        assert lenient.code == 0
        assert "not checked: the bytes of files" in lenient.out
        assert weightmark("sign", model, "--no-digest-cache", home=made_home, environment=cache).code == 0
        assert weightmark(*verify, environment=cache).code == 0


def test_two_lists_may_agree(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"{'1' * 64}  w\n")
    assert set(Reading(known_digests=(tmp_path / "a", tmp_path / "b")).stated()) == {"w"}
    (tmp_path / "b").write_text(f"{'2' * 64}  w\n")
    with pytest.raises(InputError, match="another digest"):
        Reading(known_digests=(tmp_path / "a", tmp_path / "b")).stated()


def test_a_snapshot_is_known_by_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "repo/snapshots/abc").mkdir(parents=True)
    assert cache_root_of(tmp_path / "repo/snapshots/abc") is None
    (tmp_path / "repo/blobs").mkdir()
    assert cache_root_of(tmp_path / "repo/snapshots/abc") == tmp_path / "repo"
    assert cache_root_of(tmp_path / "repo/snapshots") is None


@pytest.mark.slow
def test_a_snapshot_is_released_and_checked(tmp_path: Path) -> None:
    """Released from the cache, with the links that the owner allows; checked later against the reference there."""
    home = tmp_path / "home"
    Home.create(home, "acme", PASSPHRASE.encode())
    root = tmp_path / "hub/models--acme--mini"
    snapshot = cached(root, write_model(tmp_path / "source", random_weights(seed=91)))
    out = tmp_path / "out"
    assert weightmark("release", snapshot, "--out", out, home=home).code == 2
    released = weightmark("release", snapshot, "--out", out, "--allow-links-below", root, "--json", home=home)
    assert released.code == 0, released.out
    assert weightmark("verify", out, home=home).code == 0
    assert not any(path.is_symlink() for path in out.rglob("*"))
    checked = weightmark("check", out, "--json", home=home)
    assert checked.document["verdict"] == "ours", json.dumps(checked.document)
    suspect = cached(tmp_path / "hub/models--thief--mini", out)
    assert weightmark("check", suspect, "--json", home=home).code == 2
    found = weightmark("check", suspect, "--allow-links-below", suspect.parent.parent, "--json", home=home)
    assert found.document["verdict"] == "ours"
