"""What a model consists of, as OMS v1.0 writes it down: names, digests, and how they were taken.

Pure: from digests to the signed payload and back. The walk over a disk and the hashing live in `files`. Follows the
OpenSSF Model Signing specification v1.0 (predicate https://model_signing/signature/v1.0); where the released tool
differs from it, the comment says how.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from registry.signing.encoding import from_hex
from registry.signing.refusals import (
    IGNORES_ALL,
    LISTED_TWICE,
    NO_FILES,
    RESOURCE_FORM,
    RESOURCE_NAME,
    ROOT,
    SERIALIZATION,
)
from registry.signing.statement import STATEMENT_TYPE, parse_statement
from registry.signing.strict_json import as_object, dumps, member
from watermark.errors import DocumentError, InputError, PathEscapeError

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
FILES, SHARDS = "files", "shards"
#: Never part of a model, at its top level only (`sub/.git` is).
DEFAULT_IGNORED = (".git", ".gitattributes", ".github", ".gitignore")
SIGNATURE_NAME = "model.sig"
CLAIMS_NAME = "claims.jsonl"
PROOF_NAME = "release.tlog-proof"
#: Written beside the model after it was signed, or able to grow later.
SIDE_FILES = (SIGNATURE_NAME, CLAIMS_NAME, PROOF_NAME)

_STATED_BY = "digest_stated_by"
_DIGEST_SIZES = {"sha256": 32, "blake2b": 64, "blake3": 32}
_SHARDED_ALGORITHM = re.compile(r"([a-z0-9]+)-sharded-[1-9][0-9]{0,17}")
_SHARD_NAME = re.compile(r"(.+):(0|[1-9][0-9]{0,17}):([1-9][0-9]{0,17})", re.DOTALL)
_WHAT = "the model signature's statement"


@dataclass(frozen=True)
class Resource:
    """One signed file, or one range of a file, by its path below the model root.

    `stated_by` names where the signer took the digest from without reading the file; empty when he hashed it.
    """

    name: str
    digest: bytes
    stated_by: str = ""


@dataclass(frozen=True)
class Serialization:
    """How the digests were taken: whole files or shards, the hash, and what was left out."""

    method: str = FILES
    hash_type: str = "sha256"
    allow_symlinks: bool = False
    ignore_paths: tuple[str, ...] = DEFAULT_IGNORED
    shard_size: int | None = None


@dataclass(frozen=True)
class Manifest:
    """The files of a model with their digests.

    `listed_root` is the root that the signer wrote (None in a signature older than the root digest).
    """

    model_name: str
    resources: tuple[Resource, ...]
    serialization: Serialization
    listed_root: bytes | None

    @property
    def root(self) -> bytes:
        """Our own root: over the digests in code-point order of the names, whatever order the signer listed."""
        return root_digest(self.resources)


def root_digest(resources: Iterable[Resource]) -> bytes:
    """SHA-256 over the raw digests, ordered by name as text (Unicode code points).

    Not the order of paths: `a-b` comes before `a/w.bin`. The released OMS tool sorts by path component instead, so
    roots are checked in the order listed and compared between models in this one. Names are not in the root.
    """
    return _root_as_listed(sorted(resources, key=lambda resource: resource.name))


def _root_as_listed(resources: Iterable[Resource]) -> bytes:
    digest = hashlib.sha256()
    for resource in resources:
        digest.update(resource.digest)
    return digest.digest()


def build_manifest(
    model_name: str,
    digests: Mapping[str, bytes],
    ignore_paths: Iterable[str],
    *,
    stated_by: Mapping[str, str] | None = None,
    allow_symlinks: bool = False,
) -> Manifest:
    """A manifest of whole files under SHA-256, in code-point order.

    `stated_by` marks digests that the signer did not take himself; `allow_symlinks` says that links were followed.
    """
    if not digests:
        raise InputError(f"{model_name}: no file is left to sign", hint="check the --ignore paths")
    for name in digests:
        check_name(name)
    sources = stated_by or {}
    resources = tuple(Resource(name, digests[name], sources.get(name, "")) for name in sorted(digests))
    ignored = tuple(sorted({*DEFAULT_IGNORED, *ignore_paths}))
    serialization = Serialization(allow_symlinks=allow_symlinks, ignore_paths=ignored)
    return Manifest(model_name, resources, serialization, root_digest(resources))


def to_payload(manifest: Manifest) -> bytes:
    """The in-toto statement that is signed: one line of JSON with sorted keys. Writes files under SHA-256 only."""
    serialization = {
        "method": FILES,
        "hash_type": "sha256",
        "allow_symlinks": manifest.serialization.allow_symlinks,
        "ignore_paths": list(manifest.serialization.ignore_paths),
    }
    resources = [_resource_to_dict(resource) for resource in manifest.resources]
    return dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": manifest.model_name, "digest": {"sha256": manifest.root.hex()}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {"resources": resources, "serialization": serialization},
        }
    )


def parse_payload(payload: bytes) -> Manifest:
    """Read the statement of a model signature, in the order of checks that OMS lists.

    Raises DocumentError for anything but its exact form, PathEscapeError for a name that leaves the model. The caller
    has verified the signature over these very bytes.
    """
    statement = parse_statement(payload, predicate_type=PREDICATE_TYPE)
    predicate = as_object(
        dict(statement.predicate), f"the predicate of {_WHAT}", allowed=("resources", "serialization")
    )
    listed = member(predicate, "resources", list, _WHAT)
    if not listed:
        raise NO_FILES(f"{_WHAT} lists no file")
    serialization = _read_serialization(predicate)
    ignored_below_root(serialization.ignore_paths)
    resources = tuple(_read_resource(item, serialization) for item in listed)
    if len({resource.name for resource in resources}) != len(resources):
        raise LISTED_TWICE(f"{_WHAT} lists a file twice")
    if _root_as_listed(resources) != statement.root:
        raise ROOT(f"{_WHAT} contradicts itself: its root digest is not that of its files")
    return Manifest(statement.subject_name, resources, serialization, statement.root)


def split_shard_name(name: str) -> tuple[str, int, int]:
    """Path, start and end of a shard's name `path:start:end`; the path itself may hold colons."""
    match = _SHARD_NAME.fullmatch(name)
    if match is None:
        raise DocumentError(f"{name!r} does not name a shard as path:start:end")
    start, end = int(match[2]), int(match[3])
    if start >= end:
        raise DocumentError(f"the shard {name!r} is empty or turned around")
    return match[1], start, end


def check_name(name: str) -> None:
    """Refuse a path that could leave the model, mean two files, or be unprintable: PathEscapeError.

    Legal: components separated by `/`, none of them empty, `.` or `..`; UTF-8; no control character, no backslash.
    """
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise PathEscapeError(f"the path {name!a} does not stay below the model's folder")
    if "\\" in name or any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in name):
        raise PathEscapeError(f"the path {name!a} holds a backslash or control character")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise PathEscapeError(f"the path {name!a} is not valid UTF-8")


def check_ignore(path: str) -> str:
    """Refuse an ignore path that is not exactly one root-relative path; OMS has no globs: InputError."""
    try:
        check_name(path)
    except PathEscapeError as error:
        raise InputError(f"cannot ignore {path!r}: {error}", hint=_IGNORE_HINT) from error
    if any(character in path for character in "*?["):
        raise InputError(f"cannot ignore {path!r}: patterns are not part of the format", hint=_IGNORE_HINT)
    return path


def ignored_below_root(ignore_paths: Iterable[str]) -> frozenset[str]:
    """What the recorded ignore paths mean inside this model: exact paths, each with its subtree.

    Bundles of other tools hold paths of the signer's disk; what matches nothing is harmless. One that leaves out the
    whole model is refused (DocumentError): such a signature covers nothing.
    """
    meant = set()
    for path in ignore_paths:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts and not path.startswith("/"):
            raise IGNORES_ALL(f"{_WHAT} ignores the whole model ({path!r})")
        if not path.startswith("/"):
            meant.add("/".join(parts))
    return frozenset(meant)


_IGNORE_HINT = "give the path of one file or folder relative to the model's root, as in --ignore logs"


def _read_serialization(predicate: dict[str, Any]) -> Serialization:
    try:
        return _parse_serialization(member(predicate, "serialization", dict, _WHAT))
    except DocumentError as error:
        raise SERIALIZATION(str(error)) from error


def _read_resource(item: Any, serialization: Serialization) -> Resource:
    try:
        return _parse_resource(item, serialization)
    except DocumentError as error:
        raise RESOURCE_FORM(str(error)) from error
    except PathEscapeError as error:
        raise RESOURCE_NAME(str(error)) from error


def _resource_to_dict(resource: Resource) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": resource.name, "digest": resource.digest.hex(), "algorithm": "sha256"}
    if resource.stated_by:
        fields["annotations"] = {_STATED_BY: resource.stated_by}
    return fields


def _parse_serialization(fields: dict[str, Any]) -> Serialization:
    what = f"the serialization of {_WHAT}"
    as_object(fields, what, allowed=("method", "hash_type", "allow_symlinks", "ignore_paths", "shard_size"))
    method = member(fields, "method", str, what)
    if method not in (FILES, SHARDS):
        raise DocumentError(f"{what} has the unknown method {method!r}")
    hash_type = _plain_algorithm(member(fields, "hash_type", str, what), method)
    allow_symlinks = member(fields, "allow_symlinks", bool, what) if "allow_symlinks" in fields else False
    ignore_paths = member(fields, "ignore_paths", list, what) if "ignore_paths" in fields else []
    if not all(isinstance(path, str) for path in ignore_paths):
        raise DocumentError(f"{what} ignores something that is no path")
    shard_size = _parse_shard_size(fields, method, what)
    return Serialization(method, hash_type, allow_symlinks, tuple(ignore_paths), shard_size)


def _parse_shard_size(fields: dict[str, Any], method: str, what: str) -> int | None:
    if method == FILES:
        if "shard_size" in fields:
            raise DocumentError(f"{what} has a shard_size with whole files")
        return None
    size = fields.get("shard_size", 1_000_000_000)
    if isinstance(size, float) and size.is_integer():  # the released tool passes it through a protobuf Struct
        size = int(size)
    if type(size) is not int or size < 1:
        raise DocumentError(f"{what} has no positive shard_size")
    return size


def _parse_resource(item: Any, serialization: Serialization) -> Resource:
    what = f"a resource of {_WHAT}"
    fields = as_object(item, what)  # unknown keys are ignored here, and only here, as OMS says
    name = member(fields, "name", str, what)
    algorithm = _plain_algorithm(member(fields, "algorithm", str, what), serialization.method)
    if algorithm != serialization.hash_type:
        raise DocumentError(f"{what} is hashed with {algorithm}, the model with {serialization.hash_type}")
    size = _DIGEST_SIZES[algorithm]
    digest = from_hex(member(fields, "digest", str, what), what=f"the digest of {name!a}", size=size)
    if serialization.method == SHARDS:
        check_name(split_shard_name(name)[0])
    elif name != ".":  # a lone "." is how the released tool names a single-file model; see `oms`
        check_name(name)
    return Resource(name, digest, _parse_annotation(fields.get("annotations")))


def _parse_annotation(annotations: Any) -> str:
    """Where the signer says that he took a digest from; whatever else stands there is others' and passed over."""
    source = annotations.get(_STATED_BY) if isinstance(annotations, dict) else None
    return source if isinstance(source, str) else ""


def _plain_algorithm(algorithm: str, method: str) -> str:
    sharded = _SHARDED_ALGORITHM.fullmatch(algorithm) if method == SHARDS else None
    plain = sharded[1] if sharded else algorithm  # the released tool writes `sha256-sharded-N` for shards
    if plain not in _DIGEST_SIZES:
        raise DocumentError(f"{_WHAT} uses the unknown hash {algorithm!r}")
    return plain
