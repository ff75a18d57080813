"""The audit judges every entry by the keys as they stood at its index, and names what a revocation felled."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.monitor import AuditResult, audit
from registry.store.embedded import EmbeddedRegistry
from tests.registry.example_log import LOG_KEY, ORIGIN
from tests.registry.signing.keychains import event, owner_entry, release_by


def audit_of(folder: Path, *entries: bytes) -> AuditResult:
    """Audit a log that took in whatever it was given."""
    with EmbeddedRegistry.create(folder / "log", ORIGIN, LOG_KEY) as registry:
        registry.append(entries)
        return audit(folder / "log", [registry.vkey])


LIFE = (
    owner_entry("a"),
    release_by("a"),
    event("enrol", "ab", 2, new="b"),
    release_by("b"),
    event("threshold", "a", 3, threshold=2),
    event("rotate", "abc", 4, new="bc", threshold=2),
    release_by("c"),
    event("retire", "bc", 5, old="c"),
)


def test_a_life_of_keys_is_whole(tmp_path: Path) -> None:
    result = audit_of(tmp_path, *LIFE[:7], event("threshold", "bc", 5, threshold=1), event("retire", "b", 6, old="c"))
    assert (result.whole, result.entries_checked, result.findings) == (True, 9, ())


@pytest.mark.parametrize(
    ("entry", "code", "says"),
    [
        (release_by("h"), "entry", "which no earlier entry introduced"),
        (release_by("a", 9), "retired-key", "out of use from entry 6 on"),
        (event("threshold", "bc", 6, threshold=2), "key-event", "none may be skipped"),
        (event("rotate", "bd", 5, new="d"), "threshold", "2 must sign"),
        (event("retire", "bc", 5, old="c"), "key-event", "would leave 1"),
        (event("enrol", "bc", 5, new="d"), "key-event", "not signed by the key that it brings in"),
    ],
)
def test_what_a_registry_should_not_have_taken_in(tmp_path: Path, entry: bytes, code: str, says: str) -> None:
    result = audit_of(tmp_path, *LIFE[:7], entry, release_by("c", 1))
    assert [(one.code, one.index) for one in result.findings] == [(code, 7)]
    assert says in result.findings[0].text
    assert result.entries_checked == 8


@pytest.mark.parametrize("start", range(1, 5))
def test_what_fell_is_named(tmp_path: Path, start: int) -> None:
    """Entries 2 and 3 are by the key that is revoked at 4, from `start` on; it was enrolled at 1."""
    entries = [owner_entry("a"), event("enrol", "ab", 2, new="b"), release_by("b"), release_by("b", 1)]
    result = audit_of(tmp_path, *entries, event("revoke", "a", 3, old="b", start=start))
    assert [one.index for one in result.findings] == list(range(start, 4))
    assert {one.code for one in result.findings} <= {"revoked-key"}
    assert result.entries_checked == 5


def test_an_entry_by_a_revoked_key_is_one_finding(tmp_path: Path) -> None:
    entries = [owner_entry("a"), event("enrol", "ab", 2, new="b"), event("revoke", "a", 3, old="b", start=2)]
    result = audit_of(tmp_path, *entries, release_by("b"))
    assert [(one.code, one.index) for one in result.findings] == [("revoked-key", 3)]


def test_keys_that_a_thief_let_in_fall_with_their_enrolment(tmp_path: Path) -> None:
    entries = [owner_entry("a"), event("enrol", "ab", 2, new="b"), event("enrol", "bc", 3, new="c"), release_by("c")]
    result = audit_of(tmp_path, *entries, event("revoke", "a", 4, old="b", start=2))
    assert sorted({(one.code, one.index) for one in result.findings}) == [("revoked-key", 2), ("revoked-key", 3)]


def test_a_rotation_stands_though_the_old_key_is_revoked_from_before_it(tmp_path: Path) -> None:
    entries = [owner_entry("a"), release_by("a"), event("rotate", "ab", 2, new="b")]
    result = audit_of(tmp_path, *entries, event("revoke", "b", 3, old="a", start=2))
    assert (result.whole, result.findings) == (True, ())


def test_other_changes_by_a_revoked_key_are_in_doubt(tmp_path: Path) -> None:
    entries = [owner_entry("a"), event("enrol", "ab", 2, new="b"), event("threshold", "b", 3, threshold=1)]
    result = audit_of(tmp_path, *entries, event("revoke", "a", 4, old="b", start=2))
    assert [one.index for one in result.findings] == [2]
    assert "in effect until the next change" in result.findings[0].text
