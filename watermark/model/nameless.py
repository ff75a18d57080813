"""Files without a name, for numbers that have to be worked out before they can be read by position.

They live as long as their descriptor and go with the process, however it ends.
"""

from __future__ import annotations

import os
import tempfile

from watermark.errors import InputError


def nameless_file() -> int:
    """Make one in the folder for temporary files and return its descriptor, which the caller closes.

    Raises:
        InputError: there is no room for one.
    """
    try:
        with tempfile.TemporaryFile(prefix="weightmark-") as file:
            return os.dup(file.fileno())
    except OSError as error:
        raise _no_room(error) from error


def write_at(descriptor: int, data: bytes, place: int) -> int:
    """Write all of `data` at `place` and return how many bytes that were.

    Raises:
        InputError: there is no room for it.
    """
    view, at = memoryview(data), place
    try:
        while view:
            count = os.pwrite(descriptor, view, at)
            view, at = view[count:], at + count
    except OSError as error:
        raise _no_room(error) from error
    return len(data)


def _no_room(error: OSError) -> InputError:
    return InputError(
        f"the packed weights cannot be unpacked: {error.strerror}",
        hint="set TMPDIR to a folder with room for the model in float32",
    )
