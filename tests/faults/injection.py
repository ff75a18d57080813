"""Make the n-th storage or SQL call of the registry fail, before or after it did its work, by an error or by death.

The calls are the real ones: the module that writes the files sees an `os` whose calls are counted, SQLAlchemy's driver
layer has its four calls counted. Closing always works, as it does in a dying process. After a death nothing more
reaches the disk, except that SQLite's own rollback runs, which is what the next opener would do.
"""

from __future__ import annotations

import builtins
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from registry.store import embedded, files

STORAGE = ("open", "write", "fsync", "replace", "mkdir", "unlink", "listdir")
SQL = ("do_execute", "do_execute_no_params", "do_executemany", "do_commit")


class Killed(BaseException):
    """The process is dead; nobody may catch this."""


@dataclass
class Fault:
    """Which call fails and how; `calls` counts and names the calls seen."""

    at: int
    kill: bool
    after: bool
    calls: list[str] = field(default_factory=list)
    dead: bool = False

    @property
    def reached(self) -> bool:
        return len(self.calls) >= self.at

    def around(self, name: str, call: Callable[..., Any], sql: bool) -> Callable[..., Any]:
        def faulty(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise Killed
            self.calls.append(name)
            if len(self.calls) != self.at:
                return call(*args, **kwargs)
            if self.after:
                result = call(*args, **kwargs)
                if name == "open":
                    os.close(result)  # nobody will ever hear of it
                elif name == "read":
                    result.close()
            if self.kill:
                self.dead = True
                raise Killed
            if sql:
                raise sqlite3.OperationalError("disk I/O error")
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        return faulty


class CountedOs:
    """The `os` module with its storage calls counted."""

    def __init__(self, fault: Fault) -> None:
        for name in STORAGE:
            setattr(self, name, fault.around(name, getattr(os, name), sql=False))

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@contextmanager
def injected(fault: Fault) -> Iterator[Fault]:
    """Count, and fail the one call, within the block."""
    counted = CountedOs(fault)
    originals = {name: getattr(DefaultDialect, name) for name in SQL}
    for name, original in originals.items():
        setattr(DefaultDialect, name, fault.around(name, original, sql=True))
    files.os = embedded.os = counted  # type: ignore[attr-defined, assignment]
    files.open = fault.around("read", builtins.open, sql=False)  # type: ignore[attr-defined]
    try:
        yield fault
    finally:
        for name, original in originals.items():
            setattr(DefaultDialect, name, original)
        files.os = embedded.os = os  # type: ignore[attr-defined]
        del files.open  # type: ignore[attr-defined]
