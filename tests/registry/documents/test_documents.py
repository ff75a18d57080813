"""Every document against what others made of its standard: the public JSON schemas, protobuf messages, and parsers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import ComponentType
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.resource_descriptor_pb2 import ResourceDescriptor as ResourceDescriptorMessage
from in_toto_attestation.v1.statement_pb2 import Statement

from registry.documents.facts import ModelFacts
from registry.documents.form import FIELDS
from registry.documents.materials import BASE, CARD, COMMAND, DATASET, MANIFEST, hub_material
from registry.documents.provenance import read_materials
from registry.documents.reference import reference
from registry.documents.write import DOCUMENTS, write_documents
from tests.registry.documents.facts import BARE, FROM_CARD, FULL
from watermark.errors import DocumentError

ALL = pytest.mark.parametrize("facts", [BARE, FULL, FROM_CARD], ids=["bare", "full", "card"])


def document(facts: ModelFacts, name: str) -> Any:
    return json.loads(write_documents(facts)[name])


@ALL
def test_the_same_facts_give_the_same_bytes(facts: ModelFacts) -> None:
    documents = write_documents(facts)
    assert set(documents) == set(DOCUMENTS)
    assert documents == write_documents(facts)
    assert all(data.endswith(b"}\n") for data in documents.values())


@ALL
def test_the_bill_of_materials_is_valid_by_the_public_schema(facts: ModelFacts) -> None:
    text = write_documents(facts)["bom.cdx.json"].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert (
        JsonStrictValidator(SchemaVersion.V1_7).validate_str(
            text.replace('"1.6"', '"1.7"').replace("bom-1.6", "bom-1.7")
        )
        is None
    )


def test_the_schema_would_find_a_fault() -> None:
    bom = document(FULL, "bom.cdx.json")
    bom["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"] = ["tickets"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is not None


@ALL
def test_the_bill_of_materials_opens_in_its_peers_tool(facts: ModelFacts) -> None:
    bom = Bom.from_json(data=document(facts, "bom.cdx.json"))  # type: ignore[attr-defined]
    model = bom.metadata.component
    assert model.type is ComponentType.MACHINE_LEARNING_MODEL
    assert (model.name, model.version) == ("support", "2.3")
    assert {one.name: next(iter(one.hashes)).content for one in model.components} == dict(facts.weights)
    ancestors = [one.name for one in model.pedigree.ancestors] if model.pedigree else []
    assert sorted(ancestors) == sorted(one.name for one in facts.bases)
    assert {one.name for one in bom.components} == {one.name for one in facts.datasets}
    assert bom.validate()


def test_ancestors_carry_digests_and_package_urls() -> None:
    ancestors = document(FULL, "bom.cdx.json")["metadata"]["component"]["pedigree"]["ancestors"]
    assert [one["name"] for one in ancestors] == ["parent", "elder"]
    assert ancestors[0]["hashes"] == [{"alg": "SHA-256", "content": "44" * 32}]
    assert {"name": "weightmark:digest:weightmarkTensors", "value": "55" * 32} in ancestors[0]["properties"]
    (from_card,) = document(FROM_CARD, "bom.cdx.json")["metadata"]["component"]["pedigree"]["ancestors"]
    assert from_card["purl"] == "pkg:huggingface/nreimers/MiniLM-L6-H384-uncased"


def test_one_weight_file_is_the_model_itself() -> None:
    assert document(BARE, "bom.cdx.json")["metadata"]["component"]["hashes"] == [
        {"alg": "SHA-256", "content": "22" * 32}
    ]
    assert "hashes" not in document(FULL, "bom.cdx.json")["metadata"]["component"]


def test_licences_by_spdx_identifier_or_by_name() -> None:
    bom = document(FULL, "bom.cdx.json")
    assert bom["metadata"]["component"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert [one["licenses"][0]["license"] for one in bom["components"]] == [
        {"id": "CC-BY-4.0"},
        {"name": "our own terms"},
    ]


@ALL
def test_the_provenance_is_the_message_that_in_toto_defines(facts: ModelFacts) -> None:
    """Parsed by the published protobuf definitions, which refuse an unknown or ill-typed field."""
    provenance = document(facts, "provenance.slsa.json")
    statement = json_format.ParseDict(provenance, Statement())
    assert statement.predicate_type == "https://slsa.dev/provenance/v1"
    assert {one.name: one.digest["sha256"] for one in statement.subject} == dict(facts.weights)
    predicate = json_format.ParseDict(provenance["predicate"], Provenance())
    definition = predicate.build_definition
    assert definition.build_type
    assert predicate.run_details.builder.id
    assert len(definition.resolved_dependencies) == len(facts.materials)
    for one in definition.resolved_dependencies:
        assert one.uri or one.digest  # a descriptor without either names nothing (in-toto, ResourceDescriptor)
        assert one.name


def test_the_message_would_find_a_fault() -> None:
    predicate = document(FULL, "provenance.slsa.json")["predicate"]
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({**predicate, "builder": "x"}, Provenance())


@ALL
def test_the_materials_come_back_out_of_the_provenance(facts: ModelFacts) -> None:
    read = read_materials(write_documents(facts)["provenance.slsa.json"])
    for one, original in zip(read, facts.materials, strict=True):
        assert (one.role, one.name, one.digests, one.relation, one.release, one.declared_by) == (
            original.role,
            original.name,
            original.digests,
            original.relation,
            original.release,
            original.declared_by,
        )


@pytest.mark.parametrize(
    "change",
    [
        {"predicateType": "https://slsa.dev/provenance/v0.2"},
        {"predicate": {}},
        {"predicate": {"buildDefinition": {"resolvedDependencies": [{"name": "x"}]}}},
        {"predicate": {"buildDefinition": {"resolvedDependencies": [{"annotations": {"role": BASE}}]}}},
        {
            "predicate": {
                "buildDefinition": {
                    "resolvedDependencies": [{"name": "x", "annotations": {"role": BASE, "release": "../../x"}}]
                }
            }
        },
        {
            "predicate": {
                "buildDefinition": {
                    "resolvedDependencies": [{"name": "x", "digest": {"sha256": "1"}, "annotations": {"role": BASE}}]
                }
            }
        },
    ],
)
def test_other_provenance_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DocumentError):
        read_materials(json.dumps({**document(FULL, "provenance.slsa.json"), **change}).encode())


def test_every_field_of_the_form_stands_there_known_or_not() -> None:
    for facts in (BARE, FULL):
        form = document(facts, "model-documentation.json")
        fields = {field["key"]: field for section in form["sections"] for field in section["fields"]}
        assert tuple(fields) == FIELDS
        assert form["unknown"] == [key for key, field in fields.items() if field["status"] == "unknown"]
        assert form["answered"] == len(FIELDS) - len(form["unknown"])
        assert all("value" in field for field in fields.values() if field["status"] != "unknown")
    assert fields["legalName"] == {
        "number": "1.1",
        "key": "legalName",
        "name": "Legal name of the model provider",
        "status": "declared",
        "value": "Acme GmbH",
        "source": "training manifest",
    }
    assert fields["totalModelSize"]["value"] == {
        "parameters": 22_713_216,
        "range": "1 to 500 million",
        "types": ["F32"],
    }
    assert fields["inputModalities"]["value"] == {"modalities": ["text"], "maximumInputTokens": 512}
    assert fields["modelArchitecture"]["value"] == "bert: BertModel"
    assert fields["licence"]["value"] == "Apache-2.0"
    assert fields["trainingTime"]["value"] == {
        "startedOn": "2026-03-01T08:00:00Z",
        "finishedOn": "2026-03-02T10:14:09Z",
    }
    assert fields["modelDependencies"]["value"] == ["parent", "elder"]
    assert fields["energy"]["status"] == "unknown"


def test_the_better_source_speaks_first() -> None:
    assert [(one.name, one.declared_by) for one in FULL.bases] == [("parent", COMMAND), ("elder", MANIFEST)]
    assert {one.declared_by for one in FULL.datasets} == {MANIFEST}
    assert {one.declared_by for one in FROM_CARD.materials} == {CARD}
    assert hub_material(DATASET, "../x") is None


def test_a_reference_is_a_descriptor_that_in_toto_reads() -> None:
    (descriptor,) = reference("aa" * 32, "bom.cdx.json", DOCUMENTS["bom.cdx.json"], "77" * 32)["references"]
    message = json_format.ParseDict(descriptor, ResourceDescriptorMessage())
    assert (message.download_location, message.media_type) == ("bom.cdx.json", DOCUMENTS["bom.cdx.json"])
    assert message.digest["sha256"] == "77" * 32
