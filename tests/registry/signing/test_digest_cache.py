from __future__ import annotations

import hashlib
import os
import random
import stat
import time
from pathlib import Path

import pytest

from registry.signing.digest_cache import SETTLED_NS, DigestCache, FileIdentity, default_cache_path
from registry.signing.files import ModelTree
from registry.signing.hashing import hash_spans, shards, whole_files
from registry.signing.oms import sign_model, verify_model
from tests.registry.signing.models import KEY_ONE, SHARDED, write_tree
from watermark.errors import DigestError, ModelFormatError

LONG_AGO = time.time_ns() - 3600 * 10**9


@pytest.fixture
def cache_path(tmp_path: Path) -> Path:
    return tmp_path / "cache/weightmark/digests"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose files count as old: their change time cannot be set back, so the clock is set forward."""
    model = write_tree(tmp_path / "m", SHARDED)
    now = time.time_ns
    monkeypatch.setattr("registry.signing.digest_cache.time.time_ns", lambda: now() + 2 * SETTLED_NS)
    return model


def hashed(model: Path, cache_path: Path, **options: object) -> tuple[dict[str, bytes], list[str]]:
    """The digests, and which files were read for them."""
    read: list[str] = []
    with DigestCache(cache_path) as cache, Recording(model, read) as tree:
        spans = whole_files(tree.enumerate(("model.sig",)))
        return hash_spans(tree, spans, cache=cache, **options), sorted(read)  # type: ignore[arg-type]


class Recording(ModelTree):
    """Knows which files were read from their first byte on, by the access that only a reader makes."""

    def __init__(self, path: Path, read: list[str]) -> None:
        super().__init__(path)
        self.read = read


@pytest.fixture(autouse=True)
def record_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    from registry.signing import hashing

    recall = hashing._HashWork.recall

    def recording(self: hashing._HashWork, span: hashing.Span, identity: FileIdentity) -> bytes | None:
        known = recall(self, span, identity)
        if known is None and isinstance(self.tree, Recording):
            self.tree.read.append(span.name)
        return known

    monkeypatch.setattr(hashing._HashWork, "recall", recording)


def digests_of(model: Path) -> dict[str, bytes]:
    return {
        path.relative_to(model).as_posix(): hashlib.sha256(path.read_bytes()).digest()
        for path in model.rglob("*")
        if path.is_file()
    }


def test_the_second_time_nothing_is_read(model: Path, cache_path: Path) -> None:
    first, read = hashed(model, cache_path)
    assert read == sorted(SHARDED)
    told: list[int] = []
    again, read_again = hashed(model, cache_path, progress=told.append)
    assert (again, read_again) == (first, [])
    assert again == digests_of(model)
    assert sum(told) == sum(map(len, SHARDED.values()))
    assert stat.S_IMODE(cache_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache_path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("change", ["write", "same size", "same times", "replace", "swap", "touch", "truncate"])
def test_whatever_changes_a_file_has_it_read_again(model: Path, cache_path: Path, change: str) -> None:
    hashed(model, cache_path)
    path, other = model / "config.json", model / "tokenizer/vocab.txt"
    before = path.stat()
    if change == "write":
        path.write_bytes(b"changed")
    elif change in ("same size", "same times"):
        path.write_bytes(bytes(len(SHARDED["config.json"])))
        if change == "same times":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "replace":
        (model.parent / "new").write_bytes(path.read_bytes())
        os.replace(model.parent / "new", path)
    elif change == "swap":
        path.rename(model.parent / "aside")
        other.rename(path)
        (model.parent / "aside").rename(other)
    elif change == "touch":
        os.utime(path)
    else:
        os.truncate(path, 3)
    digests, read = hashed(model, cache_path)
    assert digests == digests_of(model)
    assert read == sorted({"config.json"} | ({"tokenizer/vocab.txt"} if change == "swap" else set()))


def test_random_histories_never_give_a_stale_digest(model: Path, cache_path: Path) -> None:
    rng = random.Random(5)
    names = sorted(SHARDED)
    for _ in range(60):
        for name in rng.sample(names, rng.randrange(3)):
            before = (model / name).stat()
            (model / name).write_bytes(rng.randbytes(before.st_size if rng.random() < 0.5 else rng.randrange(50)))
            if rng.random() < 0.5:
                os.utime(model / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert hashed(model, cache_path)[0] == digests_of(model)


def test_fresh_files_are_not_remembered(tmp_path: Path, cache_path: Path) -> None:
    model = write_tree(tmp_path / "m", SHARDED)
    hashed(model, cache_path)
    assert hashed(model, cache_path)[1] == sorted(SHARDED)


@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("field", ["modified_ns", "changed_ns"])
def test_two_seconds_settle_a_file(offset: int, field: str) -> None:
    identity = FileIdentity(1, 2, 3, LONG_AGO, LONG_AGO)._replace(**{field: LONG_AGO + 10**9})
    assert identity.is_settled(LONG_AGO + 10**9 + SETTLED_NS + offset) is (offset > 0)


def test_times_in_the_future_are_never_settled() -> None:
    assert not FileIdentity(1, 2, 3, LONG_AGO, time.time_ns() + 10**12).is_settled(time.time_ns())


def test_a_file_that_changes_while_it_is_read_is_not_remembered(model: Path, cache_path: Path) -> None:
    def meddle(_: int) -> None:
        with open(model / "config.json", "ab") as file:
            file.write(b"x")

    with pytest.raises(ModelFormatError):
        hashed(model, cache_path, progress=meddle)
    assert hashed(model, cache_path)[0] == digests_of(model)


def test_only_whole_files_under_sha256_are_remembered(model: Path, cache_path: Path) -> None:
    with DigestCache(cache_path) as cache, ModelTree(model) as tree:
        files = tree.enumerate(())
        hash_spans(tree, shards(files, 1000), cache=cache)
        hash_spans(tree, whole_files(files), hash_type="blake2b", cache=cache)
    whole = {name for name, content in SHARDED.items() if len(content) <= 1000}
    digests, read = hashed(model, cache_path)
    assert digests == digests_of(model)
    assert read == sorted(set(SHARDED) - whole)  # a file of one shard was hashed whole


DAMAGES = ["garbage", "empty", "other version", "wrong digest", "wrong seal", "no digest", "cut", "line ends", "pipe"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_ignored_and_heals(model: Path, cache_path: Path, damage: str) -> None:
    hashed(model, cache_path)
    content = cache_path.read_bytes()
    header, *lines = content.split(b"\n")
    fields = [line.split(b" ") for line in lines[:-1]]
    spoiled = {
        "garbage": os.urandom(5000),
        "empty": b"",
        "other version": content.replace(b"cache 1", b"cache 2"),
        "wrong digest": b"\n".join([header, *(b" ".join([*one[:5], b"00" * 32, one[6]]) for one in fields)]),
        "wrong seal": b"\n".join([header, *(b" ".join([*one[:6], b"00" * 8]) for one in fields)]),
        "no digest": b"\n".join([header, *(b" ".join(one[:5]) for one in fields)]),
        "cut": content[: len(content) // 2],
        "line ends": content.replace(b"\n", b"\r\n"),
    }
    cache_path.unlink()
    if damage == "pipe":
        os.mkfifo(cache_path, 0o600)
    else:
        cache_path.write_bytes(spoiled[damage])
        cache_path.chmod(0o600)
    assert hashed(model, cache_path)[0] == digests_of(model)
    assert hashed(model, cache_path) == (digests_of(model), [])


def test_every_flipped_byte_of_the_cache_is_harmless(model: Path, cache_path: Path) -> None:
    hashed(model, cache_path)
    content = cache_path.read_bytes()
    expected, rng = digests_of(model), random.Random(3)
    for position in range(0, len(content), 4):
        spoiled = bytearray(content)
        spoiled[position] ^= 1 << rng.randrange(8)
        cache_path.write_bytes(spoiled)
        assert hashed(model, cache_path)[0] == expected


@pytest.mark.parametrize("obstacle", ["others may write", "others may read", "folder", "link", "no folder"])
def test_a_cache_that_cannot_be_used_knows_nothing(model: Path, cache_path: Path, obstacle: str) -> None:
    hashed(model, cache_path)
    if obstacle.startswith("others"):
        cache_path.chmod(0o620 if obstacle == "others may write" else 0o640)
    elif obstacle == "folder":
        cache_path.unlink()
        cache_path.mkdir()
    elif obstacle == "link":
        cache_path.rename(cache_path.with_name("elsewhere"))
        cache_path.symlink_to("elsewhere")
    else:
        cache_path = model / "config.json/under/a/file"
    digests, read = hashed(model, cache_path)
    assert digests == digests_of(model)
    assert read == sorted(SHARDED)


def test_the_oldest_entries_make_room(cache_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.signing.digest_cache.MAX_ENTRIES", 3)
    identities = [FileIdentity(1, inode, 3, LONG_AGO, LONG_AGO) for inode in (1, 2, 3, 4, 2**64 - 1)]
    with DigestCache(cache_path) as cache:
        for identity in identities:
            cache.remember({identity: bytes([identity.inode % 256]) * 32})
        known = [identity for identity in identities if cache.recall(identity)]
    assert known == identities[-3:]


def test_signing_uses_it_and_verifying_does_not(model: Path, cache_path: Path) -> None:
    with DigestCache(cache_path) as cache:
        bundle = sign_model(model, KEY_ONE, cache=cache).bundle
        assert sign_model(model, KEY_ONE, cache=cache).bundle == bundle
        # What the file system does not admit, like a bit lost on the disk: the digest on record is not the file's.
        identity = FileIdentity.of((model / "config.json").stat())
        cache.remember({identity: hashlib.sha256(b"what it was").digest()})
        stale = sign_model(model, KEY_ONE, cache=cache).bundle
        assert stale != bundle
        with pytest.raises(DigestError):
            verify_model(model, stale, key=KEY_ONE.public)
        verify_model(model, stale, key=KEY_ONE.public, cache=cache)


@pytest.mark.parametrize(("named", "expected"), [("/x", "/x"), ("", "~/.cache"), ("relative", "~/.cache")])
def test_the_cache_lies_where_xdg_says(named: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    assert default_cache_path() == Path(expected).expanduser() / "weightmark/digests"
