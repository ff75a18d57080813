"""Kinship in the verdict of `check`: hidden units in place, and whether a declared base explains them.

Runs where no key speaks. Says that two models stem from one training, never whose it was nor in which direction. A
number goes out only where the reference is independently older than the suspect: whoever claims could have reordered
his own model to fit. Knows no flags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from watermark.evidence import add_multiplicity
from watermark.lineage.kinship import CONDITIONS, THRESHOLD_RELATED_LOG2_P, TWIN_SIMILARITY, Kinship, kinship
from watermark.model.directory import Model

#: The test's name in a report.
KINSHIP = "kinship: hidden units in place"


@dataclass(frozen=True)
class Kin:
    """What the suspect shares with a reference, and with the base that the reference was declared to stand on."""

    reference: Kinship
    base: Kinship | None

    def log2_p_adjusted(self, releases: int) -> float:
        """The bound after every release that was looked at is paid for."""
        return add_multiplicity(self.reference.log2_p, [releases])

    def is_related(self, releases: int) -> bool:
        """Whether chance is ruled out."""
        return self.log2_p_adjusted(releases) <= THRESHOLD_RELATED_LOG2_P

    def is_explained_by_base(self) -> bool:
        """Whether the declared base has as good a claim: the suspect is beyond chance its relative too."""
        return self.base is not None and self.base.log2_p <= THRESHOLD_RELATED_LOG2_P

    @property
    def detail(self) -> str:
        """The count, and the similarity beside what innocents show."""
        low, high = TWIN_SIMILARITY
        found = self.reference
        less = f" ({found.uncounted:,} not counted: perhaps a vocabulary's)" if found.uncounted else ""
        return (
            f"{found.in_place:,} of {found.units:,} hidden units in {found.layers} layers{less}; similarity "
            f"{found.similarity:.2f}, innocent twins {low} to {high} (not counted)"
        )

    def reasons(self) -> list[str]:
        """What the verdict rests on, and its limits."""
        if self.is_explained_by_base():
            return ["hidden units are in place beyond chance, and so are those of the declared public base", CONDITIONS]
        return [
            "hidden units are in place beyond chance: both stem from one training; which came first, and whose it is, "
            "is open (a common base that was not declared would show just so)",
            CONDITIONS,
        ]


def find_kin(reference: Model, suspect: Model, base: Model | None) -> Kin | None:
    """Compare hidden units of a suspect with the reference's, and with the base's; None where nothing compares."""
    found = kinship(reference, list(reference.weights.values()), suspect)
    if found is None:
        return None
    return Kin(found, kinship(base, list(base.weights.values()), suspect) if base is not None else None)


def nearest_kin(kin: Sequence[Kin | None], releases: int) -> int | None:
    """Which of several is the nearest relative, if any is one beyond chance: the most units, then the most alike."""
    related = [number for number, one in enumerate(kin) if one is not None and one.is_related(releases)]

    def nearness(number: int) -> tuple[float, float]:
        one = kin[number]
        assert one is not None
        return one.reference.in_place / one.reference.units, one.reference.similarity

    return max(related, key=nearness, default=None)
