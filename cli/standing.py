"""What stands behind a verified release: how many of its owner's keys signed, and how old the reader's view of them is.

Joins the judgements of `registry.signing` (signers, view age) with the wall clock and the reader's settings. Prints
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from registry.signing.signers import demand_threshold
from registry.signing.view_age import REFUSE_DAYS, WARN_DAYS, judge_view
from watermark.errors import InputError

if TYPE_CHECKING:
    from cli.home import Home
    from registry.signing.release import VerifiedRelease
    from registry.signing.trust import TrustPolicy


@dataclass(frozen=True)
class StandingRules:
    """How old a trust file may be, in days, and whether all the signatures that the owner asks for must be there.

    Only who is about to countersign does without the last.
    """

    max_view_age: float = REFUSE_DAYS
    warn_view_age: float = WARN_DAYS
    countersigned: bool = True


USUAL_RULES = StandingRules()


@dataclass(frozen=True)
class Standing:
    """The ids of the owner's keys that signed, how many must, and when the trust file was written (None: not said)."""

    signers: tuple[str, ...]
    threshold: int
    viewed_at: str | None
    warnings: tuple[str, ...]


def judge_standing(
    release: VerifiedRelease, trust: TrustPolicy, rules: StandingRules, now: datetime | None = None
) -> Standing:
    """Raise ThresholdError for too few signatures, StaleViewError for a trust file that is too old."""
    if not rules.max_view_age > 0 or not rules.warn_view_age > 0:
        raise InputError("a trust file must be allowed some age", hint="name a number of days above 0")
    view = judge_view(
        trust,
        release.origin,
        now or datetime.now(UTC),
        warn_days=rules.warn_view_age,
        refuse_days=rules.max_view_age,
    )
    if rules.countersigned:
        demand_threshold(release.signers, release.owner)
    return Standing(
        tuple(key.key_id for key in release.signers.keys),
        release.signers.needed,
        None if view.viewed_at is None else f"{view.viewed_at:%Y-%m-%dT%H:%M:%SZ}",
        (*([] if view.warning is None else [view.warning]), *release.signers.not_counted),
    )


def cosign_notes(home: Home, index: int) -> tuple[str, ...]:
    """What an owner must do before a release at this log index verifies, where one key is not enough."""
    missing = home.trust().threshold_of(home.owner, index) - 1
    if missing < 1:
        return ()
    return (f"{missing} more of your keys must sign it before it verifies: weightmark keys cosign",)
