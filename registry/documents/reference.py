"""The in-toto reference predicate: a signed pointer to a document by its digest (attestation framework, v0.1).

One statement a document, about the model's root digest, as lines of `claims.jsonl`: whoever gathers bills of materials
finds them without knowing our file names. Knows no document's content.
"""

from __future__ import annotations

from typing import Any

REFERENCE_PREDICATE = "https://in-toto.io/attestation/reference/v0.1"


def reference(key_id: str, name: str, media_type: str, sha256: str) -> dict[str, Any]:
    """The predicate that points at the file `name` beside the statement; `key_id` is that of the signer."""
    descriptor = {"name": name, "downloadLocation": name, "mediaType": media_type, "digest": {"sha256": sha256}}
    return {"attester": {"id": f"urn:weightmark:key:{key_id}"}, "references": [descriptor]}
