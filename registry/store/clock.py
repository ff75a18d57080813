"""The registry's clock: it never steps back, and it refuses to leap.

Wall clocks are set, by people and by time servers; a log whose times decrease cannot be believed. The clock is handed
in, so that tests can turn it. It can only judge leaps within one process: between two runs any pause is possible.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from watermark.errors import UnavailableError

MAX_LEAP_SECONDS = 24 * 3600
MAX_STEP_BACK_SECONDS = 5
"""Small corrections by a time server: the last time is then used again, until the clock has caught up."""


def elapsed_seconds() -> float:
    """Seconds since some start, unmoved by settings of the wall clock; counts a sleeping machine where it can."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class Clock:
    """Gives times that never decrease, or refuses with UnavailableError (nothing happened; safe to try again)."""

    def __init__(self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = elapsed_seconds) -> None:
        """`wall` gives POSIX seconds, `elapsed` seconds that nobody can set."""
        self._wall, self._elapsed = wall, elapsed
        self._start = wall() - elapsed()

    def now(self) -> int:
        """The wall clock's time, POSIX seconds, unchecked."""
        return int(self._wall())

    def after(self, last: int) -> int:
        """A time not before `last` (POSIX seconds both)."""
        now = self.now()
        if now < last - MAX_STEP_BACK_SECONDS:
            raise UnavailableError(
                f"the clock stands {last - now} s before the last entry of the log",
                hint="set the clock right, then retry",
            )
        leap = self._wall() - self._elapsed() - self._start
        if leap > MAX_LEAP_SECONDS:
            raise UnavailableError(
                f"the clock leapt {int(leap)} s ahead while running", hint="set the clock right, then start again"
            )
        return max(now, last)
