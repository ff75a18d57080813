"""in-toto Statements v1: a predicate of some type about one model.

The subject is the model's root digest (see `manifest.root_digest`), so that lineage, mark commitments and
fingerprints all speak of the same bytes that the model signature covers. Knows no predicate type's inner rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.signing.encoding import from_hex
from registry.signing.refusals import PREDICATE_TYPE, SUBJECT
from registry.signing.refusals import STATEMENT_TYPE as WRONG_STATEMENT_TYPE
from registry.signing.strict_json import MAX_BUNDLE_BYTES, as_object, dumps, loads, member
from watermark.errors import DocumentError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_WHAT = "the statement"


@dataclass(frozen=True)
class Statement:
    """What a signer says about one subject."""

    subject_name: str
    root: bytes
    predicate_type: str
    predicate: Mapping[str, Any]


def build_statement(statement: Statement) -> bytes:
    """The payload bytes of a statement: sorted keys, no spaces, UTF-8 not escaped."""
    if len(statement.root) != 32 or not statement.subject_name:
        raise DocumentError("a statement needs a subject name and a SHA-256 root digest")
    return dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": statement.subject_name, "digest": {"sha256": statement.root.hex()}}],
            "predicateType": statement.predicate_type,
            "predicate": dict(statement.predicate),
        }
    )


def parse_statement(payload: bytes, *, predicate_type: str | None = None) -> Statement:
    """Read the payload of a verified envelope as a statement about exactly one subject.

    With `predicate_type` any other type is refused. Raises DocumentError. Call it on verified bytes only.
    """
    fields = as_object(
        loads(payload, what=_WHAT, max_bytes=MAX_BUNDLE_BYTES),
        _WHAT,
        allowed=("_type", "subject", "predicateType", "predicate"),
    )
    if member(fields, "_type", str, _WHAT) != STATEMENT_TYPE:
        raise WRONG_STATEMENT_TYPE(f"{_WHAT} is of the type {fields['_type']!r}, not in-toto Statement v1")
    kind = member(fields, "predicateType", str, _WHAT)
    if predicate_type is not None and kind != predicate_type:
        raise PREDICATE_TYPE(f"{_WHAT} has the predicate type {kind!r}, not {predicate_type!r}")
    subjects = member(fields, "subject", list, _WHAT)
    if len(subjects) != 1:
        raise SUBJECT(f"{_WHAT} has {len(subjects)} subjects, not one")
    subject = as_object(subjects[0], f"the subject of {_WHAT}")
    name = member(subject, "name", str, f"the subject of {_WHAT}")
    if not name:
        raise SUBJECT(f"the subject of {_WHAT} has an empty name")
    digests = member(subject, "digest", dict, f"the subject of {_WHAT}")
    root = from_hex(member(digests, "sha256", str, f"the subject of {_WHAT}"), what="the root digest")
    return Statement(name, root, kind, member(fields, "predicate", dict, _WHAT))
