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
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="A,B,...",
            help="Only these: A disguises, B structure, C lossy, D training, E merging, F collusion. Else all.",
        ),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(
            "--train",
            metavar="python:MODULE:FUNCTION",
            help="Your training, for class D: called with a model folder and a share of the original training; gives "
            "the trained state dict or its folder.",
        ),
    ] = None,
    train_for: Annotated[
        str | None,
        typer.Option("--train-for", metavar="SHARE,...", help="Shares of the original training, as 0.1,1,10."),
    ] = None,
    sibling: Annotated[
        list[str] | None,
        typer.Option("--sibling", metavar="MODEL", help="A fine-tune of the same base by others, to merge with."),
    ] = None,
    colluders: Annotated[
        int | None,
        typer.Option("--colluders", metavar="N", help="Most copies put together in class F, 2 to 64; 8 if not given."),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", min=1, help="Attacks tried at a time, each in a process of its own.")
    ] = 1,
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
    from cli.rehearse_coalition import COLLUDERS
    from cli.rehearse_training import SHARES
    from cli.report_rehearse import exit_code_of_rehearsal, json_of_rehearsal, text_of_rehearsal, write_rehearsal_page

    def tell(done: int, total: int, following: str) -> None:
        if not options.quiet and sys.stderr.isatty():
            line = f"\r\x1b[K{done} of {total}  {escaped(following)}"
            print(line, end="" if following else "\n", file=sys.stderr, flush=True)

    request = RehearseRequest(
        model,
        work,
        base,
        strength,
        quality,
        tuple(attack or ()),
        tuple(family or ()),
        tuple(letter.strip().upper() for letter in classes.split(",")) if classes else (),
        train,
        _shares(train_for) if train_for else SHARES,
        tuple(sibling or ()),
        COLLUDERS if colluders is None else colluders,
        jobs,
        calibrate,
    )
    result = play(request, tell)
    if report is not None:
        write_rehearsal_page(report, result, model)
    head, *body = text_of_rehearsal(result)
    return Answer(json_of_rehearsal(result), head, tuple(body), exit_code_of_rehearsal(result))


def _shares(text: str) -> tuple[float, ...]:
    from watermark.errors import InputError

    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError as error:
        raise InputError(f"--train-for {text!r} is no list of numbers", hint="pass 0.1,1,10") from error
