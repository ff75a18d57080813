"""What the documents of a release are made from: the model's own files, the base, and the training manifest.

Read once for all copies, before any weight is written. A model card or config that cannot be used is a warning, since a
stranger wrote it; a training manifest that cannot is an error, since the owner asked for it. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.documents.facts import merged_materials
from registry.documents.materials import BASE, COMMAND, TENSORS_DIGEST, Material
from registry.documents.model_card import ModelCard, read_model_card
from registry.documents.training_manifest import TrainingManifest, read_training_manifest
from registry.documents.write import DOCUMENTS
from registry.log.proof import read_proof
from registry.signing.encoding import from_hex
from registry.signing.entry import RELEASE, read_entry
from registry.signing.manifest import PROOF_NAME
from registry.signing.small_files import read_small_file
from registry.signing.strict_json import MIB, as_object, loads
from registry.store.records import OwnerRecords
from watermark.errors import InputError, WeightmarkError
from watermark.model.digest import canonical_digest, digest_file, digest_tensors
from watermark.model.directory import Model

_MAX_FILE_BYTES = MIB


@dataclass(frozen=True)
class DocumentSources:
    """What documents may say of every copy of a release, and what could not be used."""

    materials: tuple[Material, ...]
    card: ModelCard
    training: TrainingManifest
    config: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_sources(model: Model, base: Material | None, manifest: Path | None) -> DocumentSources:
    """Read what documents are made from.

    Raises InputError when the model has a file of a document's name already, DocumentError for a training manifest
    that is not exactly one.
    """
    taken = sorted(entry.path for entry in model.files if entry.path in DOCUMENTS)
    if taken:
        raise InputError(
            f"the model has a {taken[0]} of its own, where the release writes one",
            hint="move it out of the folder or give it another name; or release with --no-documents, and it ships",
        )
    training = TrainingManifest()
    if manifest is not None:
        training = read_training_manifest(
            read_small_file(manifest, what="the training manifest", max_bytes=_MAX_FILE_BYTES)
        )
    warnings: list[str] = []
    card, config = ModelCard(), {}
    try:
        card = read_model_card(_read(model, "README.md"))
    except WeightmarkError as error:
        warnings.append(f"nothing of README.md stands in the documents: {error}")
    try:
        data = _read(model, "config.json")
        config = as_object(loads(data, what="config.json"), "config.json") if data else {}
    except WeightmarkError as error:
        warnings.append(f"nothing of config.json stands in the documents: {error}")
    materials = merged_materials((base,) if base is not None else (), training, card)
    return DocumentSources(materials, card, training, config, tuple(warnings))


def material_of_base(named: str, base: Model, tensors: str | None, records: OwnerRecords) -> Material:
    """The base that `--base` named: a release of this registry by its id, else the folder by its digests.

    `tensors` is the digest of its tensors where it was computed already. No path of this machine is told.
    """
    if not Path(named).exists():
        known = records.release(named)
        return Material(BASE, known.name, COMMAND, version=known.version, release=known.release_id)
    digests = {TENSORS_DIGEST: tensors or canonical_digest(digest_tensors(base).values()).hex()}
    if len(base.shards) == 1:
        digests["sha256"] = digest_file(base, base.shards[0]).hex()
    place = Path(named).resolve()
    return Material(BASE, place.name, COMMAND, digests=digests, release=_release_of(place))


def _release_of(folder: Path) -> str | None:
    """The release that a folder's log proof speaks of. Not verified here: a reader's `verify --lineage` does."""
    try:
        proof = read_proof(read_small_file(folder / PROOF_NAME, what="the log proof", max_bytes=2 * MIB))
        entry = read_entry(proof.extra or b"")
        release = entry.body.get("release")
        if entry.kind != RELEASE or not isinstance(release, str):
            return None
        from_hex(release, what="the release", size=16)
    except WeightmarkError:
        return None
    return release


def _read(model: Model, path: str) -> bytes:
    """The beginning of a file of the model, or nothing when there is none: bigger ones are cut, and then refused."""
    if model.is_single_file or path not in {entry.path for entry in model.files}:
        return b""
    with model.open_file(path) as stream:
        return stream.read(_MAX_FILE_BYTES + 1)
