"""The command `export`: flags turned into the request of its job, and its result into an answer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.answer import Answer
from cli.options import Options


class Form(StrEnum):
    """The forms in which an entry leaves the house."""

    COSE = "cose"
    TLOG_PROOF = "tlog-proof"
    REKOR = "rekor"


def export(
    options: Options,
    what: Annotated[
        str, typer.Argument(metavar="INDEX_OR_COPY", help="An entry of the log; or a copy, by the beginning of its id.")
    ],
    form: Annotated[Form, typer.Option("--format", help="A COSE receipt, a C2SP proof, or what Rekor v2 would store.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there; else to stdout.")] = None,
) -> Answer:
    """Export the proof of a log entry in a form that other people's software reads."""
    from cli.export import ExportRequest
    from cli.export import export as export_entry
    from cli.report_export import check_presentable, json_of_export, text_of_export

    if not options.as_json:
        check_presentable(form.value, out)
    request = ExportRequest(options.home, what, form.value, out, options.pin())
    exported = export_entry(request, options.passphrase())
    if options.as_json:
        return Answer(json_of_export(exported), "")
    head, *body = text_of_export(exported)
    return Answer({}, head, tuple(body))
