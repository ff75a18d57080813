"""How old a reader's view of the log is: who verifies offline cannot know of later revocations, and must hear so.

A trust file says when it was written; past a first age the reader is warned, past a second one nothing verifies. The
clock is passed in. Knows no keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from watermark.errors import StaleViewError

if TYPE_CHECKING:
    from registry.signing.trust import TrustPolicy

WARN_DAYS, REFUSE_DAYS = 7.0, 30.0
_CLOCK_SLACK = timedelta(days=1)


@dataclass(frozen=True)
class ViewAge:
    """The age of a trust file, in days, and a warning where it is worth one. Both None: the file does not say."""

    viewed_at: datetime | None
    days: float | None
    warning: str | None


def judge_view(
    trust: TrustPolicy, origin: str, now: datetime, *, warn_days: float = WARN_DAYS, refuse_days: float = REFUSE_DAYS
) -> ViewAge:
    """Judge how old the trust file's view of a log is; StaleViewError when it is past `refuse_days`, or of tomorrow."""
    view = trust.viewed.get(origin)
    if view is None:
        return ViewAge(None, None, None)
    age = now - view.at
    if age < -_CLOCK_SLACK:
        raise StaleViewError(
            f"the trust file says that it was written at {view.at:%Y-%m-%d %H:%M} UTC, which is still to come",
            hint="set this machine's clock, or ask the owner for a fresh trust file",
        )
    days = max(0.0, age / timedelta(days=1))
    if days > refuse_days:
        raise StaleViewError(
            f"the trust file is {days:.0f} days old, and {refuse_days:g} are allowed: a key may be revoked since",
        )
    warning = None
    if days > warn_days:
        warning = f"the trust file is {days:.0f} days old: a key may be revoked since; ask its owner for a fresh one"
    return ViewAge(view.at, days, warning)
