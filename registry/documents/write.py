"""The documents of one copy as files: their names, media types and bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from registry.documents.bom import BOM_MEDIA_TYPE, BOM_NAME, bill_of_materials
from registry.documents.facts import ModelFacts
from registry.documents.model_documentation import (
    DOCUMENTATION_MEDIA_TYPE,
    DOCUMENTATION_NAME,
    model_documentation,
)
from registry.documents.provenance import PROVENANCE_MEDIA_TYPE, PROVENANCE_NAME, provenance

_WRITERS: Final[dict[str, Callable[[ModelFacts], dict[str, Any]]]] = {
    PROVENANCE_NAME: provenance,
    BOM_NAME: bill_of_materials,
    DOCUMENTATION_NAME: model_documentation,
}
#: Name and media type of each document.
DOCUMENTS: Final = {
    PROVENANCE_NAME: PROVENANCE_MEDIA_TYPE,
    BOM_NAME: BOM_MEDIA_TYPE,
    DOCUMENTATION_NAME: DOCUMENTATION_MEDIA_TYPE,
}


def write_documents(facts: ModelFacts) -> dict[str, bytes]:
    """Every document of a copy, by its file name; the same facts give the same bytes."""
    return {name: _readable(make(facts)) for name, make in _WRITERS.items()}


def _readable(document: dict[str, Any]) -> bytes:
    """For people as well: two columns of indent, in the order of writing, UTF-8, a final newline."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
