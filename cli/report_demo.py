"""How the demo's story reaches people, and its result as text and as JSON."""

from __future__ import annotations

import sys
from typing import Any

from cli.answer import counted, escaped
from cli.demo import DemoResult, Show


def showing(*, quiet: bool, to_stderr: bool) -> Show:
    """A way to tell the story as it goes: on stdout, or on stderr where stdout belongs to JSON; silent if quiet."""

    def show(text: str) -> None:
        if not quiet:
            # At once: the story must not wait in a pipe's buffer for its end.
            print(text, file=sys.stderr if to_stderr else sys.stdout, flush=True)

    return show


def json_of_demo(result: DemoResult) -> dict[str, Any]:
    """The document of `demo --json`."""
    return {
        "as_told": result.as_told,
        "seconds": round(result.seconds, 1),
        "folder": None if result.folder is None else str(result.folder),
        "commands": [
            {
                "command": one.command,
                "exit_code": one.exit_code,
                "expected": one.expected,
                "seconds": round(one.seconds, 1),
            }
            for one in result.played
        ],
    }


def text_of_demo(result: DemoResult) -> tuple[str, ...]:
    """The lines at the end of `demo`."""
    wrong = [one for one in result.played if one.exit_code != one.expected]
    if wrong:
        return (
            f"FAILED    {len(wrong)} of {counted(len(result.played), 'command')} did not end as they should",
            *(f"  exit {one.exit_code}, not {one.expected}: {escaped(one.command)}" for one in wrong),
            "  next: run it again with --folder DIR, and look at what is there",
        )
    kept = [] if result.folder is None else [f"  kept in {escaped(result.folder)}"]
    return (
        f"DONE      all {counted(len(result.played), 'command')} ended as they should, in {result.seconds:.0f} s",
        *kept,
        "  next: weightmark init, then weightmark release YOUR_MODEL --out DIR --to RECIPIENT",
    )
