from __future__ import annotations

from typing import Any

import pytest

from registry.documents.form import FIELDS
from registry.documents.materials import BASE, CODE, DATASET
from registry.documents.training_manifest import read_training_manifest
from registry.signing.strict_json import dumps
from tests.registry.documents.facts import MANIFEST
from watermark.errors import DocumentError

ONE = {"name": "x", "uri": "https://example.com/x"}


def test_everything_that_it_says_is_read() -> None:
    read = read_training_manifest(dumps(MANIFEST))
    assert [(one.role, one.name) for one in read.materials] == [
        (BASE, "elder"),
        (DATASET, "tickets"),
        (DATASET, "forum"),
        (CODE, "train"),
    ]
    assert read.materials[0].release == "ab" * 16
    assert read.materials[1].digests == {"sha256": "11" * 32}
    assert read.parameters == MANIFEST["parameters"]
    assert (read.builder, read.started_on, read.finished_on) == (
        MANIFEST["builder"],
        MANIFEST["startedOn"],
        MANIFEST["finishedOn"],
    )
    assert read.documentation == {"legalName": "Acme GmbH"}


def test_the_type_alone_is_enough() -> None:
    assert read_training_manifest(dumps({"type": MANIFEST["type"]})).materials == ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": "https://example.com"}, "type"),
        ({"basemodels": []}, "basemodels"),
        ({"baseModels": {}}, "list"),
        ({"baseModels": [{**ONE, "digset": {}}]}, "digset"),
        ({"baseModels": [{"name": "x"}]}, "no uri, digest or release"),
        ({"baseModels": [{**ONE, "relation": "copied"}]}, "relation"),
        ({"baseModels": [{**ONE, "release": "AB" * 16}]}, "release"),
        ({"datasets": [{**ONE, "release": "ab" * 16}]}, "release"),
        ({"datasets": [{**ONE, "name": ""}]}, "name"),
        ({"datasets": [{**ONE, "name": "a\nb"}]}, "name"),
        ({"datasets": [{"name": "x", "uri": "x.csv"}]}, "URI"),
        ({"datasets": [{"name": "x", "uri": "https://[x"}]}, "URI"),
        ({"datasets": [{**ONE, "digest": {"sha256": "11" * 31}}]}, "sha256"),
        ({"datasets": [{**ONE, "digest": {"sha256": "A1" * 32}}]}, "sha256"),
        ({"datasets": [{**ONE, "digest": {"md5": "11" * 16}}]}, "md5"),
        ({"datasets": [{**ONE, "modalities": [1]}]}, "modalities"),
        ({"code": ["x"]}, "object"),
        ({"parameters": {"layers": [1]}}, "layers"),
        ({"builder": "cluster"}, "URI"),
        ({"startedOn": "2026-03-01"}, "startedOn"),
        ({"startedOn": "2026-02-30T08:00:00Z"}, "startedOn"),
        ({"startedOn": "2027-01-01T00:00:00Z"}, "before it started"),
        ({"documentation": {"legalname": "Acme"}}, "legalname"),
        ({"documentation": {"legalName": 7}}, "text"),
        ({"datasets": [ONE] * 1001}, "1000"),
    ],
)
def test_anything_else_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(DocumentError, match=named):
        read_training_manifest(dumps({**MANIFEST, **change}))


def test_a_key_twice_is_no_manifest() -> None:
    with pytest.raises(DocumentError, match="twice"):
        read_training_manifest(b'{"type":"https://weightmark.dev/training-manifest/v1","code":[],"code":[]}')


def test_the_form_has_each_field_once() -> None:
    assert len(set(FIELDS)) == len(FIELDS) == 36
