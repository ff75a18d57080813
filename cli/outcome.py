"""What opened blocks show in a suspect: computed by the owner who opens them and, just so, by whoever verifies.

One function for both sides, so that they cannot differ. Knows no files and no log but the index of the case.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from cli.evidence_file import CopyOpening
from watermark.evidence import THRESHOLD_LOG2_P, THRESHOLD_RECIPIENT_LOG2_P, KeyedTest, add_multiplicity
from watermark.marks import commitment
from watermark.marks.dispute import DISPUTABLE, score_owner, score_recipient, verify_openings
from watermark.marks.geometry import Geometry
from watermark.marks.secret import CopyKey
from watermark.model.directory import Model

#: How the blocks of a case were drawn.
SELF_ASSERTED_DRAW, CHALLENGED_DRAW = "self-asserted", "challenge"


@dataclass(frozen=True)
class CaseCost:
    """What a case pays for: the statistics one could choose from, every try before it, and what was spent before it.

    No more cases were tried, and no more copies committed, than the log had entries: a bound that needs no trust.
    `choices` are the draws that spending other blocks could have made (`draw_choices`); 1 where none was spent.
    """

    log_index: int
    choices: int

    @property
    def counts(self) -> tuple[tuple[str, int], ...]:
        """What the owner's layer pays, each with its name."""
        return (("statistics", len(DISPUTABLE)), *self.recipient_counts)

    @property
    def recipient_counts(self) -> tuple[tuple[str, int], ...]:
        """What a recipient's code pays: the statistic is the owner layer's, and the copies are log entries."""
        spent = (("choices of spent blocks", self.choices),) if self.choices > 1 else ()
        return (("log entries up to the case", self.log_index + 1), *spent)

    def named(self, recipient: KeyedTest) -> float:
        """log2 p of a recipient's test after all of it."""
        return add_multiplicity(recipient.log2_p, [count for _, count in self.recipient_counts])


def checkpoint_randomness(checkpoint: bytes) -> bytes:
    """Self-asserted randomness: SHA-256 of the text of the first checkpoint that covers the case."""
    return hashlib.sha256(checkpoint.rpartition(b"\n\n")[0] + b"\n").digest()


@dataclass(frozen=True)
class Outcome:
    """What opened blocks show: the owner's test, the sums of each block, and the recipient's test if claimed."""

    owner: KeyedTest
    blocks: tuple[tuple[int, int], ...]
    recipient: KeyedTest | None

    def to_json(self, cost: CaseCost, threshold: float = THRESHOLD_LOG2_P) -> dict[str, Any]:
        """Exact integers as text where they may exceed 2^53, and the numbers that follow from them."""
        counts = [count for _, count in cost.counts]
        fields: dict[str, Any] = {
            "statistic": self.owner.name,
            "total": str(self.owner.total),
            "energy": str(self.owner.energy),
            "trials": self.owner.trials,
            "blocks": [{"total": str(total), "energy": str(energy)} for total, energy in self.blocks],
            "log2_p": self.owner.log2_p,
            "multiplicity": [
                {"what": what, "count": count if count < 1 << 53 else str(count)} for what, count in cost.counts
            ],
            "log2_p_adjusted": add_multiplicity(self.owner.log2_p, counts),
            "threshold": threshold,
            "recipient": None,
        }
        if self.recipient is not None:
            fields["recipient"] = {
                "total": str(self.recipient.total),
                "energy": str(self.recipient.energy),
                "trials": self.recipient.trials,
                "log2_p": self.recipient.log2_p,
                "log2_p_adjusted": cost.named(self.recipient),
                "threshold": THRESHOLD_RECIPIENT_LOG2_P,
            }
        return fields


def score(
    openings: tuple[commitment.BlockOpening, ...],
    geometry: Geometry,
    root: bytes,
    stretched: bytes,
    suspect: Model,
    statistic: str,
    copy: CopyKey | CopyOpening | None,
) -> Outcome:
    """What opened blocks show in a suspect; owner and verifier both run exactly this."""
    opened = verify_openings(openings, geometry, root, suspect)
    owner, blocks = score_owner(opened, suspect, statistic, stretched)
    recipient = None
    if copy is not None:
        parts = (copy.key, copy.salt, copy.recipient)
        recipient = score_recipient(opened, suspect, statistic, stretched, geometry, parts, root)
    return Outcome(owner, blocks, recipient)
