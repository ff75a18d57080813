"""The owner's records of releases and copies as one JSON file: what a backup keeps of a registry, and reads again.

Enough to check a suspect when the registry itself is lost: which reference, which mark, which recipients. Not enough
to log anything, nor to prove anything to others. Knows no database beyond the interface of `OwnerRecords`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any, Final, Protocol, TypeVar

from registry.signing.strict_json import as_object, loads, member
from registry.store.records import CopyRecord, ReleaseRecord
from watermark.errors import DocumentError, InputError

KIND: Final = "weightmark-records"
MAX_RECORD_BYTES: Final = 256 << 20
_WHAT = "the file of records"
_Record = TypeVar("_Record", ReleaseRecord, CopyRecord)


class ReleaseBook(Protocol):
    """Where releases and their copies can be looked up: the registry's records, or a file of them."""

    def list_releases(self) -> list[ReleaseRecord]:
        """All releases, oldest first."""

    def release(self, release_id: str) -> ReleaseRecord:
        """The release with this id, or this unique beginning of one."""

    def each_copy(self, release_id: str) -> Iterator[CopyRecord]:
        """The copies of a release, in the order of the log, a few at a time."""

    def count_copies(self, release_id: str) -> int:
        """How many copies a release has."""

    def recipients(self, release_id: str) -> Iterator[tuple[str, str]]:
        """Copy id and recipient of each copy that has one, in the order of the log."""

    def find_copy(self, copy_id: str) -> CopyRecord | None:
        """One copy by its whole id; None when there is none."""

    def exact_copies(self, release_id: str, digests: Iterable[str]) -> list[CopyRecord]:
        """The copies of a release whose tensors are exactly these, in the order of the log."""

    def held_tensors(self, release_id: str, digests: Iterable[str]) -> set[str]:
        """Those of the tensor digests (hex) that some copy of the release holds."""

    def sketches(self) -> dict[str, bytes]:
        """The sketch of each release that has one: that of its first copy."""


def dump_records(book: ReleaseBook) -> bytes:
    """Write all releases and copies of a book into one JSON document."""
    releases = book.list_releases()
    copies = [copy for release in releases for copy in book.each_copy(release.release_id)]
    document = {
        "kind": KIND,
        "v": 1,
        "releases": [_plain(release) for release in releases],
        "copies": [_plain(copy) for copy in copies],
    }
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode("ascii")


class RecordFile:
    """Releases and copies that `dump_records` wrote."""

    def __init__(self, releases: Sequence[ReleaseRecord], copies: Sequence[CopyRecord]) -> None:
        """Use `read`."""
        self._releases, self._copies = list(releases), list(copies)

    @classmethod
    def read(cls, data: bytes) -> RecordFile:
        """Read a file of records; DocumentError for anything but its exact form."""
        fields_ = as_object(loads(data, what=_WHAT, max_bytes=MAX_RECORD_BYTES), _WHAT)
        if fields_.get("kind") != KIND or fields_.get("v") != 1:
            raise DocumentError(f"{_WHAT} is not of version 1", hint="use a newer weightmark")
        return cls(
            [_record(one, ReleaseRecord) for one in member(fields_, "releases", list, _WHAT)],
            [_record(one, CopyRecord) for one in member(fields_, "copies", list, _WHAT)],
        )

    def list_releases(self) -> list[ReleaseRecord]:
        """All releases, oldest first."""
        return list(self._releases)

    def release(self, release_id: str) -> ReleaseRecord:
        """The release with this id, or with this unique beginning of one; InputError for none or several."""
        found = [one for one in self._releases if one.release_id.startswith(release_id)]
        if len({one.release_id for one in found}) != 1 or not release_id:
            known = "more than one release begins" if found else "no release begins"
            raise InputError(f"{release_id!a}: {known} with this in the backup's records")
        return found[0]

    def each_copy(self, release_id: str) -> Iterator[CopyRecord]:
        """The copies of a release, in the order of the log."""
        return (one for one in self._copies if one.release_id == release_id)

    def count_copies(self, release_id: str) -> int:
        """How many copies a release has."""
        return sum(1 for _ in self.each_copy(release_id))

    def recipients(self, release_id: str) -> Iterator[tuple[str, str]]:
        """Copy id and recipient of each copy that has one, in the order of the log."""
        return ((one.copy_id, one.recipient) for one in self.each_copy(release_id) if one.recipient is not None)

    def find_copy(self, copy_id: str) -> CopyRecord | None:
        """One copy by its whole id; None when there is none."""
        return next((one for one in self._copies if one.copy_id == copy_id), None)

    def exact_copies(self, release_id: str, digests: Iterable[str]) -> list[CopyRecord]:
        """The copies of a release whose tensors are exactly these, in the order of the log."""
        wanted = sorted(set(digests))
        return [one for one in self.each_copy(release_id) if json.loads(one.tensor_digests) == wanted]

    def held_tensors(self, release_id: str, digests: Iterable[str]) -> set[str]:
        """Those of the tensor digests (hex) that some copy of the release holds."""
        held = {str(digest) for one in self.each_copy(release_id) for digest in json.loads(one.tensor_digests)}
        return held & set(digests)

    def sketches(self) -> dict[str, bytes]:
        """The sketch of each release that has one: that of its first copy."""
        newest_first = sorted(self._copies, key=lambda copy: -copy.log_index)
        return {copy.release_id: copy.sketch for copy in newest_first if copy.sketch is not None}


def _plain(record: ReleaseRecord | CopyRecord) -> dict[str, Any]:
    return {
        name: {"base64": base64.b64encode(value).decode("ascii")} if isinstance(value, bytes) else value
        for name, value in asdict(record).items()
    }


def _record(value: Any, kind: type[_Record]) -> _Record:
    given = as_object(value, _WHAT, allowed={field.name for field in fields(kind)})
    try:
        read: dict[str, Any] = {
            name: base64.b64decode(one["base64"], validate=True) if isinstance(one, dict) else one
            for name, one in given.items()
        }
        return kind(**read)
    except (KeyError, TypeError, ValueError) as error:
        raise DocumentError(f"{_WHAT} is damaged: {error}", hint="restore the backup again") from error
