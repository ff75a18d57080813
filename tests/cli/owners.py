"""An owner's home and small releases, for tests of the jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cli.check import CheckRequest, check
from cli.home import Home
from cli.release import ReleaseRequest, ReleaseResult, release
from cli.verdict import CheckResult

PASSPHRASE = b"correct horse"


def phrase() -> bytes:
    """The passphrase of every test home."""
    return PASSPHRASE


def make_home(path: Path, owner: str = "acme") -> Home:
    """A fresh owner."""
    return Home.create(path, owner, PASSPHRASE)


def make_release(home: Home, model: Path, out: Path, **fields: object) -> ReleaseResult:
    """Release a model under the test passphrase."""
    return release(ReleaseRequest(home.path, model, out, **fields), phrase)  # type: ignore[arg-type]


def check_suspect(home: Home, suspect: Path, asked: Callable[[], bytes] = phrase, **fields: object) -> CheckResult:
    """Check a suspect under the test passphrase."""
    return check(CheckRequest(home.path, str(suspect), **fields), asked)  # type: ignore[arg-type]
