"""`provenance.slsa.json`: how a model came to be, as SLSA Provenance v1 in an in-toto Statement v1, and read again.

The subjects are the weight files of this copy; base models, data sets and code are resolved dependencies, by digest
where one is known. The document is not signed by itself: it lies in the folder that `model.sig` covers. Says what was
declared; whether a parent is what it says is told by `lineage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.documents.facts import ModelFacts
from registry.documents.materials import (
    BASE,
    CODE,
    DATASET,
    RELATIONS,
    Material,
    check_release_id,
    check_uri,
    read_digests,
)
from registry.signing.statement import STATEMENT_TYPE
from registry.signing.strict_json import as_object, loads, member
from watermark.errors import DocumentError

PROVENANCE_NAME = "provenance.slsa.json"
PROVENANCE_MEDIA_TYPE = "application/vnd.in-toto+json"
PROVENANCE_PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://weightmark.dev/build/release/v1"
OWNER_BUILDER = "https://weightmark.dev/builder/owner/v1"
MAX_PROVENANCE_BYTES = 8 << 20
_WHAT = "the provenance"


def provenance(facts: ModelFacts) -> dict[str, Any]:
    """The provenance of a copy, as JSON."""
    training = facts.training
    said: dict[str, Any] = {"parameters": dict(training.parameters)}
    said |= {"startedOn": training.started_on} if training.started_on else {}
    said |= {"finishedOn": training.finished_on} if training.finished_on else {}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": path, "digest": {"sha256": digest}} for path, digest in sorted(facts.weights.items())],
        "predicateType": PROVENANCE_PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "owner": facts.owner,
                    "name": facts.name,
                    "version": facts.version,
                    "training": said,
                },
                "internalParameters": {"release": facts.release, "copy": facts.copy},
                "resolvedDependencies": [_descriptor(material) for material in facts.materials],
            },
            "runDetails": {
                "builder": {
                    "id": training.builder or OWNER_BUILDER,
                    "version": {"weightmark": facts.tool_version},
                },
                "metadata": {
                    "invocationId": f"urn:weightmark:copy:{facts.identity}",
                    "finishedOn": facts.signed_at,
                },
            },
        },
    }


def read_materials(data: bytes) -> tuple[Material, ...]:
    """Read the materials out of a provenance that `provenance` wrote and a verified signature covers.

    Provenance by others is read as far as it has a name and a role for each dependency; DocumentError otherwise.
    """
    fields = as_object(loads(data, what=_WHAT, max_bytes=MAX_PROVENANCE_BYTES), _WHAT)
    if member(fields, "predicateType", str, _WHAT) != PROVENANCE_PREDICATE:
        raise DocumentError(f"{_WHAT} is of the type {fields['predicateType'][:80]!a}, not SLSA v1")
    definition = member(member(fields, "predicate", dict, _WHAT), "buildDefinition", dict, _WHAT)
    listed = member(definition, "resolvedDependencies", list, _WHAT) if "resolvedDependencies" in definition else []
    return tuple(_material(one, f"dependency {at} of {_WHAT}") for at, one in enumerate(listed))


def _descriptor(material: Material) -> dict[str, Any]:
    """An in-toto ResourceDescriptor: a place or a digest must be there, our own words are annotations."""
    uri = material.uri
    if uri is None and material.release:
        uri = f"urn:weightmark:release:{material.release}"
    annotations = {
        "role": material.role,
        "declaredBy": material.declared_by,
        "version": material.version,
        "relation": material.relation,
        "release": material.release,
        "licence": material.licence,
    }
    descriptor: dict[str, Any] = {"name": material.name}
    descriptor |= {"uri": uri} if uri else {}
    descriptor |= {"digest": dict(material.digests)} if material.digests else {}
    return {**descriptor, "annotations": {key: value for key, value in annotations.items() if value is not None}}


def _material(value: Any, what: str) -> Material:
    fields = as_object(value, what)
    said: Mapping[str, Any] = member(fields, "annotations", dict, what) if "annotations" in fields else {}
    role = said.get("role")
    if role not in (BASE, DATASET, CODE):
        raise DocumentError(f"{what} has no role that is known here")
    uri, release = fields.get("uri"), said.get("release")
    relation = said.get("relation")
    return Material(
        role,
        member(fields, "name", str, what),
        str(said.get("declaredBy", "")),
        uri=check_uri(uri, what) if isinstance(uri, str) else None,
        version=said["version"] if isinstance(said.get("version"), str) else None,
        digests=read_digests(fields["digest"], what) if "digest" in fields else {},
        relation=relation if relation in RELATIONS else None,
        release=check_release_id(release, what) if isinstance(release, str) else None,
        licence=said["licence"] if isinstance(said.get("licence"), str) else None,
    )
