"""Signatures that model-signing 0.2 made (April 2025), before OMS v1.0: read on request, never written.

They list file digests as in-toto subjects, have no root digest, and sign a faulty encoding: `DSSEV1 ` and the Python
text form of the payload, with SHA-256 whatever the curve. Apart from that faulty encoding nothing is read more
leniently here. Whole files under SHA-256 only: that tool's other forms put digests of pieces, or of trees of pieces,
under the name `sha256`, which an annotation gives away; they are refused by name.
"""

from __future__ import annotations

from typing import Any

from registry.signing import dsse
from registry.signing.encoding import from_hex
from registry.signing.keys import PublicKey
from registry.signing.manifest import Manifest, Resource, Serialization, check_name
from registry.signing.refusals import LISTED_TWICE, NO_FILES, PREDICATE_TYPE, RESOURCE_FORM, RESOURCE_NAME
from registry.signing.refusals import STATEMENT_TYPE as WRONG_STATEMENT_TYPE
from registry.signing.statement import STATEMENT_TYPE
from registry.signing.strict_json import MAX_BUNDLE_BYTES, as_object, loads, member
from watermark.errors import DocumentError, PathEscapeError, SignatureError

LEGACY_PREDICATE_TYPE = "https://model_signing/Digests/v0.1"
_HOW, _WHOLE_FILE = "actual_hash_algorithm", "file-sha256"
_WHAT = "the old model signature's statement"


def legacy_pae(payload_type: str, payload: bytes) -> bytes:
    """The faulty encoding that model-signing 0.2 signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEV1 %d %b %d %b" % (len(kind), kind, len(payload), repr(payload).encode("utf-8"))


def is_legacy_signature(envelope: dsse.Envelope, key: PublicKey) -> bool:
    """True when `key` signed this envelope in the faulty old way: says why it fails in the right one."""
    try:
        key.verify_with_sha256(envelope.signatures[0].sig, legacy_pae(envelope.payload_type, envelope.payload))
    except SignatureError:
        return False
    return True


def parse_legacy_payload(payload: bytes) -> Manifest:
    """Read the statement of an old signature whose faulty encoding was verified; DocumentError otherwise."""
    fields = as_object(loads(payload, what=_WHAT, max_bytes=MAX_BUNDLE_BYTES), _WHAT)
    if member(fields, "_type", str, _WHAT) != STATEMENT_TYPE:
        raise WRONG_STATEMENT_TYPE(f"{_WHAT} is no in-toto Statement v1")
    if member(fields, "predicateType", str, _WHAT) != LEGACY_PREDICATE_TYPE:
        raise PREDICATE_TYPE(f"{_WHAT} has the predicate type {fields['predicateType']!r}")
    resources = tuple(_resource(subject) for subject in member(fields, "subject", list, _WHAT))
    if not resources:
        raise NO_FILES(f"{_WHAT} lists no file")
    if len({resource.name for resource in resources}) != len(resources):
        raise LISTED_TWICE(f"{_WHAT} lists a file twice")
    return Manifest("model", resources, Serialization(), None)


def _resource(subject: Any) -> Resource:
    try:
        fields = as_object(subject, f"a subject of {_WHAT}")
        name = member(fields, "name", str, _WHAT)
        check_name(name)
        digests = member(fields, "digest", dict, _WHAT)
        digest = from_hex(member(digests, "sha256", str, _WHAT), what=f"the digest of {name!a}")
        _check_annotations(fields.get("annotations"), name)
    except DocumentError as error:
        raise RESOURCE_FORM(str(error)) from error
    except PathEscapeError as error:
        raise RESOURCE_NAME(str(error)) from error
    return Resource(name, digest)


def _check_annotations(annotations: Any, name: str) -> None:
    """The old tool says here how it came to a digest; absent, it is that of the whole file."""
    how = annotations.get(_HOW, _WHOLE_FILE) if isinstance(annotations, dict) else _WHOLE_FILE
    if how != _WHOLE_FILE:
        raise DocumentError(f"{_WHAT} takes the digest of {name!a} by {how!a}; only {_WHOLE_FILE!r} is read")
