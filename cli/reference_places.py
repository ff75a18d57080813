"""Where unmarked references are kept: a folder or file on disk, or a folder in S3 that is fetched when it is used.

What comes from S3 lies in a temporary folder as long as the caller's block lasts, every file with the digest it was
kept with. Trouble with S3 is an error that passes through, never a silent loss of power: the caller asked for that
reference. Prints nothing.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from registry.store.s3_folder import LIST_NAME, get_folder, is_s3, parse_s3_place, put_folder
from watermark.errors import InputError
from watermark.model.directory import Model

Place = Path | str


def place_from(text: str | None) -> Place | None:
    """A place as the command line names it: text for S3, a path otherwise."""
    return text if text is None or is_s3(text) else Path(text)


def local_place(place: Place, stack: ExitStack) -> Path:
    """A path where the reference can be opened; from S3 it is fetched, and removed when the stack is left.

    Raises UnavailableError or RegistryError (exit 4) when S3 cannot give it, or gives other bytes than were kept.
    """
    if not is_s3(place):
        return Path(place)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weightmark-reference-")))
    get_folder(parse_s3_place(str(place)), folder)
    names = os.listdir(folder)
    only = folder / names[0] if len(names) == 1 else folder
    return only if only.is_file() else folder


def keep_in_s3(model: Model, place: str) -> str:
    """Put every file of an open model there and return the place to remember; the same again does nothing.

    Raises ConflictError when another model is there, UnavailableError or RegistryError when S3 cannot take it.
    """
    parsed = parse_s3_place(place)
    if any(entry.path == LIST_NAME for entry in model.files):
        raise InputError(f"the model has a file named {LIST_NAME}, which S3 keeps for the list", hint="rename it")
    names = [entry.path for entry in model.files]
    put_folder(parsed, {name: lambda name=name: model.open_file(name) for name in names})  # type: ignore[misc]
    return place
