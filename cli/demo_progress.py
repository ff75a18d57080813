"""Show a person that training moves: a bar on a terminal, a line every ten steps elsewhere, always on stderr.

A demo is often watched through a build log, where silence for a minute looks like a hang.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 10


@contextmanager
def training_steps(label: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Give a callback that takes steps done and shows their sum out of `total`."""
    if quiet:
        yield lambda _steps: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda steps: bar.advance(task, steps)
    else:
        yield _Lines(label, total)


class _Lines:
    """Tells of the first step, which takes longest to come, then of every tenth."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0

    def __call__(self, steps: int) -> None:
        before, self._done = self._done, self._done + steps
        if before == 0 or before // EVERY < self._done // EVERY or self._done == self._total:
            print(f"{self._label}: step {self._done} of {self._total}", file=sys.stderr, flush=True)
