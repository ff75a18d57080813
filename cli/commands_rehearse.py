"""The command `rehearse`: flags to arguments, nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.answer import Answer, escaped
from cli.commands_models import Calibrate
from cli.options import Options


def rehearse(
    options: Options,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The unmarked model: a folder or a file.")],
    work: Annotated[
        Path, typer.Option("--work", metavar="DIR", help="Where copies and results are kept; the same again goes on.")
    ],
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            metavar="python:MODULE:FUNCTION",
            help="Your measure: called with a model folder, a number, higher for better. Else distance in weights.",
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="python:MODULE:FUNCTION",
            help="An attack of your own: a state dict in, another out. May be given several times.",
        ),
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option("--family", metavar="NAME", help="Only these families of attacks.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="The public base that the model was tuned from.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option("--strength", metavar="ALPHA", help="Of the mark, in row deviations; else chosen.")
    ] = None,
    calibrate: Calibrate = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write the answer as a page to look at.")
    ] = None,
) -> Answer:
    """Attack a marked copy before it ships: what survives, and what it costs the thief."""
    from cli.rehearse import RehearseRequest
    from cli.rehearse import rehearse as play
    from cli.report_rehearse import exit_code_of_rehearsal, json_of_rehearsal, text_of_rehearsal, write_rehearsal_page

    def tell(done: int, total: int, following: str) -> None:
        if not options.quiet and sys.stderr.isatty():
            line = f"\r\x1b[K{done} of {total}  {escaped(following)}"
            print(line, end="" if following else "\n", file=sys.stderr, flush=True)

    request = RehearseRequest(model, work, base, strength, quality, tuple(attack or ()), tuple(family or ()), calibrate)
    result = play(request, tell)
    if report is not None:
        write_rehearsal_page(report, result, model)
    head, *body = text_of_rehearsal(result)
    return Answer(json_of_rehearsal(result), head, tuple(body), exit_code_of_rehearsal(result))
