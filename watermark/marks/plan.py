"""From a survey and the owner's secret to R: the whole mark, fixed before a single weight is moved.

A plan is the geometry, the commitment R, and what is needed to embed. It holds secrets; it is never written to disk.
The geometry and R are stored with the release, and secrets are derived again when a suspect is checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from watermark.errors import CapacityError
from watermark.evidence import default_strength
from watermark.marks import commitment
from watermark.marks.chips import recipient_share
from watermark.marks.geometry import (
    CODES,
    OWNER_ENERGY,
    ExcludedTensor,
    Geometry,
    MarkedTensor,
    owner_digest,
    ppm_of,
    weigh,
)
from watermark.marks.secret import ReleaseKey
from watermark.marks.survey import Survey, TensorSurvey
from watermark.model.digest import BLOCK_ELEMENTS
from watermark.model.parallel import in_order_forked

#: Under this many carriers a mark comes near what retraining erases.
SMALL_MODEL_CARRIERS = 100_000
#: Leaves that one process computes in one go.
_LEAVES_TOGETHER = 1_024
#: A release whose blind mark cannot show this much is refused: nobody could ever prove it.
_MINIMUM_BITS = 16.0
#: Strength of a weight that is stored as codes, at most, in steps between them: no chip then means more than one step.
CODED_STRENGTH_STEPS = 0.5


@dataclass(frozen=True)
class MarkPlan:
    """A mark, ready to be embedded: geometry, R, and the surveyed tensors by digest."""

    key: ReleaseKey = field(repr=False)
    geometry: Geometry
    root: bytes
    reference_digest: bytes
    surveys: Mapping[str, TensorSurvey] = field(repr=False)
    tree: commitment.LeafTree = field(repr=False)

    @property
    def carriers(self) -> int:
        """Weights that will be moved."""
        return sum(self.surveys[tensor.digest].carriers for tensor in self.geometry.marked)

    @property
    def expected_log2_p(self) -> float:
        """What the blind test of the owner layer is predicted to show on an untouched copy (a negative number)."""
        return -predicted_blind_bits((self.surveys[t.digest], t.alpha, t.weight) for t in self.geometry.marked)

    @property
    def strength(self) -> float:
        """The strength of every tensor; where it is shaped, the uniform one that moves the weights as far."""
        if not self.geometry.is_shaped:
            return self.geometry.marked[0].alpha
        energy = sum(self.surveys[t.digest].carriers * t.alpha * t.alpha for t in self.geometry.marked)
        return math.sqrt(energy / self.carriers)

    @property
    def held(self) -> tuple[MarkedTensor, ...]:
        """Weights whose codes lie so close that the mark is held to half a step of them."""
        alpha = max(tensor.alpha for tensor in self.geometry.marked)
        steps = [(tensor, tensor.step_ppm) for tensor in self.geometry.marked if tensor.step_ppm is not None]
        limits = [(tensor, round(CODED_STRENGTH_STEPS * step)) for tensor, step in steps]
        return tuple(t for t, limit in limits if t.strength_ppm >= limit - 1 or t.alpha < alpha)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the owner should know before shipping, in plain words."""
        found = []
        if self.carriers < SMALL_MODEL_CARRIERS:
            found.append(f"only {self.carriers:,} weights carry the mark: retraining may come near erasing it")
        thin = [self.surveys[t.digest].names[0] for t in self.geometry.marked if self.surveys[t.digest].low_rank]
        if self.held:
            least = min(tensor.alpha for tensor in self.held)
            found.append(
                f"in {len(self.held)} weights the mark is held to half a step between their codes ({least:.2%} of a "
                "deviation): marked before it was rounded, the model would carry more"
            )
        if thin:
            found.append(f"low rank, so the mark stands out there: {', '.join(thin[:5])}{' ...' if thin[5:] else ''}")
        return tuple(found)


def predicted_blind_bits(marked: Iterable[tuple[TensorSurvey, float, float]]) -> float:
    """What the blind test of the owner layer should show on an untouched copy: survey, alpha and weight of a tensor."""
    tensors = list(marked)
    signal = sum(survey.signal * alpha * weight for survey, alpha, weight in tensors) * math.sqrt(OWNER_ENERGY)
    energy = sum(survey.energy * weight * weight for survey, _, weight in tensors)
    return signal * signal / energy / (2 * math.log(2)) if energy else 0.0


def plan_mark(
    key: ReleaseKey,
    survey: Survey,
    *,
    base: str | None = None,
    strength: float | None = None,
    shape: Mapping[str, int] | None = None,
    owner: str | None = None,
    codes: bool = True,
) -> MarkPlan:
    """Fix geometry and R for a surveyed reference.

    Args:
        key: the release key, derived from the owner secret and this reference's canonical digest.
        survey: the first pass over the reference.
        base: canonical digest (hex) of the declared public base, if any.
        strength: total alpha in row deviations; by default from the number of carriers.
        shape: the strength of each tensor by digest (hex), in millionths, in place of one for all.
        owner: whose mark it is; without a name it is good for private answers and proves nothing to others.
        codes: move the codes of packed weights; without, stored tensors are marked as before there was such a mark.

    Raises:
        CapacityError: nothing can carry a mark, or too little for any proof.
    """
    surveyed = _without_scales(survey) if codes else survey.tensors
    carrying = [t for t in surveyed if t.reason is None and t.carriers > 0]
    carriers = sum(t.carriers for t in carrying)
    if not carrying:
        raise CapacityError(
            "no tensor of this model can carry a mark",
            hint="release with --no-mark: it is then signed and registered, but only exact copies are recognised",
        )
    alpha = default_strength(carriers) if strength is None else strength
    marked, first = [], 0
    for t in carrying:
        tensor = _marked(t, alpha if shape is None else shape[t.digest.hex()] / 1e6, first)
        marked.append(tensor)
        first += tensor.layout.blocks
    excluded = tuple(
        ExcludedTensor(t.digest.hex(), t.tensor.dtype.name, t.tensor.shape, t.reason or "no weight differs")
        for t in surveyed
        if t.reason is not None or t.carriers == 0
    )
    named = owner_digest(owner) if owner is not None else None
    geometry = Geometry(weigh(marked), excluded, recipient_share(first), base, named)
    surveys = {t.digest.hex(): t for t in surveyed}
    tree = leaf_tree(key, [d for t in marked for d in surveys[t.digest].block_digests])
    root = commitment.bind_root(tree.root, geometry.digest())
    plan = MarkPlan(key, geometry, root, survey.reference_digest, surveys, tree)
    if base is None and -plan.expected_log2_p < _MINIMUM_BITS:
        raise CapacityError(
            f"{carriers:,} weights at a strength of {plan.strength:.1%} would show {-plan.expected_log2_p:.0f} bits, "
            "which proves nothing",
            hint="release with --no-mark, or "
            + ("mark it before its weights are rounded" if plan.held else "choose a larger --strength"),
        )
    return plan


def _marked(found: TensorSurvey, alpha: float, first: int) -> MarkedTensor:
    strength = alpha if not found.coded else min(alpha, CODED_STRENGTH_STEPS * found.step)
    kind = found.tensor.dtype.name
    tensor = MarkedTensor(
        found.digest.hex(),
        kind,
        found.tensor.shape,
        found.grid.name if found.grid else kind,
        ppm_of(strength),
        first,
    )
    if not found.coded:
        return tensor
    return replace(tensor, grid=CODES, step_ppm=ppm_of(found.step), coded_carriers=found.carriers)


def _without_scales(survey: Survey) -> tuple[TensorSurvey, ...]:
    """All tensors in the order of their digests, packed weights among them; what these are made of carries nothing.

    Scales and codes of one weight would carry two marks: whoever rounds the weights anew then throws off that of the
    scales, and the steps of the other are no longer those of the reference.
    """
    packed = [weight for t in survey.coded if t.reason is None and t.carriers for weight in t.coded]
    grids = [weight.grid for weight in packed if weight.grid is not None]
    reasons = dict.fromkeys((name for grid in grids for name in grid.scales), "scales of codes that carry the mark")
    reasons |= {grid.stored.name: "codes of a packed weight, which carries the mark" for grid in grids}

    def settled(found: TensorSurvey) -> TensorSurvey:
        reason = next((reasons[name] for name in found.names if name in reasons), found.reason)
        return replace(found, reason=reason)

    together = [*map(settled, survey.tensors), *survey.coded]
    return tuple(sorted(together, key=lambda found: found.digest))


def leaf_tree(key: ReleaseKey, block_digests: list[bytes]) -> commitment.LeafTree:
    """The leaves of a release, from its key and the digests of its reference blocks in block order."""
    secrets = key.block_secrets()

    def leaves(first: int) -> list[bytes]:
        return [
            commitment.leaf(
                block,
                commitment.hide_secret(secrets.secret(block)),
                commitment.hide_reference(secrets.salt(block), digest),
            )
            for block, digest in enumerate(block_digests[first : first + _LEAVES_TOGETHER], first)
        ]

    firsts = range(0, len(block_digests), _LEAVES_TOGETHER)
    pieces = in_order_forked(leaves, firsts, len(block_digests) * BLOCK_ELEMENTS)
    return commitment.LeafTree([leaf for piece in pieces for leaf in piece])
