"""Functions of the user's own, named on the command line as `python:MODULE:FUNCTION`.

The module is looked for as Python does, and in the working folder. Runs the user's code: never with a name that comes
from a model, a document or the network.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watermark.errors import InputError

PREFIX = "python:"


def load_callable(reference: str) -> Callable[..., Any]:
    """Import the function that `python:MODULE:FUNCTION` names.

    Raises:
        InputError: it has another form, the module cannot be imported, or has no such function.
    """
    module_name, _, function_name = reference.removeprefix(PREFIX).partition(":")
    if not reference.startswith(PREFIX) or not module_name or not function_name:
        raise InputError(f"{reference!r} names no function", hint="write it as python:MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"{module_name!r} cannot be imported: {error}", hint="run where that module is") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"{module_name!r} has no function {function_name!r}")
    loaded: Callable[..., Any] = function
    return loaded


def load_measure(reference: str) -> Callable[[Path], float]:
    """Import a measure of a model folder's quality: a finite number, higher for better.

    Raises:
        InputError: as `load_callable`; and when it is called: it raised, or gave no finite number.
    """
    function = load_callable(reference)

    def measure(folder: Path) -> float:
        try:
            value = function(folder)
        except Exception as error:
            raise InputError(
                f"the measure of quality {reference!r} failed: {type(error).__name__}: {error}",
                hint="it is called with the folder of a model: see that it works on the unmarked one",
            ) from error
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"the measure of quality {reference!r} gave {value!r}, which is no number") from error
        if not math.isfinite(number):
            raise InputError(
                f"the measure of quality {reference!r} gave {number}",
                hint="it must give a finite number, higher for better",
            )
        return number

    return measure
