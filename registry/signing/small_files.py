"""Read and replace small files: bounded reads of what others wrote, one-step durable writes of ours.

Used for signatures, claims, proofs and trust files; models are read by `files` and `hashing`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from registry.signing.files import reason
from watermark.errors import InputError, LimitError, UnavailableError


def read_small_file(path: Path, *, what: str, max_bytes: int) -> bytes:
    """Read a whole regular file that other people may have written; InputError when absent, odd or too big."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"{what} at {path} is not a regular file")
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{what} at {path} cannot be read: {reason(error)}") from error
    if len(data) > max_bytes:
        raise LimitError(f"{what} at {path} has more than {max_bytes} bytes")
    return data


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step and durably: a crash leaves the old file or the new one, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with open(draft, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be written: {reason(error)}", hint="free disk space or permit it"
        ) from error
