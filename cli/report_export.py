"""The answer of `export`: the thing itself for a pipe, or where it was written."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from cli.answer import counted, escaped, table
from cli.export import COSE, REKOR, Exported
from watermark.errors import InputError

_NEXT = {
    "tlog-proof": "next: any C2SP client verifies it with the log's key (weightmark keys show)",
    "cose": "next: any SCITT client verifies it with the log's key; the entry's index, a checkpoint tells",
    "rekor": "next: a client that logs the same signature in a Rekor v2 log gets back these very bytes",
}


def json_of_export(exported: Exported) -> dict[str, Any]:
    """The document of `export --json`: `content` is text, `content_base64` what is none."""
    document: dict[str, Any] = {
        "format": exported.form,
        "origin": exported.origin,
        "index": exported.index,
        "out": None if exported.written_to is None else str(exported.written_to),
    }
    if exported.form == COSE:
        return {**document, "content_base64": base64.b64encode(exported.data).decode("ascii")}
    if exported.form == REKOR:
        document |= {"about": list(exported.parts), "left_out": list(exported.left_out)}
    return {**document, "content": exported.data.decode("utf-8")}


def check_presentable(form: str, out: Path | None) -> None:
    """Refuse to print what is no text, before anything is unlocked or signed for it."""
    if form == COSE and out is None:
        raise InputError("a COSE receipt is no text", hint="write it to a file with --out, or take it from --json")


def text_of_export(exported: Exported) -> tuple[str, ...]:
    """The lines of `export`: the thing itself, ready for a pipe, unless it was written somewhere."""
    if exported.written_to is None:
        return (exported.data.decode("utf-8").removesuffix("\n"),)  # one piece, which --quiet leaves whole
    rows: list[tuple[object, ...]] = [("log", f"entry {exported.index} of {exported.origin}")]
    rows.append(("size", f"{len(exported.data):,} bytes"))
    if exported.parts:
        rows.append(("about", f"{counted(len(exported.parts), 'signature')}: {', '.join(exported.parts)}"))
    if exported.left_out:
        rows.append(("left out", f"{', '.join(exported.left_out)}: not signed with an ECDSA key"))
    return (f"WRITTEN   {escaped(exported.written_to)}", *table(rows), f"  {_NEXT[exported.form]}")
