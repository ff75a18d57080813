"""`model-documentation.json`: the EU model documentation form, filled in as far as a release knows the answers.

Every field of the form stands there: known, with where the answer comes from; declared, by the training manifest; or
unknown, so that nobody takes silence for an answer. A draft for the provider, not a legal statement.
"""

from __future__ import annotations

from typing import Any

from registry.documents.facts import ModelFacts
from registry.documents.form import FIELDS, FORM_NAME, SECTIONS
from registry.documents.licences import spdx_id
from registry.documents.modalities import modalities_of

DOCUMENTATION_NAME = "model-documentation.json"
DOCUMENTATION_MEDIA_TYPE = "application/json"
DOCUMENTATION_TYPE = "https://weightmark.dev/model-documentation/v1"

#: Upper ends of the form's ranges of model size.
_SIZES = (
    (500_000_000, "1 to 500 million"),
    (5_000_000_000, "500 million to 5 billion"),
    (15_000_000_000, "5 to 15 billion"),
    (50_000_000_000, "15 to 50 billion"),
    (100_000_000_000, "50 to 100 billion"),
    (500_000_000_000, "100 to 500 billion"),
    (1_000_000_000_000, "500 billion to 1 trillion"),
)


def model_documentation(facts: ModelFacts) -> dict[str, Any]:
    """The form of a copy, as JSON. What the training manifest declares goes before what the files show."""
    known = _known(facts)
    sections: list[dict[str, Any]] = []
    unknown: list[str] = []
    for title, fields in SECTIONS:
        filled: list[dict[str, Any]] = []
        for key, name in fields:
            number = f"{len(sections) + 1}.{len(filled) + 1}"
            field: dict[str, Any] = {"number": number, "key": key, "name": name}
            if key in facts.training.documentation:
                field |= {
                    "status": "declared",
                    "value": facts.training.documentation[key],
                    "source": "training manifest",
                }
            elif key in known:
                value, source = known[key]
                field |= {"status": "known", "value": value, "source": source}
            else:
                field["status"] = "unknown"
                unknown.append(key)
            filled.append(field)
        sections.append({"title": title, "fields": filled})
    return {
        "type": DOCUMENTATION_TYPE,
        "form": FORM_NAME,
        "model": {"name": facts.name, "version": facts.version, "owner": facts.owner, "release": facts.release},
        "sections": sections,
        "unknown": unknown,
        "answered": len(FIELDS) - len(unknown),
    }


def _known(facts: ModelFacts) -> dict[str, tuple[Any, str]]:
    """What the release itself shows, and where it stands."""
    known: dict[str, tuple[Any, str]] = {
        "modelName": (f"{facts.name} {facts.version}", "release"),
        "modelAuthenticity": (
            {
                "signature": "model.sig (OpenSSF Model Signing v1.0), with a log proof in release.tlog-proof",
                "sha256": dict(sorted(facts.weights.items())),
                "release": facts.release,
            },
            "release",
        ),
        "releaseDate": (f"{facts.signed_at} (this release, by the owner's clock)", "release"),
        "totalModelSize": (
            {"parameters": facts.parameters, "range": _size(facts.parameters), "types": list(facts.types)},
            "weights",
        ),
        "distributionChannels": (
            f"files in a folder ({facts.container}); where they are offered is not known",
            "release",
        ),
    }
    if facts.bases:
        known["modelDependencies"] = (
            [_dependency(one.name, one.version) for one in facts.bases],
            "provenance.slsa.json",
        )
    architecture = [one for one in (facts.family, facts.architecture) if one]
    if architecture:
        known["modelArchitecture"] = (": ".join(architecture), "config.json")
    modalities = modalities_of(facts.card.task)
    if modalities is not None:
        limit = facts.config.get("max_position_embeddings")
        most = {"maximumInputTokens": limit} if isinstance(limit, int) and "text" in modalities.inputs else {}
        known["inputModalities"] = ({"modalities": list(modalities.inputs), **most}, "model card")
        known["outputModalities"] = ({"modalities": list(modalities.outputs)}, "model card")
    if facts.card.licence:
        known["licence"] = (spdx_id(facts.card.licence) or facts.card.licence, "model card")
    if facts.card.library:
        known["requiredSoftware"] = (facts.card.library, "model card")
    if facts.datasets:
        known["dataProvenance"] = (
            [_dependency(one.name, one.version) for one in facts.datasets],
            "provenance.slsa.json",
        )
    kinds = sorted({kind for one in facts.datasets for kind in one.modalities})
    if kinds:
        known["dataModalities"] = (kinds, "training manifest")
    if facts.training.started_on and facts.training.finished_on:
        time = {"startedOn": facts.training.started_on, "finishedOn": facts.training.finished_on}
        known["trainingTime"] = (time, "training manifest")
    return known


def _size(parameters: int) -> str:
    return next((name for most, name in _SIZES if parameters <= most), "more than 1 trillion")


def _dependency(name: str, version: str | None) -> str:
    return f"{name} {version}" if version else name
