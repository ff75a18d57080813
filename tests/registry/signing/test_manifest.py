from __future__ import annotations

import json
import random

import pytest

from registry.signing.manifest import (
    DEFAULT_IGNORED,
    Resource,
    build_manifest,
    check_ignore,
    check_name,
    ignored_below_root,
    parse_payload,
    root_digest,
    split_shard_name,
    to_payload,
)
from watermark.errors import DocumentError, InputError, PathEscapeError

DIGESTS = {"b": b"\x02" * 32, "a/x": b"\x01" * 32, "a-b": b"\x03" * 32}


def payload(**changes: object) -> bytes:
    document = json.loads(to_payload(build_manifest("m", DIGESTS, ())))
    for path, value in changes.items():
        at = document
        *parents, last = path.split("__")
        for parent in parents:
            at = at[int(parent) if parent.isdigit() else parent]
        key = int(last) if last.isdigit() else last
        if value is ...:
            del at[key]
        else:
            at[key] = value
    return json.dumps(document).encode()


def with_resources(resources: list[dict[str, object]]) -> bytes:
    import hashlib

    root = hashlib.sha256(b"".join(bytes.fromhex(str(one["digest"])) for one in resources)).hexdigest()
    return payload(predicate__resources=resources, subject__0__digest={"sha256": root})


def resource(name: str, digest: bytes = b"\x01" * 32, **more: object) -> dict[str, object]:
    return {"name": name, "digest": digest.hex(), "algorithm": "sha256", **more}


def test_round_trip_and_order() -> None:
    manifest = build_manifest("m", DIGESTS, ("model.sig",))
    assert [one.name for one in manifest.resources] == ["a-b", "a/x", "b"]
    assert manifest.serialization.ignore_paths == (*DEFAULT_IGNORED, "model.sig")
    assert parse_payload(to_payload(manifest)) == manifest


def test_root_is_by_code_point_whatever_order_is_listed() -> None:
    resources = [Resource(name, digest) for name, digest in DIGESTS.items()]
    assert len({root_digest(random.Random(seed).sample(resources, 3)) for seed in range(6)}) == 1
    assert root_digest([Resource("\uffff", b"\x01" * 32), Resource("\U00010000", b"\x02" * 32)]) != root_digest(
        [Resource("\uffff", b"\x02" * 32), Resource("\U00010000", b"\x01" * 32)]
    )


def test_any_listed_order_is_read_and_our_root_recomputed() -> None:
    listed = [resource("b", b"\x02" * 32), resource("a", b"\x01" * 32)]
    manifest = parse_payload(with_resources(listed))
    assert manifest.listed_root != manifest.root == root_digest(manifest.resources)


def test_unknown_keys_are_ignored_inside_a_resource_only() -> None:
    assert parse_payload(with_resources([resource("a", size=3)])).resources[0].name == "a"


@pytest.mark.parametrize(
    "data",
    [
        payload(_type="https://in-toto.io/Statement/v0.1"),
        payload(predicateType="https://model_signing/signature/v1.1"),
        payload(predicateType="https://model_signing/Digests/v0.1"),
        payload(subject=[]),
        payload(subject=[{"name": "m", "digest": {"sha256": "00" * 32}}] * 2),
        payload(subject__0__name=""),
        payload(subject__0__digest={"sha256": "00" * 32}),
        payload(subject__0__digest={"sha512": "00" * 64}),
        payload(subject__0__digest={}),
        payload(predicate=...),
        payload(predicate__resources=[]),
        payload(predicate__resources={}),
        payload(predicate__mark={"secret": 1}),
        payload(predicate__serialization__method="tree"),
        payload(predicate__serialization__hash_type="md5"),
        payload(predicate__serialization__hash_type="blake2b"),
        payload(predicate__serialization__shard_size=4),
        payload(predicate__serialization__allow_symlinks="false"),
        payload(predicate__serialization__ignore_paths=[""]),
        payload(predicate__serialization__ignore_paths=["."]),
        payload(predicate__serialization__ignore_paths=["./"]),
        payload(predicate__serialization__ignore_paths=[1]),
        payload(predicate__serialization__new=1),
        payload(extra=1),
        with_resources([resource("a"), resource("a", b"\x02" * 32)]),
        with_resources([resource("a", algorithm="sha512")]),
        with_resources([resource("a", b"\x01" * 31)]),
        with_resources([{"name": "a", "digest": "01" * 32}]),
        payload() + b" x",
        b"[]",
    ],
)
def test_every_other_form_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError):
        parse_payload(data)


ESCAPES = [
    "../x",
    "/x",
    "a/../b",
    "./x",
    "a//b",
    "a/",
    "",
    "..",
    "a/.",
    "a\\b",
    "a\x00b",
    "a\nb",
    "a\x7fb",
    "a\x9bb",
    "\udcff",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_leave_or_mislead(name: str) -> None:
    with pytest.raises(PathEscapeError) as caught:
        check_name(name)
    assert str(caught.value).isascii()
    if "\udcff" not in name:
        with pytest.raises(PathEscapeError):
            parse_payload(with_resources([resource(name)]))


@pytest.mark.parametrize("name", ["a", "a.b/c d", "é/ü", ".git", "a/.git", "...", "a:0:4", "CON", "-x", "\u202e"])
def test_names_that_are_fine(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("path", ["", ".", "/a", "..", "a/../b", "a/", "*.bin", "a?", "[a]"])
def test_ignores_are_exact_paths(path: str) -> None:
    with pytest.raises(InputError):
        check_ignore(path)


def test_recorded_ignores() -> None:
    recorded = ("a", "./b", "c/", "/home/signer/m/x", "../y", "/")
    assert ignored_below_root(recorded) == {"a", "b", "c", "../y"}


@pytest.mark.parametrize(
    "name", ["w", "w:1", "w:1:1", "w:2:1", "w:01:2", "w:-1:2", ":0:1", "w:0:x", "w:0:1 ", "w:0:+1"]
)
def test_shard_names_that_are_none(name: str) -> None:
    with pytest.raises(DocumentError):
        split_shard_name(name)


def test_shard_names_split_on_the_last_colons() -> None:
    assert split_shard_name("a:0:4:8:12") == ("a:0:4", 8, 12)


def test_nothing_to_sign_is_refused() -> None:
    with pytest.raises(InputError, match="no file"):
        build_manifest("m", {}, ())
