"""The trust file's lines about the life of keys: what a reader must know who never sees the owner's log.

    threshold NAME M [INDEX]      a release at that log index or later needs the signatures of M of the owner's keys
    revoked NAME KEYID INDEX      what this key signed at that log index or later does not count
    retired NAME KEYID INDEX      likewise, for a key that went out of use in good order
    viewed ORIGIN SIZE RFC3339    how far the log was, and when, as the rest of the file was written

KEYID is the hex SHA-256 of the key's PEM. The key stays in its `owner` line: what it signed before INDEX stands. Each
line stands below the `owner` or `log` lines that it speaks of. Judges nothing but its own form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from registry.signing.keys import PublicKey
from watermark.errors import DocumentError

THRESHOLD, REVOKED, RETIRED, VIEWED = "threshold", "revoked", "retired", "viewed"
LINES = (THRESHOLD, REVOKED, RETIRED, VIEWED)

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_SPENT = "NAME KEYID INDEX"
_FORM = {THRESHOLD: "NAME M [INDEX]", REVOKED: _SPENT, RETIRED: _SPENT, VIEWED: "ORIGIN SIZE RFC3339"}


Value = TypeVar("Value")


@dataclass(frozen=True)
class LogView:
    """How far a log was, and when, as a trust file was written."""

    origin: str
    size: int
    at: datetime


@dataclass
class KeyLines:
    """The lines of one file, gathered in their order; every owner must have been named before."""

    owners: Mapping[str, tuple[PublicKey, ...]]
    thresholds: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    revoked: dict[str, int] = field(default_factory=dict)
    retired: dict[str, int] = field(default_factory=dict)
    viewed: dict[str, LogView] = field(default_factory=dict)

    def read(self, words: Sequence[str], where: str) -> None:
        """Take in one line, split in words; DocumentError for any but its exact form."""
        kind = words[0]
        if len(words) - 1 not in _lengths(_FORM[kind].split()):
            raise DocumentError(f"{where}: {kind} takes {_FORM[kind]}")
        if kind == VIEWED:
            _once(self.viewed, words[1], LogView(words[1], _number(words[2], where), _time(words[3], where)), where)
            return
        keys = self.owners.get(words[1])
        if keys is None:
            raise DocumentError(f"{where}: no owner line above it names {words[1]!a}")
        if kind == THRESHOLD:
            self._read_threshold(words[1], [_number(word, where) for word in words[2:]], where)
            return
        key_id = words[2]
        if not _KEY_ID.fullmatch(key_id) or all(key.key_id != key_id for key in keys):
            raise DocumentError(f"{where}: {key_id[:64]!a} is not the id of a key of {words[1]} in a line above")
        _once(self.revoked if kind == REVOKED else self.retired, key_id, _number(words[3], where), where)

    def _read_threshold(self, owner: str, numbers: Sequence[int], where: str) -> None:
        threshold, start = numbers[0], numbers[1] if len(numbers) > 1 else 0
        before = self.thresholds.get(owner, ())
        if not 1 <= threshold <= len(self.owners[owner]):
            raise DocumentError(f"{where}: {threshold} of {len(self.owners[owner])} keys cannot sign")
        if before and start <= before[-1][0]:
            raise DocumentError(f"{where}: a threshold from entry {before[-1][0]} on stands in this file already")
        self.thresholds[owner] = (*before, (start, threshold))

    def check(self, origins: Sequence[str]) -> None:
        """Refuse a file as a whole: a threshold that nobody can reach, or a view of a log that it does not trust."""
        for owner, changes in self.thresholds.items():
            usable = [key for key in self.owners[owner] if key.key_id not in {**self.revoked, **self.retired}]
            last = changes[-1][1]
            if last > len(usable):
                raise DocumentError(f"the trust file asks for {last} keys of {owner}, and {len(usable)} are in use")
        strangers = sorted(set(self.viewed) - set(origins))
        if strangers:
            raise DocumentError(f"the trust file holds a view of {strangers[0]!a}, which no log line in it names")


def format_key_lines(
    owner: str,
    key_ids: Sequence[str],
    thresholds: Sequence[tuple[int, int]],
    revoked: Mapping[str, int],
    retired: Mapping[str, int],
) -> list[str]:
    """The lines about one owner's keys, in the order of the keys and of the thresholds."""
    lines = [f"{THRESHOLD} {owner} {m} {start}" if start else f"{THRESHOLD} {owner} {m}" for start, m in thresholds]
    for kind, spent in ((REVOKED, revoked), (RETIRED, retired)):
        lines += [f"{kind} {owner} {key_id} {spent[key_id]}" for key_id in key_ids if key_id in spent]
    return lines


def format_view(view: LogView) -> str:
    """The line that says how old the file is."""
    return f"{VIEWED} {view.origin} {view.size} {view.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _once(known: dict[str, Value], name: str, value: Value, where: str) -> None:
    if name in known:
        raise DocumentError(f"{where}: a line of this kind for {name[:64]!a} stands in this file already")
    known[name] = value


def _lengths(form: Sequence[str]) -> range:
    """How many words a line may have; those in brackets may be left out."""
    return range(sum(not word.startswith("[") for word in form), len(form) + 1)


def _number(text: str, where: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise DocumentError(f"{where}: {text!a} is not a number as 0, 7 or 120 are")
    return int(text)


def _time(text: str, where: str) -> datetime:
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise DocumentError(f"{where}: {text!a} is not a time in UTC as 2026-11-24T09:30:00Z is")
