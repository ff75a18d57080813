"""How strong the mark is in each tensor, from what it costs there: the strength map, fixed before R is.

Moving the weights of tensor t by a_t of their rows' deviations, in directions that nobody chose, costs C_t a_t^2: what
is linear in them cancels on average, and tensors do not mix. With N_t carriers and c_t = C_t / N_t, the map is

    a_t^2 = level / c_t,   kept between half the uniform strength and 10 %,

at the smallest level that shows no fewer bits than the uniform mark: blind, and against the reference under noise of
0.1 and of 0.4 deviations. So every weight pays the same. Least cost alone is a linear programme, which puts the whole
mark where it is cheapest, and there noise is cheap for a thief too. Against one who knows the map and C_t, and spends a
cost D on noise where it takes most, a mark leaves (sum N_t a_t sqrt(c_t))^2 / D; of all marks of one cost, this one
leaves the most (Cauchy and Schwarz). Knows no keys, no files and no measure.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from watermark.evidence import predicted_bits_with_reference
from watermark.marks.geometry import OWNER_ENERGY, ppm_of
from watermark.marks.plan import predicted_blind_bits
from watermark.marks.survey import TensorSurvey

#: No tensor falls under this share of the uniform strength: who takes only a part of the model takes a mark too.
FLOOR = 0.5
#: No tensor is raised over this; it is also where the strength chosen by itself ends.
CAP = 0.10
#: Noise, in row deviations, under which a shaped mark shows no fewer bits: that of 4-bit rounding, and a heavy one.
DISTURBANCES = (0.1, 0.4)
#: Tensors are measured together so that no more groups than these are tried.
MOST_GROUPS = 32
_HALVINGS = 60


@dataclass(frozen=True)
class Sensitivity:
    """A tensor that carries the mark, and what moving it costs: C_t, or None where the measure did not see it."""

    survey: TensorSurvey
    cost: float | None


def shape_strengths(tensors: Sequence[Sensitivity], uniform: float) -> tuple[int, ...]:
    """The strength of each tensor in millionths of a row's deviation; `uniform` where nothing is known.

    Where all are at the cap already the map is uniform.
    """
    everywhere = (ppm_of(uniform),) * len(tensors)
    asked = _bits(tensors, everywhere)
    known = [tensor.cost / tensor.survey.carriers for tensor in tensors if tensor.cost is not None]
    if not known:
        return everywhere
    lower, upper = FLOOR * uniform, max(uniform, CAP)

    def at(level: float) -> tuple[int, ...]:
        return tuple(
            ppm_of(uniform)
            if tensor.cost is None
            else math.ceil(min(upper, max(lower, math.sqrt(level * tensor.survey.carriers / tensor.cost))) * 1e6)
            for tensor in tensors
        )

    low, high = lower * lower * min(known), upper * upper * max(known)
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        enough = all(found >= wanted for found, wanted in zip(_bits(tensors, at(middle)), asked, strict=True))
        low, high = (low, middle) if enough else (middle, high)
    return at(high)


def predicted_cost(tensors: Sequence[Sensitivity], strengths: Sequence[int]) -> float:
    """Sum of C_t a_t^2 over the tensors whose cost is known."""
    return sum((tensor.cost or 0.0) * (ppm / 1e6) ** 2 for tensor, ppm in zip(tensors, strengths, strict=True))


def _bits(tensors: Sequence[Sensitivity], strengths: Sequence[int]) -> tuple[float, ...]:
    """What is predicted of the owner layer: blind, and against the reference under each disturbance."""
    marked = [(tensor.survey, ppm / 1e6) for tensor, ppm in zip(tensors, strengths, strict=True)]
    disturbed = (
        sum(
            predicted_bits_with_reference(
                survey.carriers, alpha * math.sqrt(OWNER_ENERGY), math.hypot(beta, alpha * math.sqrt(1 - OWNER_ENERGY))
            )
            for survey, alpha in marked
        )
        for beta in DISTURBANCES
    )
    strongest = max(alpha for _, alpha in marked)
    return predicted_blind_bits((survey, alpha, alpha / strongest) for survey, alpha in marked), *disturbed


def group_tensors(surveys: Sequence[TensorSurvey], most: int = MOST_GROUPS) -> list[tuple[TensorSurvey, ...]]:
    """Tensors that are measured together, in at most `most` groups: alone if they can, else by shape, role and depth.

    A role is a name without its numbers. Names bound the work and decide nothing else.
    """
    ordered = sorted(surveys, key=lambda survey: (survey.tensor.shape, *_place(survey.names[0])))
    roles: dict[object, list[TensorSurvey]] = {}
    for survey in ordered:
        roles.setdefault((survey.tensor.shape, _place(survey.names[0])[0]), []).append(survey)
    if len(roles) > most:
        roles = {}
        for survey in ordered:
            roles.setdefault(survey.tensor.shape, []).append(survey)
    if len(roles) > most:
        roles = {0: ordered}
    runs = 1
    while runs < len(ordered) and sum(min(len(role), runs + 1) for role in roles.values()) <= most:
        runs += 1
    return [part for role in roles.values() for part in _cut(role, min(len(role), runs))]


def _place(name: str) -> tuple[str, tuple[int, ...]]:
    """A name without its numbers, and the numbers."""
    return re.sub(r"\d+", "#", name), tuple(map(int, re.findall(r"\d+", name)))


def _cut(tensors: Sequence[TensorSurvey], parts: int) -> list[tuple[TensorSurvey, ...]]:
    """Consecutive runs of about equal length."""
    bounds = [len(tensors) * part // parts for part in range(parts + 1)]
    return [tuple(tensors[start:stop]) for start, stop in itertools.pairwise(bounds)]
