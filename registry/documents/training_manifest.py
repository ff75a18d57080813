"""The training manifest: what the people who trained a model say of its making, as one strict JSON document of ours.

    {"type": "https://weightmark.dev/training-manifest/v1",
     "baseModels": [{"name", "uri", "version", "release", "digest", "relation"}],
     "datasets":   [{"name", "uri", "version", "digest", "licence", "modalities"}],
     "code":       [{"name", "uri", "version", "digest"}],
     "parameters": {NAME: text, number or true/false},
     "builder": URI, "startedOn": TIME, "finishedOn": TIME,
     "documentation": {FIELD of the model documentation form: text}}

Only `type` must be there; of a material its `name`, and one of `uri`, `digest` and `release`. Unknown keys are refused:
a misspelled one would be silently left out of what is signed. Verifies nothing that is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from registry.documents.form import FIELDS
from registry.documents.materials import (
    BASE,
    CODE,
    DATASET,
    MANIFEST,
    RELATIONS,
    Material,
    check_release_id,
    check_uri,
    read_digests,
)
from registry.signing.strict_json import MAX_REQUEST_BYTES, as_object, loads, member
from watermark.errors import DocumentError

MANIFEST_TYPE = "https://weightmark.dev/training-manifest/v1"
MAX_MATERIALS = 1000
_WHAT = "the training manifest"
_LISTS = {"baseModels": BASE, "datasets": DATASET, "code": CODE}
_KEYS = {
    BASE: ("name", "uri", "version", "release", "digest", "relation"),
    DATASET: ("name", "uri", "version", "digest", "licence", "modalities"),
    CODE: ("name", "uri", "version", "digest"),
}
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")


@dataclass(frozen=True)
class TrainingManifest:
    """A training manifest as read."""

    materials: tuple[Material, ...] = ()
    parameters: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    builder: str | None = None
    started_on: str | None = None
    finished_on: str | None = None
    documentation: Mapping[str, str] = field(default_factory=dict)


def read_training_manifest(data: bytes) -> TrainingManifest:
    """Read a training manifest strictly; DocumentError naming what is wrong."""
    allowed = ("type", *_LISTS, "parameters", "builder", "startedOn", "finishedOn", "documentation")
    fields = as_object(loads(data, what=_WHAT, max_bytes=MAX_REQUEST_BYTES), _WHAT, allowed=allowed)
    if member(fields, "type", str, _WHAT) != MANIFEST_TYPE:
        raise DocumentError(
            f"{_WHAT} is of the type {fields['type'][:80]!a}", hint=f'its "type" must be {MANIFEST_TYPE}'
        )
    materials: list[Material] = []
    for key, role in _LISTS.items():
        listed = member(fields, key, list, _WHAT) if key in fields else []
        materials += [_material(one, role, f"{key}[{at}] of {_WHAT}") for at, one in enumerate(listed)]
    if len(materials) > MAX_MATERIALS:
        raise DocumentError(f"{_WHAT} names {len(materials)} materials; at most {MAX_MATERIALS} are read")
    builder = _text(fields, "builder", _WHAT)
    started, finished = _time(fields, "startedOn"), _time(fields, "finishedOn")
    if started and finished and finished < started:
        raise DocumentError(f"{_WHAT}: finished before it started")
    return TrainingManifest(
        tuple(materials),
        _parameters(fields.get("parameters", {})),
        check_uri(builder, f"the builder in {_WHAT}") if builder else None,
        started,
        finished,
        _documentation(fields.get("documentation", {})),
    )


def _material(value: Any, role: str, what: str) -> Material:
    fields = as_object(value, what, allowed=_KEYS[role])
    name = member(fields, "name", str, what)
    if not name or not name.isprintable() or len(name) > 500:
        raise DocumentError(f"the name of {what} is empty, too long or not printable")
    uri, release, relation = (_text(fields, key, what) for key in ("uri", "release", "relation"))
    if relation is not None and relation not in RELATIONS:
        raise DocumentError(f"the relation of {what} is not one of {', '.join(RELATIONS)}")
    digests = read_digests(fields["digest"], what) if "digest" in fields else {}
    if not (uri or release or digests):
        raise DocumentError(f"{what} has no uri, digest or release: nobody could find it")
    modalities = member(fields, "modalities", list, what) if "modalities" in fields else []
    if not all(isinstance(one, str) for one in modalities):
        raise DocumentError(f"the modalities of {what} are not texts")
    return Material(
        role,
        name,
        MANIFEST,
        uri=check_uri(uri, what) if uri else None,
        version=_text(fields, "version", what),
        digests=digests,
        relation=relation,
        release=check_release_id(release, what) if release else None,
        licence=_text(fields, "licence", what),
        modalities=tuple(modalities),
    )


def _parameters(value: Any) -> dict[str, str | int | float | bool]:
    fields = as_object(value, f"the parameters of {_WHAT}")
    for name, one in fields.items():
        if not isinstance(one, str | int | float | bool):
            raise DocumentError(f"the parameter {name!a} of {_WHAT} is not a text, number, true or false")
    return fields


def _documentation(value: Any) -> dict[str, str]:
    fields = as_object(value, f"the documentation of {_WHAT}", allowed=FIELDS)
    for name in fields:
        member(fields, name, str, f"the documentation of {_WHAT}")
    return fields


def _text(fields: dict[str, Any], key: str, what: str) -> str | None:
    return member(fields, key, str, what) if key in fields else None


def _time(fields: dict[str, Any], key: str) -> str | None:
    text = _text(fields, key, _WHAT)
    if text is None:
        return None
    try:
        if _TIME.fullmatch(text):
            datetime.fromisoformat(text)
            return text
    except ValueError:
        pass  # told below
    raise DocumentError(f"{key!r} of {_WHAT} is not a time like 2026-03-02T10:14:09Z")
