"""Rotation and revocation as a table (python-tuf's manner), and revocation on both sides of every index."""

from __future__ import annotations

import json

import pytest

from registry.signing.canonical import canonical
from registry.signing.entry import make_entry, read_entry, sign_further
from registry.signing.keyring import Keyring
from tests.registry.signing.keychains import (
    OWNER_NAME,
    KeyLog,
    event,
    key,
    key_id,
    log_with,
    owner_entry,
    release_by,
)
from watermark.errors import (
    DocumentError,
    InputError,
    KeyEventError,
    RetiredKeyError,
    RevokedKeyError,
    SignatureError,
    ThresholdError,
    UntrustedKeyError,
    WeightmarkError,
)

# name: keys, threshold, the event, what comes of it: the names of the active keys, or the error
CASES: dict[str, tuple[str, int, dict[str, object], str | type[WeightmarkError]]] = {
    "rotate, old and new sign": ("a", 1, {"kind": "rotate", "signers": "ab", "new": "b"}, "b"),
    "rotate, old only": ("a", 1, {"kind": "rotate", "signers": "a", "new": "b"}, ThresholdError),
    "rotate, new only": ("a", 1, {"kind": "rotate", "signers": "b", "new": "b"}, ThresholdError),
    "rotate, old threshold short": ("abc", 2, {"kind": "rotate", "signers": "ad", "new": "d"}, ThresholdError),
    "rotate, old threshold met": ("abc", 2, {"kind": "rotate", "signers": "acd", "new": "d"}, "d"),
    "rotate, new threshold short": (
        "a",
        1,
        {"kind": "rotate", "signers": "ab", "new": "bc", "threshold": 2},
        ThresholdError,
    ),
    "rotate, new threshold met": ("a", 1, {"kind": "rotate", "signers": "abc", "new": "bc", "threshold": 2}, "bc"),
    "rotate, keeping a key": ("ab", 1, {"kind": "rotate", "signers": "ac", "new": "bc"}, "bc"),
    "rotate, kept keys count on both sides": (
        "ab",
        2,
        {"kind": "rotate", "signers": "ab", "new": "ab", "threshold": 1},
        "ab",
    ),
    "rotate, threshold above the set": (
        "a",
        1,
        {"kind": "rotate", "signers": "ab", "new": "b", "threshold": 2},
        KeyEventError,
    ),
    "rotate, a version skipped": ("a", 1, {"kind": "rotate", "signers": "ab", "new": "b", "skip": 1}, KeyEventError),
    "rotate, a version repeated": ("ab", 1, {"kind": "rotate", "signers": "ac", "new": "c", "skip": -1}, KeyEventError),
    "rotate, a stranger signs too": ("a", 1, {"kind": "rotate", "signers": "abh", "new": "b"}, UntrustedKeyError),
    "rotate, an unknown key alone": ("a", 1, {"kind": "rotate", "signers": "h", "new": "b"}, UntrustedKeyError),
    "enrol": ("a", 1, {"kind": "enrol", "signers": "ab", "new": "b"}, "ab"),
    "enrol without the new key": ("a", 1, {"kind": "enrol", "signers": "a", "new": "b"}, KeyEventError),
    "enrol without an old key": ("a", 1, {"kind": "enrol", "signers": "b", "new": "b"}, ThresholdError),
    "enrol, the new key does not count for the old": (
        "ab",
        2,
        {"kind": "enrol", "signers": "ac", "new": "c"},
        ThresholdError,
    ),
    "enrol a key that is there": ("ab", 1, {"kind": "enrol", "signers": "ab", "new": "b"}, KeyEventError),
    "threshold up": ("ab", 1, {"kind": "threshold", "signers": "a", "threshold": 2}, "ab"),
    "threshold above the keys": ("ab", 1, {"kind": "threshold", "signers": "a", "threshold": 3}, KeyEventError),
    "threshold down by the new one": ("ab", 2, {"kind": "threshold", "signers": "a", "threshold": 1}, ThresholdError),
    "threshold down by the old one": ("ab", 2, {"kind": "threshold", "signers": "ab", "threshold": 1}, "ab"),
    "threshold of none": ("ab", 1, {"kind": "threshold", "signers": "a", "threshold": 0}, InputError),
    "revoke": ("ab", 1, {"kind": "revoke", "signers": "a", "old": "b", "start": 0}, "a"),
    "revoke by the key itself": ("ab", 1, {"kind": "revoke", "signers": "b", "old": "b", "start": 0}, ThresholdError),
    "revoke, the key does not count": (
        "abc",
        2,
        {"kind": "revoke", "signers": "ab", "old": "b", "start": 0},
        ThresholdError,
    ),
    "revoke, leaving too few": ("ab", 2, {"kind": "revoke", "signers": "ab", "old": "b", "start": 0}, ThresholdError),
    "revoke the last key": ("a", 1, {"kind": "revoke", "signers": "a", "old": "a", "start": 0}, ThresholdError),
    "revoke a key that never was": ("ab", 1, {"kind": "revoke", "signers": "a", "old": "h", "start": 0}, KeyEventError),
    "revoke from the future": ("ab", 1, {"kind": "revoke", "signers": "a", "old": "b", "start": 99}, KeyEventError),
    "retire": ("ab", 1, {"kind": "retire", "signers": "a", "old": "b"}, "a"),
    "retire oneself": ("ab", 1, {"kind": "retire", "signers": "b", "old": "b"}, "a"),
    "retire the last key": ("a", 1, {"kind": "retire", "signers": "a", "old": "a"}, KeyEventError),
    "retire, leaving too few": ("ab", 2, {"kind": "retire", "signers": "ab", "old": "b"}, KeyEventError),
    "a new secret": ("a", 1, {"kind": "secret", "signers": "a", "start": 1}, "a"),
    "a new secret from the future": ("a", 1, {"kind": "secret", "signers": "a", "start": 2}, KeyEventError),
    "another owner": ("a", 1, {"kind": "retire", "signers": "a", "old": "a", "owner": "bob"}, UntrustedKeyError),
}


@pytest.mark.parametrize("name", CASES)
def test_the_table(name: str) -> None:
    names, threshold, given, expected = CASES[name]
    log = log_with(names, threshold)
    fields = dict(given)
    version = log.keys.version + 1 + int(str(fields.pop("skip", 0)))
    entry = event(str(fields.pop("kind")), str(fields.pop("signers")), version, **fields)  # type: ignore[arg-type]
    before = log.ring.copy()
    if isinstance(expected, str):
        log.add(entry)
        assert log.active() == expected
        assert log.keys.version == version
    else:
        with pytest.raises(expected):
            log.add(entry)
        assert log.ring == before


def test_a_key_that_signs_twice_counts_once() -> None:
    log = log_with("ab", 2)
    once = event("threshold", "a", log.keys.version + 1, threshold=1)
    twice = json.loads(once)
    twice["signatures"] *= 2
    assert len(read_entry(canonical(twice)).envelope.signatures) == 2
    with pytest.raises(ThresholdError, match="signed by 1 "):
        log.add(canonical(twice))
    assert sign_further(once, key("a")) == once
    log.add(sign_further(once, key("b")))


def test_signatures_of_an_event_come_in_one_order_and_all_must_hold() -> None:
    entry = event("threshold", "ab", 3, threshold=2)
    assert entry == event("threshold", "ba", 3, threshold=2)
    turned = json.loads(entry)
    turned["signatures"].reverse()
    with pytest.raises(DocumentError, match="order"):
        read_entry(canonical(turned))
    mixed = json.loads(entry)
    mixed["signatures"][0]["sig"], mixed["signatures"][1]["sig"] = (
        mixed["signatures"][1]["sig"],
        mixed["signatures"][0]["sig"],
    )
    with pytest.raises(SignatureError):
        log_with("ab", 1).add(canonical(mixed))
    with pytest.raises(InputError, match="exactly one"):
        make_entry("release", {}, key("a"), further=[key("b")])
    with pytest.raises(InputError, match="exactly one"):
        sign_further(release_by("a"), key("b"))


def test_spent_keys_sign_nothing() -> None:
    log = log_with("abc", 1)
    log.add(event("revoke", "a", 4, old="b", start=3))
    log.add(event("retire", "a", 5, old="c"))
    for name, error in (("b", RevokedKeyError), ("c", RetiredKeyError), ("h", UntrustedKeyError)):
        with pytest.raises(error):
            log.add(release_by(name))
        with pytest.raises(error):
            log.add(event("threshold", "a" + name, 6, threshold=1))
        if name != "h":
            with pytest.raises(KeyEventError, match="introduced before"):
                log.add(event("enrol", "a" + name, 6, new=name))
    log.add(release_by("a"))


def test_an_event_cannot_be_replayed() -> None:
    log = log_with("ab", 1)
    up = event("threshold", "a", 3, threshold=2)
    log.add(up)
    log.add(event("threshold", "ab", 4, threshold=1))
    with pytest.raises(KeyEventError, match="none may be skipped or repeated"):
        log.add(up)


def test_owners_keep_to_themselves() -> None:
    log = KeyLog.of(owner_entry("a"), owner_entry("d", "bob"))
    with pytest.raises(UntrustedKeyError, match="a second key for the owner"):
        log.add(owner_entry("e"))
    with pytest.raises(KeyEventError, match="introduced before"):
        log.add(owner_entry("a", "carol"))
    with pytest.raises(KeyEventError, match="introduced before"):
        log.add(event("enrol", "ad", 2, new="d"))
    with pytest.raises(UntrustedKeyError, match="signed by a key of"):
        log.add(release_by("d", owner=OWNER_NAME))
    with pytest.raises(UntrustedKeyError):
        log.add(event("threshold", "d", 2, threshold=1))
    log.add(release_by("d", owner="bob"))


@pytest.mark.parametrize("start", range(100))
def test_revocation_at_each_of_100_indices(start: int) -> None:
    """What the key signed before the index stands, what is later falls; the other key is not touched."""
    log = long_log()
    log.add(event("revoke", "a", 3, old="b", start=start))
    known = log.keys.keys[key_id("b")]
    for index in range(2, 101):
        if index < start:
            known.refuse_unless_active(index)
        else:
            with pytest.raises(RevokedKeyError, match=f"from entry {start} on"):
                known.refuse_unless_active(index)
        log.keys.keys[key_id("a")].refuse_unless_active(index)


def long_log() -> KeyLog:
    """Two keys and 99 releases by the second; verified once, the state copied."""
    if not _LONG:
        log = log_with("ab", 1)
        for number in range(99):
            log.add(release_by("b", number))
        _LONG.append(log)
    return KeyLog(list(_LONG[0].entries), _LONG[0].ring.copy())


_LONG: list[KeyLog] = []


def test_revocation_reaches_keys_that_nobody_else_let_in() -> None:
    log = log_with("ab", 1)
    log.add(event("enrol", "bc", 3, new="c"))  # 2: by the thief of b
    log.add(event("enrol", "cd", 4, new="d"))  # 3: by what he let in
    log.add(event("enrol", "ae", 5, new="e"))  # 4: by the owner
    log.add(event("revoke", "a", 6, old="b", start=2))
    assert log.active() == "ae"
    starts = {name: log.keys.keys[key_id(name)].revoked_from for name in "bcd"}
    assert starts == {"b": 2, "c": 2, "d": 3}


def test_revocation_spares_what_was_let_in_before() -> None:
    log = log_with("ab", 1)
    log.add(event("enrol", "bc", 3, new="c"))
    log.add(event("revoke", "a", 4, old="b", start=3))
    assert log.active() == "ac"


def test_a_stolen_only_key_is_revoked_from_before_the_rotation() -> None:
    log = KeyLog.of(owner_entry("a"), release_by("a", 1), event("rotate", "ab", 2, new="bc"))
    log.add(event("revoke", "b", 3, old="a", start=1))
    assert log.active() == "bc"
    assert log.keys.keys[key_id("a")].revoked_from == 1


def test_a_revocation_only_grows() -> None:
    log = log_with("ab", 1)
    log.add(event("revoke", "a", 3, old="b", start=2))
    with pytest.raises(KeyEventError, match="already"):
        log.add(event("revoke", "a", 4, old="b", start=3))
    log.add(event("revoke", "a", 4, old="b", start=1))
    assert log.keys.keys[key_id("b")].revoked_from == 1


def test_state_at_any_index() -> None:
    log = log_with("ab", 2)  # entries 0, 1, 2
    log.add(event("rotate", "abc", 4, new="c", threshold=1))  # 3
    keys = log.keys
    assert [sorted(keys.active(index)) for index in range(4)] == [
        [key_id("a")],
        sorted([key_id("a"), key_id("b")]),
        sorted([key_id("a"), key_id("b")]),
        sorted([key_id("a"), key_id("b"), key_id("c")]),  # the old ones sign the rotation itself
    ]
    assert list(keys.active(4)) == [key_id("c")]
    assert [keys.threshold_at(index) for index in range(5)] == [1, 1, 2, 1, 1]
    with pytest.raises(UntrustedKeyError, match="introduced at entry 3"):
        keys.keys[key_id("c")].refuse_unless_active(2)


def test_secrets_are_kept_with_when_they_leaked() -> None:
    log = KeyLog.of(owner_entry("a"), release_by("a"), event("secret", "a", 2, start=1))
    assert [(one.since, one.leaked_from) for one in log.keys.secrets] == [(0, 1), (2, None)]
    again = make_entry(
        "secret", {"owner": OWNER_NAME, "version": 3, "secret_commitment": "00" * 32, "from": 0}, key("a")
    )
    with pytest.raises(KeyEventError, match="before"):
        log.add(again)


def test_an_empty_ring_knows_nobody() -> None:
    with pytest.raises(UntrustedKeyError):
        Keyring().follow(0, release_by("a"))
    with pytest.raises(UntrustedKeyError):
        Keyring().follow(0, event("retire", "a", 2, old="a"))
