"""The commands about time stamping authorities: flags turned into the request of a job, its result into an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.answer import Answer
from cli.options import Options


def trust_tsa(
    options: Options,
    name: Annotated[str, typer.Argument(metavar="NAME", help="How results shall name the authority.")],
    root: Annotated[Path, typer.Argument(metavar="PEM", help="Its root certificate, got by a way that you trust.")],
) -> Answer:
    """Believe a time stamping authority from now on: a line in the trust file of your home."""
    from cli.report_time import json_of_trust_tsa, text_of_trust_tsa
    from cli.tsa_trust import trust_tsa as add_authority

    result = add_authority(options.home, name, root)
    head, *body = text_of_trust_tsa(result)
    return Answer(json_of_trust_tsa(result), head, tuple(body))
