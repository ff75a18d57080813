"""Everything public that documents may say of one copy of a release: plain data, gathered and written elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.documents.materials import BASE, DATASET, Material
from registry.documents.model_card import ModelCard
from registry.documents.training_manifest import TrainingManifest


@dataclass(frozen=True)
class ModelFacts:
    """One copy of a release. Digests are lower-case hex; `weights` gives the SHA-256 of each weight file by its path.

    `config` is the model's config.json as far as it could be read; `container` is the form of the weight files.
    `signed_at` is the owner's clock in RFC 3339.
    """

    owner: str
    name: str
    version: str
    release: str
    copy: str | None
    signed_at: str
    tool_version: str
    weights: Mapping[str, str]
    tensors_digest: str
    parameters: int
    types: tuple[str, ...]
    container: str
    config: Mapping[str, Any] = field(default_factory=dict)
    card: ModelCard = field(default_factory=ModelCard)
    training: TrainingManifest = field(default_factory=TrainingManifest)
    materials: tuple[Material, ...] = ()

    @property
    def identity(self) -> str:
        """The copy's own id, or the release's where there is no recipient."""
        return self.copy or self.release

    @property
    def bases(self) -> tuple[Material, ...]:
        """The models that this one derives from."""
        return tuple(one for one in self.materials if one.role == BASE)

    @property
    def datasets(self) -> tuple[Material, ...]:
        """The data that it was trained on."""
        return tuple(one for one in self.materials if one.role == DATASET)

    @property
    def architecture(self) -> str | None:
        """The class that loads it, as `architectures` in config.json names it."""
        listed = self.config.get("architectures")
        if isinstance(listed, list) and listed and all(isinstance(one, str) and one.isprintable() for one in listed):
            return ", ".join(listed)
        return None

    @property
    def family(self) -> str | None:
        """The family of architectures, as `model_type` in config.json names it."""
        kind = self.config.get("model_type")
        return kind if isinstance(kind, str) and kind and kind.isprintable() else None


def merged_materials(
    declared: tuple[Material, ...], manifest: TrainingManifest, card: ModelCard
) -> tuple[Material, ...]:
    """What was said of a model's making, with the better source first.

    A model card is believed about base models, or about data sets, only where neither command line nor manifest names
    any: it is the least exact of the three, and often the parent's own.
    """
    found = [*declared]
    known = {one.release for one in declared if one.release} | {digest for one in declared for digest in _digests(one)}
    for one in manifest.materials:
        if one.release not in known and not known & set(_digests(one)):
            found.append(one)
    said = {one.role for one in found}
    return (*found, *(one for one in card.materials if one.role not in said))


def _digests(material: Material) -> tuple[str, ...]:
    return tuple(f"{algorithm}:{digits}" for algorithm, digits in material.digests.items())
