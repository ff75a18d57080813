"""What a command answers, in both forms at once: one JSON document for programs, text for people.

Text goes to stdout as well, but never together with JSON. Names come from strangers' models, so whatever reaches a
terminal has its control characters spelled out. Knows no job.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """The outcome of a command: `headline` is all that --quiet leaves of the text, `body` the lines under it."""

    document: Mapping[str, Any]
    headline: str
    body: tuple[str, ...] = ()
    exit_code: int = 0


def emit(answer: Answer, *, as_json: bool, quiet: bool) -> None:
    """Write an answer to stdout in the form that was asked for."""
    if as_json:
        write_json(answer.document)
    else:
        _write([answer.headline, *(() if quiet else answer.body)])


def emit_error(code: str, message: str, hint: str, *, as_json: bool) -> None:
    """Write a failure: as the one JSON document on stdout, or as text on stderr."""
    if as_json:
        write_json({"error": {"code": code, "message": message, "hint": hint}})
        return
    lines = [f"error: {escaped(message)}"] + ([f"  next: {escaped(hint)}"] if hint else [])
    print("\n".join(lines), file=sys.stderr)


def write_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document on one line; ASCII only, so that no name in it can steer a terminal."""
    _write([json.dumps(document, ensure_ascii=True, allow_nan=False)])


def _write(lines: Iterable[str]) -> None:
    try:
        print("\n".join(lines))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`| head`): no failure, and the exit code is still the verdict's. What Python
        # would flush at its end goes nowhere (Python documentation, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def escaped(text: object) -> str:
    """Spell out what a terminal would obey or hide: control characters, bidirectional overrides, bytes not UTF-8."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in plain)


def short(identifier: str) -> str:
    """The beginning of a hex id that people read; commands take it back as a prefix."""
    return escaped(identifier[:12])


def counted(count: int, what: str) -> str:
    """A number of things, in words: `1 copy` is not `1 copies`."""
    if count == 1:
        return f"1 {what}"
    if what.endswith("y") and not what.endswith("ey"):
        return f"{count:,} {what.removesuffix('y')}ies"
    return f"{count:,} {what}s"


def table(rows: Sequence[Sequence[object]], *, indent: str = "  ", right: Iterable[int] = ()) -> tuple[str, ...]:
    """Set rows in columns; columns in `right` are set flush right, empty rows dropped. Cells are escaped."""
    cells = [[escaped(cell) for cell in row] for row in rows if row]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))] if cells else []
    flush_right = set(right)
    lines = []
    for row in cells:
        set_row = [
            cell.rjust(width) if column in flush_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(set_row)).rstrip())
    return tuple(lines)
