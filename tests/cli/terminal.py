"""Runs a program at a terminal of its own (a pty), types at it, and returns what a person would see."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from collections.abc import Mapping, Sequence

from tests.cli.command import Finished, clean_environment


def at_terminal(
    arguments: Sequence[str], *, typed: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Finished:
    """Type each line once the program has asked for it: a prompt is output that ends in a colon."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, *arguments], {**clean_environment(environment), "TERM": "xterm"})
    seen, waiting, asked_at = b"", list(typed), 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other side has closed
            part = b""
        if not part:
            break
        seen += part
        if waiting and seen[asked_at:].rstrip(b" ").endswith(b":"):
            asked_at = len(seen)
            os.write(terminal, waiting.pop(0).encode() + b"\n")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return Finished(os.waitstatus_to_exitcode(status), seen.decode(), "")
