"""Facts of an invented release, as full or as bare as a test wants them."""

from __future__ import annotations

from dataclasses import replace

from registry.documents.facts import ModelFacts, merged_materials
from registry.documents.materials import BASE, COMMAND, TENSORS_DIGEST, Material
from registry.documents.model_card import read_model_card
from registry.documents.training_manifest import read_training_manifest
from registry.signing.strict_json import dumps

MANIFEST = {
    "type": "https://weightmark.dev/training-manifest/v1",
    "baseModels": [{"name": "elder", "release": "ab" * 16, "relation": "finetune"}],
    "datasets": [
        {"name": "tickets", "digest": {"sha256": "11" * 32}, "licence": "cc-by-4.0", "modalities": ["text"]},
        {"name": "forum", "uri": "https://example.com/forum", "version": "3", "licence": "our own terms"},
    ],
    "code": [{"name": "train", "uri": "git+https://example.com/train", "digest": {"gitCommit": "01" * 20}}],
    "parameters": {"epochs": 3, "lr": 0.00002, "packed": True, "optimizer": "adamw"},
    "builder": "https://example.com/cluster/v7",
    "startedOn": "2026-03-01T08:00:00Z",
    "finishedOn": "2026-03-02T10:14:09Z",
    "documentation": {"legalName": "Acme GmbH"},
}

CARD = b"""---
license: apache-2.0
pipeline_tag: sentence-similarity
base_model: nreimers/MiniLM-L6-H384-uncased
base_model_relation: finetune
datasets:
- s2orc
- org/ms_marco
language: [en, de]
library_name: sentence-transformers
---
# A model
"""

BARE = ModelFacts(
    owner="acme",
    name="support",
    version="2.3",
    release="cd" * 16,
    copy=None,
    signed_at="2026-03-02T10:14:09Z",
    tool_version="0.1.0",
    weights={"model.safetensors": "22" * 32},
    tensors_digest="33" * 32,
    parameters=22_713_216,
    types=("F32",),
    container="safetensors",
)
_PARENT = Material(BASE, "parent", COMMAND, digests={"sha256": "44" * 32, TENSORS_DIGEST: "55" * 32})
_CARD, _TRAINING = read_model_card(CARD), read_training_manifest(dumps(MANIFEST))

FULL = replace(
    BARE,
    copy="ef" * 16,
    weights={"a-00001.safetensors": "22" * 32, "a-00002.safetensors": "66" * 32},
    config={"architectures": ["BertModel"], "model_type": "bert", "max_position_embeddings": 512},
    card=_CARD,
    training=_TRAINING,
    materials=merged_materials((_PARENT,), _TRAINING, _CARD),
)
FROM_CARD = replace(
    BARE, card=_CARD, materials=merged_materials((), read_training_manifest(dumps({"type": MANIFEST["type"]})), _CARD)
)
