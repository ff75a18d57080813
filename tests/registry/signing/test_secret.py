from __future__ import annotations

import json

import pytest

from registry.signing.secret import open_secret, seal_secret
from watermark.errors import DocumentError, InputError


def test_sealed_secret_opens_with_its_passphrase_only() -> None:
    document = seal_secret(b"\x00secret\xff", b"pass")
    assert b"secret" not in document.replace(b"weightmark-sealed-secret", b"")
    assert open_secret(document, b"pass") == b"\x00secret\xff"
    with pytest.raises(InputError, match="wrong passphrase"):
        open_secret(document, b"pazz")
    with pytest.raises(InputError, match="empty"):
        seal_secret(b"x", b"")


def test_changed_documents_are_refused() -> None:
    fields = json.loads(seal_secret(b"secret", b"pass"))
    for change in (
        {"v": 2},
        {"cipher": "none"},
        {"kdf": {**fields["kdf"], "n": 2}},
        {"salt": "AAAA"},
        {"nonce": ""},
        {"x": 1},
    ):
        with pytest.raises(DocumentError):
            open_secret(json.dumps({**fields, **change}).encode(), b"pass")
    for name in fields:
        with pytest.raises(DocumentError):
            open_secret(json.dumps({key: value for key, value in fields.items() if key != name}).encode(), b"pass")
    swapped = "A" if fields["sealed"][0] != "A" else "B"
    with pytest.raises(InputError):
        open_secret(json.dumps({**fields, "sealed": swapped + fields["sealed"][1:]}).encode(), b"pass")
    with pytest.raises(InputError):
        open_secret(json.dumps({**fields, "salt": seal_salt(fields["salt"])}).encode(), b"pass")


def seal_salt(salt: str) -> str:
    return ("A" if salt[0] != "A" else "B") + salt[1:]
