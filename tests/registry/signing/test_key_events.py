from __future__ import annotations

from typing import Any

import pytest

from registry.signing.entry import make_entry, read_entry
from registry.signing.key_events import read_key_event
from tests.registry.signing.keychains import event, key, key_id
from watermark.errors import InputError

PEM = key("b").public.pem
SMALL_ORDER = (
    "-----BEGIN PUBLIC KEY-----\n"
    "MCowBQYDK2VwAyEAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
    "-----END PUBLIC KEY-----\n"
)


def test_events_say_what_they_were_made_to_say() -> None:
    rotate = read_key_event(read_entry(event("rotate", "ab", 7, new="bc", threshold=2)))
    assert (rotate.version, rotate.threshold) == (7, 2)
    assert [one.key_id for one in rotate.keys] == [key_id("b"), key_id("c")]
    revoke = read_key_event(read_entry(event("revoke", "a", 3, old="b", start=5)))
    assert (revoke.key_id, revoke.from_index, revoke.keys) == (key_id("b"), 5, ())
    secret = read_key_event(read_entry(event("secret", "a", 3, start=0)))
    assert secret.commitment == "03" * 32


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("release", {"version": 2}),
        ("enrol", {"version": 2}),
        ("enrol", {"version": "2", "key": PEM}),
        ("enrol", {"version": True, "key": PEM}),
        ("enrol", {"version": 2, "key": PEM, "more": 1}),
        ("enrol", {"version": 2, "key": PEM + "\n"}),
        ("enrol", {"version": 2, "key": "x"}),
        ("enrol", {"version": 2, "key": SMALL_ORDER}),
        ("rotate", {"version": 2, "keys": [], "threshold": 1}),
        ("rotate", {"version": 2, "keys": [PEM, PEM], "threshold": 1}),
        ("rotate", {"version": 2, "keys": [1], "threshold": 1}),
        ("rotate", {"version": 2, "keys": [PEM] * 17, "threshold": 1}),
        ("rotate", {"version": 2, "keys": [PEM], "threshold": 0}),
        ("revoke", {"version": 2, "key": key_id("b"), "from": -1}),
        ("revoke", {"version": 2, "key": key_id("b").upper(), "from": 1}),
        ("revoke", {"version": 2, "key": key_id("b")[:16], "from": 1}),
        ("revoke", {"version": 2, "key": key_id("b"), "from": 1.5}),
        ("threshold", {"version": 2, "threshold": 17}),
        ("secret", {"version": 2, "secret_commitment": "00", "from": 0}),
    ],
)
def test_every_other_form_is_refused(kind: str, body: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        read_key_event(read_entry(make_entry(kind, {"owner": "acme", **body}, key("a"))))
