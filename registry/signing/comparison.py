"""Compare the files of a model with a manifest whose signature was verified: all there, none changed, none added.

The last steps of OMS v1.0 verification, and the only ones that read the model. Knows no keys and no signatures: it
takes a `SignedManifest`, which only a verifier hands out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.signing.digest_cache import DigestCache
from registry.signing.files import ModelFile, ModelTree
from registry.signing.hashing import Progress, Span, hash_spans, shards, whole_files
from registry.signing.keys import PublicKey
from registry.signing.manifest import (
    DEFAULT_IGNORED,
    SHARDS,
    SIGNATURE_NAME,
    Manifest,
    Resource,
    check_ignore,
    ignored_below_root,
    split_shard_name,
)
from registry.signing.refusals import ADDED, CHANGED, MISSING, RESOURCE_FORM
from registry.signing.timestamps import NO_STAMPS, StampsFound
from watermark.errors import InputError

_NAMED_IN_ERRORS = 5


@dataclass(frozen=True)
class SignedManifest:
    """A manifest whose signature was verified; no file was compared yet."""

    manifest: Manifest
    pae_sha256: bytes
    key: PublicKey
    signed_by: str
    stamps: StampsFound = NO_STAMPS  # on the bytes of the signature

    @property
    def key_id(self) -> str:
        """SHA-256 of the signer's PEM text, in hex."""
        return self.key.key_id


@dataclass(frozen=True)
class VerifiedModel:
    """A model that is exactly what was signed, and by whom.

    `root` is recomputed in our order and names the model; `listed_root` is the one that the signer wrote.
    """

    root: bytes
    listed_root: bytes | None
    key: PublicKey
    key_id: str
    pae_sha256: bytes
    subject_name: str
    resources: tuple[Resource, ...]
    signed_by: str


def default_signature_path(path: Path) -> Path:
    """Where a model's signature lies: `model.sig` in its folder; beside a single file, `NAME.sig`."""
    return path / SIGNATURE_NAME if path.is_dir() else path.with_name(path.name + ".sig")


def compare(
    path: Path,
    signed: SignedManifest,
    *,
    ignore: Sequence[str] = (),
    ignore_unsigned_files: bool = False,
    signature_path: Path | None = None,
    links_below: Path | None = None,
    cache: DigestCache | None = None,
    progress: Progress | None = None,
) -> VerifiedModel:
    """Compare the files at `path` with a verified manifest: all there, none changed, none added.

    Raises DigestError naming the files. Missing and added files are found before anything is hashed, so that a stray
    file in a huge model is reported at once. With `ignore_unsigned_files` only the listed files are looked at. With
    `links_below` links to files below that folder count as those files. Every byte is read, unless a `cache` is given:
    what it knows is then believed, and only what the file system admits to have changed is read.
    """
    manifest = signed.manifest
    with ModelTree(path, links_below=links_below) as tree:
        expected = _expected_digests(manifest, tree)
        ignored = {*DEFAULT_IGNORED, *ignored_below_root(manifest.serialization.ignore_paths)}
        ignored |= {_check_unsigned(check_ignore(one), expected) for one in ignore}
        ignored |= set(inside(signature_path or default_signature_path(path), tree))
        if ignore_unsigned_files:
            files = _listed_files(tree, manifest, expected)
        else:
            files = tree.enumerate(ignored, allow_symlinks=manifest.serialization.allow_symlinks)
        spans = _spans(files, manifest)
        found = {span.name for span in spans}
        missing = [name for name in expected if name not in found]
        added = sorted(found - expected.keys())
        if ignore_unsigned_files:
            spans, added = [span for span in spans if span.name in expected], []
        if missing or added:
            refusal = MISSING if missing else ADDED
            raise refusal("; ".join(_complaint("missing", missing) + _complaint("not in the signature", added)))
        hash_type = manifest.serialization.hash_type
        actual = hash_spans(tree, spans, hash_type=hash_type, progress=progress, cache=cache)
    changed = sorted(name for name, digest in actual.items() if digest != expected[name])
    if changed:
        raise CHANGED("; ".join(_complaint("changed since it was signed", changed)))
    return VerifiedModel(
        root=manifest.root,
        listed_root=manifest.listed_root,
        key=signed.key,
        key_id=signed.key_id,
        pae_sha256=signed.pae_sha256,
        subject_name=manifest.model_name,
        resources=manifest.resources,
        signed_by=signed.signed_by,
    )


def inside(signature_path: Path, tree: ModelTree) -> list[str]:
    """The signature's own path below the root, or nothing when it lies elsewhere."""
    real = signature_path.parent.resolve() / signature_path.name
    if tree.is_single_file or not real.is_relative_to(tree.resolved):
        return []
    return [real.relative_to(tree.resolved).as_posix()]


def _expected_digests(manifest: Manifest, tree: ModelTree) -> dict[str, bytes]:
    names = [resource.name for resource in manifest.resources]
    if "." in names:
        # model-signing names the file of a single-file model "."; in a folder that name means nothing.
        if not tree.is_single_file or len(names) != 1:
            raise RESOURCE_FORM("the model signature lists the path '.' beside other files or for a folder")
        return {tree.name: manifest.resources[0].digest}
    return {resource.name: resource.digest for resource in manifest.resources}


def _listed_files(tree: ModelTree, manifest: Manifest, expected: Mapping[str, bytes]) -> tuple[ModelFile, ...]:
    if tree.is_single_file:
        return tree.enumerate(())
    allow_symlinks = manifest.serialization.allow_symlinks
    sharded = manifest.serialization.method == SHARDS
    found = []
    for name in {split_shard_name(name)[0] if sharded else name for name in expected}:
        try:
            found.append(tree.find(name, allow_symlinks=allow_symlinks))
        except (FileNotFoundError, NotADirectoryError):
            continue  # reported as missing by the caller, with all the others
    return tuple(found)


def _spans(files: Sequence[ModelFile], manifest: Manifest) -> list[Span]:
    if manifest.serialization.shard_size is not None:
        return shards(files, manifest.serialization.shard_size)
    return whole_files(files)


def _check_unsigned(path: str, expected: Mapping[str, bytes]) -> str:
    """A verifier may look past files that nobody signed, never past signed ones: "verified" would say too much."""
    for name in expected:
        if name == path or name.startswith((path + "/", path + ":")):
            raise InputError(f"cannot ignore {path!r}: the signature covers {name!a}")
    return path


def _complaint(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(ascii(name)[1:-1] for name in names[:_NAMED_IN_ERRORS])
    more = f" and {len(names) - _NAMED_IN_ERRORS} more" if len(names) > _NAMED_IN_ERRORS else ""
    return [f"{what}: {shown}{more}"]
