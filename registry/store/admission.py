"""Who may append: each entry is judged by the keys as they stand at the index that it would get.

An entry by a stranger, by a revoked or retired key, or a change of keys that does not follow from the state before it
is refused before anything is written. The judgement is made under the log's write lock, so that two processes cannot
both log the next version of one owner's keys. Entries that are in the log already are not verified again, but for
those that change keys: the audit does that.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from registry.signing.entry import KEY_EVENTS, OWNER
from registry.signing.keyring import Keyring
from watermark.errors import WeightmarkError

_BATCH = 256
_HEAD = b'{"payload":"'
_CHANGES = re.compile(f'"kind":"(?:{"|".join((OWNER, *KEY_EVENTS))})"'.encode("ascii"))


class KeyAdmission:
    """Judges entries before they are appended; keeps the keys of what it has read, so that each entry is read once."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._ring, self._size = Keyring(), 0

    def admit(self, size: int, read: Callable[[int, int], Sequence[bytes]], fresh: Iterable[bytes]) -> None:
        """Judge `fresh` entries as those at `size` and after; `read(start, stop)` gives what the log holds.

        Raises what `Keyring.follow` raises for the first that is refused.
        """
        for start in range(self._size, size, _BATCH):
            follow_changes(self._ring, start, read(start, min(start + _BATCH, size)))
        self._size = max(self._size, size)
        trial = self._ring.copy()
        for index, entry in enumerate(fresh, start=size):
            trial.follow(index, entry)


def follow_changes(ring: Keyring, start: int, entries: Iterable[bytes]) -> None:
    """Let a keyring follow entries of a log from `start` on; those that change no keys, or were refused, are passed by.

    For logs whose entries were judged as they came in, or are judged by the audit.
    """
    for index, entry in enumerate(entries, start=start):
        if _may_change_keys(entry):
            with suppress(WeightmarkError):  # without effect, whoever let it in; the audit names it
                ring.follow(index, entry)


def _may_change_keys(entry: bytes) -> bool:
    """Whether these can be the bytes of an entry that changes keys: most are releases, and reading all is what costs.

    An entry is RFC 8785 JSON, and so is its payload: `payload` is its first key, no space stands between a key and its
    value, and a quote within a text is escaped. What does not look so is no entry at all.
    """
    if not entry.startswith(_HEAD):
        return False
    try:
        payload = base64.b64decode(entry[len(_HEAD) : entry.find(b'"', len(_HEAD))])
    except ValueError:
        return False
    return _CHANGES.search(payload) is not None
