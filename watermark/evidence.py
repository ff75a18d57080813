"""From a keyed statistic to log2 p, and from several of them to one number that holds after multiplicity.

Every p here is an upper bound that holds for any suspect, because the randomness is ours: under the null hypothesis
the suspect was made without our secret, so the chips are independent of whatever was computed from the suspect and
the unmarked reference (Hoeffding 1963; sub-Gaussian variables with variance proxy 1). Numbers are kept as log2 p, so
nothing underflows to 0. Does not know where a statistic came from, and never sees weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: `ours` needs this much after multiplicity: a claimant may redraw every key by changing one weight, and 2^128 such
#: tries are out of reach.
THRESHOLD_LOG2_P = -128.0
#: With an independent time stamp older than the suspect nobody can redraw keys any more.
THRESHOLD_STAMPED_LOG2_P = -64.0
#: A recipient is named at this many bits beyond the number of recipients.
THRESHOLD_RECIPIENT_LOG2_P = -64.0
#: "Nothing found" counts as an answer only where a copy would have exceeded the threshold by this much.
POWER_MARGIN_BITS = 64.0

_TWO_LN2 = 2.0 * math.log(2.0)


@dataclass(frozen=True)
class KeyedTest:
    """One keyed test: exact integers, and the bound that follows from them.

    `total` is T = sum s_i f_i and `energy` is sum f_i^2, both in units of the quantised statistic; `trials` is the
    number of carriers with f_i != 0.
    """

    name: str
    total: int
    energy: int
    trials: int
    detail: str = ""

    @property
    def log2_p(self) -> float:
        """Upper bound on log2 of the p-value; 0.0 when nothing speaks for the key."""
        return log2_p_subgaussian(self.total, self.energy)

    @property
    def z(self) -> float:
        """T in units of its deviation under the null; 0.0 for an empty statistic."""
        return self.total / math.sqrt(self.energy) if self.energy else 0.0


def log2_p_subgaussian(total: int, energy: int) -> float:
    """Bound log2 P(T >= total) for chips of variance proxy 1: -T^2 / (2 ln 2 sum f^2), one-sided.

    Works for integers of any size without overflow. `total <= 0` or an empty statistic gives 0.0 (p = 1), never NaN.
    """
    if total <= 0 or energy <= 0:
        return 0.0
    # One rounding of an exact rational: big integers would overflow a float before the division.
    shift = max(0, max(total.bit_length() * 2, energy.bit_length()) - 900)
    square, spread = (total * total) >> shift, energy >> shift
    return -(square / spread) / _TWO_LN2 if spread else -math.inf if square else 0.0


def add_multiplicity(log2_p: float, tried: Iterable[int]) -> float:
    """Pay for everything that was tried: log2 p + sum of log2 of each count, at most 0.0 (p = 1)."""
    return min(0.0, log2_p + sum(math.log2(count) for count in tried if count > 1))


def predicted_bits_blind(carriers: int, alpha: float) -> float:
    """Bits that a mark of strength `alpha` (in row deviations) shows blind over `carriers` weights."""
    return carriers * alpha * alpha / _TWO_LN2


def predicted_bits_with_reference(carriers: int, alpha: float, disturbance: float) -> float:
    """Bits against the reference when the thief added `disturbance` (in row deviations) to every weight."""
    return carriers * alpha * alpha / (alpha * alpha + disturbance * disturbance) / _TWO_LN2


def default_strength(carriers: int, *, bits: float = 1500.0, floor: float = 0.005, ceiling: float = 0.10) -> float:
    """Total strength alpha that shows `bits` blind over `carriers` weights, kept between `floor` and `ceiling`."""
    if carriers <= 0:
        return ceiling
    return min(ceiling, max(floor, math.sqrt(bits * _TWO_LN2 / carriers)))
