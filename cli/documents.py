"""Put documents into a copy before it is signed, and the very same ones again when it is made again.

They hold a time and our version, so they are kept in the home when they are first written (`documents/COPY.json`): a
release is made again bit for bit, also by a later version. Prints nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cli.document_sources import DocumentSources
from cli.drafts import sync
from cli.statements import CopyFacts
from registry.documents.facts import ModelFacts
from registry.documents.reference import REFERENCE_PREDICATE, reference
from registry.documents.write import DOCUMENTS, write_documents
from registry.signing.keys import PublicKey
from registry.signing.manifest import Manifest
from watermark.errors import DigestError, UnavailableError
from watermark.model.directory import Model

FOLDER = "documents"
#: Types of buffers such as positions and masks; 8-bit integers are weights, since quantised ones are.
_NO_PARAMETERS = ("BOOL", "I16", "I32", "I64", "U16", "U32", "U64")


class KeptDocuments:
    """The documents that a home's copies went out with, one file a copy."""

    def __init__(self, home: Path) -> None:
        """Use the home at `home`; nothing is created yet."""
        self._folder = home / FOLDER

    def find(self, copy_id: str) -> dict[str, bytes]:
        """The documents of a copy by name; none when none are kept, or what is kept cannot be read."""
        try:
            fields = json.loads((self._folder / f"{copy_id}.json").read_bytes())
            return {str(name): base64.b64decode(data, validate=True) for name, data in fields.items()}
        except (FileNotFoundError, ValueError, AttributeError, TypeError):
            return {}  # the digests in the signature say what is missing

    def put(self, copy_id: str, documents: Mapping[str, bytes]) -> None:
        """Keep the documents of a copy durably, in one step."""
        fields = {name: base64.b64encode(data).decode("ascii") for name, data in documents.items()}
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            draft = self._folder / f".{copy_id}.{os.getpid()}"
            draft.write_text(json.dumps(fields))
            sync(draft)
            os.replace(draft, self._folder / f"{copy_id}.json")
            sync(self._folder)
        except OSError as err:
            raise UnavailableError(f"cannot write in {self._folder}: {err.strerror}") from err


def add_documents(
    sources: DocumentSources, model: Model, facts: CopyFacts, weights: Mapping[str, bytes], folder: Path, home: Path
) -> dict[str, bytes]:
    """Write the documents of a new copy into its folder and keep them in the home; gives the SHA-256 of each.

    `weights` are the digests of the copy's weight files by their path in it.
    """
    documents = write_documents(
        ModelFacts(
            owner=facts.owner,
            name=facts.name,
            version=facts.version,
            release=facts.release,
            copy=facts.copy,
            signed_at=facts.signed_at,
            tool_version=version("weightmark"),
            weights={path: digest.hex() for path, digest in weights.items()},
            tensors_digest=facts.canonical_digest,
            parameters=sum(one.count for one in model.tensors.values() if one.dtype.name not in _NO_PARAMETERS),
            types=tuple(sorted({tensor.dtype.name for tensor in model.tensors.values()})),
            container="safetensors",
            config=sources.config,
            card=sources.card,
            training=sources.training,
            materials=sources.materials,
        )
    )
    KeptDocuments(home).put(facts.copy or facts.release, documents)
    return _write(folder, documents)


def restore_documents(
    signed: Manifest, present: Iterable[str], copy_id: str, folder: Path, home: Path
) -> dict[str, bytes]:
    """Write the documents that a copy was signed with, as they were then; gives the SHA-256 of each.

    `present` are the files that the copy has already. Raises DigestError when the home no longer keeps them.
    """
    listed = {one.name: one.digest for one in signed.resources if one.name in DOCUMENTS}
    wanted = {name: digest for name, digest in listed.items() if name not in set(present)}
    kept = KeptDocuments(home).find(copy_id)
    lost = sorted(name for name, digest in wanted.items() if hashlib.sha256(kept.get(name, b"")).digest() != digest)
    if lost:
        raise DigestError(
            f"the {lost[0]} that copy {copy_id[:16]} was signed with is not kept in this home any more",
            hint=f"restore {FOLDER}/{copy_id}.json from a backup, or take the file from a copy that was shipped",
        )
    return _write(folder, {name: kept[name] for name in wanted})


def document_predicates(digests: Mapping[str, bytes], key: PublicKey) -> list[tuple[str, dict[str, Any]]]:
    """A reference statement's predicate for each document among the digests of a copy's files."""
    return [
        (REFERENCE_PREDICATE, reference(key.key_id, name, media_type, digests[name].hex()))
        for name, media_type in DOCUMENTS.items()
        if name in digests
    ]


def _write(folder: Path, documents: Mapping[str, bytes]) -> dict[str, bytes]:
    try:
        for name, data in documents.items():
            (folder / name).write_bytes(data)
    except OSError as err:
        raise UnavailableError(
            f"cannot write the documents: {err.strerror}", hint="free some disk space and run again"
        ) from err
    return {name: hashlib.sha256(data).digest() for name, data in documents.items()}
