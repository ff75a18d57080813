"""Statements that were signed and not yet acknowledged by the log.

ECDSA is deterministic here, but the time in a statement is not: a release that dies between signing and the log's
receipt must find its statements again, or the log would hold two entries for one copy.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.drafts import sync
from watermark.errors import UnavailableError


@dataclass(frozen=True)
class PendingCopy:
    """The signature, the claims and the log entry of one copy."""

    model_sig: bytes
    claims: bytes
    entry: bytes


class PendingCopies:
    """The folder `pending` of a home, one file a copy."""

    def __init__(self, home: Path) -> None:
        """Use the home at `home`; nothing is created yet."""
        self._folder = home / "pending"

    def find(self, copy_id: str) -> PendingCopy | None:
        """The statements made for a copy, or None; a torn file counts as none, since nothing was acknowledged."""
        try:
            fields = json.loads((self._folder / f"{copy_id}.json").read_bytes())
            return PendingCopy(*(base64.b64decode(fields[name]) for name in ("model_sig", "claims", "entry")))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def put(self, copy_id: str, statements: PendingCopy) -> None:
        """Keep statements durably before the log is asked."""
        document = {name: base64.b64encode(data).decode() for name, data in asdict(statements).items()}
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            draft = self._folder / f".{copy_id}.{os.getpid()}"
            draft.write_text(json.dumps(document))
            sync(draft)
            os.replace(draft, self._folder / f"{copy_id}.json")
            sync(self._folder)
        except OSError as err:
            raise UnavailableError(f"cannot write in {self._folder}: {err.strerror}") from err

    def drop(self, copy_id: str) -> None:
        """Forget statements that the log has acknowledged and the records hold."""
        (self._folder / f"{copy_id}.json").unlink(missing_ok=True)
