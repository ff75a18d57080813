"""Runs the real command: as its own process, as a shell or a build server does, or in this one, which is faster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cli.main import run

PASSPHRASE = "correct horse battery staple"
START = (sys.executable, "-m", "cli.main")


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout: one line and nothing else."""
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        assert set(self.document) == {"error"}
        assert set(self.document["error"]) == {"code", "message", "hint"}
        assert all(isinstance(text, str) and text for text in self.document["error"].values())
        return self.document["error"]


def clean_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WEIGHTMARK_")}
    return {**kept, **(changes or {})}


def weightmark(
    *arguments: str | Path,
    home: Path | None = None,
    passphrase: str | None = PASSPHRASE,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command line in this process."""
    out, err = StringIO(), StringIO()
    settings = _settings(home, passphrase, environment)
    with patch.dict(os.environ, settings), patch("sys.stdin", None), redirect_stdout(out), redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return Finished(code, out.getvalue(), err.getvalue())


def weightmark_process(
    *arguments: str | Path,
    home: Path | None = None,
    passphrase: str | None = PASSPHRASE,
    environment: Mapping[str, str] | None = None,
    start: Sequence[str] = START,
    stdin: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
) -> Finished:
    """Run a command line in a process of its own."""
    done = subprocess.run(
        [*start, *map(str, arguments)],
        env=clean_environment(_settings(home, passphrase, environment)),
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        pass_fds=pass_fds,
        cwd=cwd,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def _settings(home: Path | None, passphrase: str | None, environment: Mapping[str, str] | None) -> dict[str, str]:
    settings = dict(environment or {})
    if home is not None:
        settings["WEIGHTMARK_HOME"] = str(home)
    if passphrase is not None:
        settings["WEIGHTMARK_PASSPHRASE"] = passphrase
    return settings
