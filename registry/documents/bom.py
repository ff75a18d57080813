"""`bom.cdx.json`: a bill of materials for a model, in CycloneDX 1.6 (ECMA-424), component type machine-learning-model.

Weight files are nested file components with their SHA-256, base models are the pedigree's ancestors, data sets are
components that the model card refers to. The same facts give the same bytes: the serial number derives from the copy's
id. Describes what is known; whatever is not known is absent.
"""

from __future__ import annotations

import uuid
from typing import Any

from registry.documents.facts import ModelFacts
from registry.documents.licences import spdx_id
from registry.documents.materials import Material
from registry.documents.modalities import modalities_of

BOM_NAME = "bom.cdx.json"
BOM_MEDIA_TYPE = "application/vnd.cyclonedx+json; version=1.6"
SPEC_VERSION = "1.6"
_MODEL = "machine-learning-model"
_HASHES = {"sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}


def bill_of_materials(facts: ModelFacts) -> dict[str, Any]:
    """The bill of materials of a copy, as JSON."""
    datasets = [_dataset(material, f"dataset-{number}") for number, material in enumerate(facts.datasets)]
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:weightmark:copy:{facts.identity}')}",
        "version": 1,
        "metadata": {
            "timestamp": facts.signed_at,
            "tools": {"components": [{"type": "application", "name": "weightmark", "version": facts.tool_version}]},
            "component": _model(facts, [one["bom-ref"] for one in datasets]),
        },
        "components": datasets,
        "dependencies": [{"ref": "model", "dependsOn": [one["bom-ref"] for one in datasets]}],
    }


def _model(facts: ModelFacts, datasets: list[str]) -> dict[str, Any]:
    files = [
        {"type": "file", "bom-ref": f"file-{number}", "name": path, "hashes": [_hash("SHA-256", digest)]}
        for number, (path, digest) in enumerate(sorted(facts.weights.items()))
    ]
    component: dict[str, Any] = {
        "type": _MODEL,
        "bom-ref": "model",
        "supplier": {"name": facts.owner},
        "name": facts.name,
        "version": facts.version,
        "components": files,
        "modelCard": _model_card(facts, datasets),
        "properties": [
            {"name": "weightmark:release", "value": facts.release},
            {"name": "weightmark:tensors", "value": facts.tensors_digest},
            {"name": "weightmark:parameters", "value": str(facts.parameters)},
            {"name": "weightmark:types", "value": ", ".join(facts.types)},
        ],
    }
    if len(files) == 1:
        component["hashes"] = files[0]["hashes"]
    if facts.card.licence:
        component["licenses"] = [_licence(facts.card.licence, facts.card.licence_link)]
    if facts.bases:
        component["pedigree"] = {"ancestors": [_ancestor(one, number) for number, one in enumerate(facts.bases)]}
    return component


def _model_card(facts: ModelFacts, datasets: list[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for key, value in (
        ("task", facts.card.task),
        ("architectureFamily", facts.family),
        ("modelArchitecture", facts.architecture),
    ):
        if value:
            parameters[key] = value
    if datasets:
        parameters["datasets"] = [{"ref": one} for one in datasets]
    modalities = modalities_of(facts.card.task)
    if modalities is not None:
        parameters["inputs"] = [{"format": one} for one in modalities.inputs]
        parameters["outputs"] = [{"format": one} for one in modalities.outputs]
    return {"modelParameters": parameters}


def _ancestor(material: Material, number: int) -> dict[str, Any]:
    component: dict[str, Any] = {"type": _MODEL, "bom-ref": f"ancestor-{number}", "name": material.name}
    if material.version:
        component["version"] = material.version
    if material.purl:
        component["purl"] = material.purl
    return {**component, **_known_of(material)}


def _dataset(material: Material, reference: str) -> dict[str, Any]:
    component: dict[str, Any] = {"type": "data", "bom-ref": reference, "name": material.name}
    if material.version:
        component["version"] = material.version
    if material.licence:
        component["licenses"] = [_licence(material.licence, None)]
    contents = {"contents": {"url": material.uri}} if material.uri else {}
    return {**component, "data": [{"type": "dataset", "name": material.name, **contents}], **_known_of(material)}


def _known_of(material: Material) -> dict[str, Any]:
    """Hashes that CycloneDX has a name for; other digests and our own words as properties."""
    known: dict[str, Any] = {}
    hashes = [_hash(_HASHES[name], digits) for name, digits in material.digests.items() if name in _HASHES]
    if hashes:
        known["hashes"] = hashes
    if material.uri:
        known["externalReferences"] = [{"type": "distribution", "url": material.uri}]
    said = {"relation": material.relation, "release": material.release, "declared-by": material.declared_by}
    said |= {f"digest:{name}": digits for name, digits in material.digests.items() if name not in _HASHES}
    known["properties"] = [{"name": f"weightmark:{key}", "value": value} for key, value in said.items() if value]
    return known


def _hash(algorithm: str, digits: str) -> dict[str, str]:
    return {"alg": algorithm, "content": digits}


def _licence(name: str, link: str | None) -> dict[str, Any]:
    identifier = spdx_id(name)
    licence: dict[str, str] = {"id": identifier} if identifier else {"name": name}
    if link and link.startswith("https://"):
        licence["url"] = link
    return {"license": licence}
