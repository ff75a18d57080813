from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry.monitor import audit
from registry.store.embedded import EmbeddedRegistry
from registry.store.files import DATABASE
from registry.store.record_file import RecordFile
from registry.store.records import CaseRecord, CopyRecord, OwnerRecords, ReleaseRecord
from tests.registry.example_log import LOG_KEY, ORIGIN, some_entries
from watermark.errors import ConflictError, InputError, LogHaltedError, NotAuthorizedError

RELEASE = ReleaseRecord("a1" * 32, "ann", "encoder", "1", "/models/encoder", "0f" * 32, "33" * 32, b'{"rows":1}', 1000)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[EmbeddedRegistry]:
    with EmbeddedRegistry.create(tmp_path / "log", ORIGIN, LOG_KEY) as registry:
        registry.append(some_entries(3))
        yield registry


@pytest.fixture
def records(registry: EmbeddedRegistry) -> OwnerRecords:
    registry.records.put_release(RELEASE)
    return registry.records


def copy_of(registry: EmbeddedRegistry, copy_id: str, recipient: str | None, tensors: list[str]) -> CopyRecord:
    proof = registry.prove(1)
    return CopyRecord(
        copy_id, RELEASE.release_id, recipient, None, 1, "44" * 32, b"sig", b"claims", proof, json.dumps(tensors), 1000
    )


def test_releases_are_found_by_a_unique_beginning(records: OwnerRecords) -> None:
    other = replace(RELEASE, release_id="a2" * 32, version="2", created_at=2000)
    records.put_release(other)
    assert records.list_releases() == [RELEASE, other]
    assert records.release("a1") == RELEASE
    assert records.release("a2" * 32) == other
    for wanted in ("a", "", "b", "a1%", "_1", "A1"):
        with pytest.raises(InputError):
            records.release(wanted)


def test_the_same_release_again_is_fine_another_is_a_conflict(records: OwnerRecords) -> None:
    records.put_release(replace(RELEASE, created_at=5000))
    assert records.list_releases() == [RELEASE]
    with pytest.raises(ConflictError, match="reference_place"):
        records.put_release(replace(RELEASE, reference_place="/elsewhere"))
    with pytest.raises(ConflictError, match="another reference"):
        records.put_release(replace(RELEASE, release_id="b7" * 32, reference_digest="11" * 32))
    records.put_release(replace(RELEASE, release_id="b7" * 32, owner="bob"))


def test_copies_and_their_tensors(registry: EmbeddedRegistry, records: OwnerRecords) -> None:
    first = copy_of(registry, "c1" * 32, "carol", ["aa" * 32, "bb" * 32])
    second = copy_of(registry, "c2" * 32, "dave", ["bb" * 32, "cc" * 32])
    for copy in (first, second, replace(first, created_at=7)):
        records.put_copy(copy)
    assert records.copies(RELEASE.release_id) == [first, second]
    assert records.copies("none") == []
    found = records.find_tensors(["bb" * 32, "dd" * 32, *(f"{number:064x}" for number in range(2000))])
    assert found == {"bb" * 32: ["c1" * 32, "c2" * 32]}
    with pytest.raises(ConflictError, match="recipient"):
        records.put_copy(replace(first, recipient="eve"))
    with pytest.raises(InputError, match="not recorded"):
        records.put_copy(replace(first, copy_id="c3" * 32, release_id="ee" * 32))
    for bad in ("", "{}", '["bb","aa"]', '["aa","aa"]'):
        with pytest.raises(InputError, match="tensor_digests"):
            records.put_copy(replace(first, copy_id="c3" * 32, tensor_digests=bad))


def test_a_million_copies_are_not_held_at_once(
    registry: EmbeddedRegistry, records: OwnerRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of two, in the order of the log; a copy is found by the tensor that the fewest hold; the file alike."""
    monkeypatch.setattr("registry.store.records._ROWS_AT_ONCE", 2)
    monkeypatch.setattr("registry.store.records._FEW_HOLDERS", 3)
    bias, other = "bb" * 32, "dd" * 32
    made = [
        replace(
            copy_of(registry, f"{9 - number:02x}" * 32, f"customer {number}", sorted([bias, f"{number:064x}"])),
            log_index=number + 1,
        )
        for number in range(5)
    ]
    nameless = replace(copy_of(registry, "f0" * 32, None, [bias]), log_index=6)
    records.put_release(replace(RELEASE, release_id="ee" * 16, name="another"))
    for copy in (*made, nameless):
        records.put_copy(copy)
    records.put_copy(replace(copy_of(registry, "f1" * 32, "x", [other]), release_id="ee" * 16))
    for book in (records, RecordFile(records.list_releases(), [*made, nameless])):
        assert list(book.each_copy(RELEASE.release_id)) == records.copies(RELEASE.release_id) == [*made, nameless]
        assert next(book.each_copy(RELEASE.release_id)) == made[0]
        assert book.count_copies(RELEASE.release_id) == 6
        assert list(book.recipients(RELEASE.release_id)) == [(one.copy_id, one.recipient) for one in made]
        assert book.find_copy(made[3].copy_id) == made[3]
        assert book.find_copy("ab" * 32) is None
        assert book.exact_copies(RELEASE.release_id, [bias, f"{3:064x}"]) == [made[3]]
        assert book.exact_copies(RELEASE.release_id, [bias]) == [nameless]  # all hold it
        for none in ([f"{3:064x}"], [bias, other], [bias, f"{1:064x}", f"{2:064x}"], [], ["ff" * 32]):
            assert book.exact_copies(RELEASE.release_id, none) == []
        assert book.held_tensors(RELEASE.release_id, [bias, other, f"{2:064x}", "ff" * 32]) == {bias, f"{2:064x}"}


def test_cases_are_completed_but_never_changed(records: OwnerRecords) -> None:
    case = CaseRecord(2, RELEASE.release_id, None, "55" * 32, "owner", 40, None, None, 1000)
    records.put_case(case)
    challenged = replace(case, challenge="66" * 32)
    records.put_case(challenged)
    opened = replace(challenged, opened="[1,2,3]")
    for again in (opened, case, challenged, opened):
        records.put_case(again)
    assert records.cases(RELEASE.release_id) == [opened]
    for changed in (replace(opened, opened="[4]"), replace(opened, challenge="77" * 32), replace(opened, layer="copy")):
        with pytest.raises(ConflictError):
            records.put_case(changed)


def test_records_are_audited_with_the_log(registry: EmbeddedRegistry, records: OwnerRecords) -> None:
    records.put_copy(copy_of(registry, "c1" * 32, "carol", ["aa" * 32]))
    records.put_case(CaseRecord(2, RELEASE.release_id, None, "55" * 32, "owner", 40, None, None, 1000))
    assert audit(registry.folder, [registry.vkey]).whole
    wrong = replace(copy_of(registry, "c2" * 32, "dave", []), log_index=2)
    records.put_copy(wrong)
    (finding,) = audit(registry.folder, [registry.vkey]).findings
    assert "another entry" in finding.text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE release SET reference_place = '/elsewhere'", "release a1"),
        ("UPDATE copy SET recipient = NULL", "copy c1"),
        ("UPDATE copy SET claims = x'00'", "copy c1"),
        ("UPDATE case_record SET suspect_digest = 'x'", "case_record 2"),
        ("UPDATE tensor_digest SET digest = 'x'", "tensor_digest"),
        ("DELETE FROM tensor_digest", "tensor_digest"),
        ("DELETE FROM entry WHERE log_index = 1", "entry"),
        ("UPDATE entry SET appended_at = 7 WHERE log_index = 1", "entry 1"),
        ("UPDATE head SET published_size = 1", "head"),
        ("UPDATE checkpoint SET size = 9 WHERE size = 3", "checkpoint 9"),
    ],
)
def test_a_changed_record_is_found(registry: EmbeddedRegistry, records: OwnerRecords, change: str, named: str) -> None:
    records.put_copy(copy_of(registry, "c1" * 32, "carol", ["aa" * 32]))
    records.put_case(CaseRecord(2, RELEASE.release_id, None, "55" * 32, "owner", 40, None, None, 1000))
    with sqlite3.connect(registry.folder / DATABASE) as connection:
        connection.execute(change)
    connection.close()
    result = audit(registry.folder, [registry.vkey])
    assert not result.whole
    assert named in " ".join(finding.text for finding in result.findings)


def test_a_damaged_record_is_not_given_out(registry: EmbeddedRegistry, records: OwnerRecords) -> None:
    with sqlite3.connect(registry.folder / DATABASE) as connection:
        connection.execute("UPDATE release SET mark_document = x'00'")
    connection.close()
    with pytest.raises(LogHaltedError, match="damaged"):
        records.list_releases()


def test_the_sketch_of_a_release_is_that_of_its_first_copy(registry: EmbeddedRegistry, records: OwnerRecords) -> None:
    assert records.sketches() == {}
    records.put_copy(copy_of(registry, "c1" * 32, "before sketches", []))
    assert records.sketches() == {}
    records.put_copy(replace(copy_of(registry, "c2" * 32, "carol", []), log_index=2, sketch=b"first"))
    records.put_copy(replace(copy_of(registry, "c3" * 32, "dave", []), log_index=3, sketch=b"second"))
    assert records.sketches() == {RELEASE.release_id: b"first"}
    assert [copy.sketch for copy in records.copies(RELEASE.release_id)] == [None, b"first", b"second"]


def test_a_reader_does_not_write(registry: EmbeddedRegistry) -> None:
    with EmbeddedRegistry.open(registry.folder, None) as reader, pytest.raises(NotAuthorizedError):
        reader.records.put_release(RELEASE)
