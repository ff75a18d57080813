"""Where a mark lies: the public shape of it, whose canonical form (RFC 8785) is hashed into R.

Tensors are named by their digests, never by their names, and stand in the order of those digests. Whoever changes a
bound, a strength or an exclusion afterwards changes R, and with it every chip. Does not know weights or keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import rfc8785

from watermark.errors import DocumentError
from watermark.model.digest import BlockLayout, layout_of

#: How the sums are taken: 2 weighs tensors by their strength, which changes nothing where all have one.
UNIFORM_STATISTIC, SHAPED_STATISTIC = 1, 2
#: Share of a mark's energy in the owner layer; the rest is the recipient's.
OWNER_ENERGY = 2 / 3
#: The grid of weights that are stored as integer codes.
CODES = "codes"
#: Mean size of a chip of both layers, which has variance 1.
_MEAN_CHIP = 0.857


def ppm_of(strength: float) -> int:
    """A strength or step as geometries state it, in millionths."""
    return max(1, round(strength * 1e6))


@dataclass(frozen=True)
class MarkedTensor:
    """A tensor that carries the mark: its blocks are numbered from `first_block` on.

    Of a weight that is stored as codes (`grid` is `CODES`), dtype, shape and digest are those of the numbers that it
    stands for. What it can show then depends on how far codes lie apart, `step_ppm` of a row deviation, and on how many
    of them may move, `coded_carriers`; both None for all others. `weight` is its strength as a share of the strongest
    tensor's in its geometry (`weigh`).
    """

    digest: str
    dtype: str
    shape: tuple[int, ...]
    grid: str
    strength_ppm: int
    first_block: int
    step_ppm: int | None = None
    coded_carriers: int | None = None
    weight: float = 1.0

    @property
    def layout(self) -> BlockLayout:
        """Rows and blocks of this tensor."""
        return layout_of(self.shape)

    @property
    def alpha(self) -> float:
        """Total strength in row deviations."""
        return self.strength_ppm / 1e6

    @property
    def carriers(self) -> int:
        """Weights that may move; of tensors without codes all are counted."""
        return self.layout.count if self.coded_carriers is None else self.coded_carriers

    @property
    def rounding_variance(self) -> float:
        """What rounding to codes adds to the mark's own variance, in row deviations squared; 0.0 without codes.

        A move by whole steps that is `m` steps in the mean has the variance |m| - m^2.
        """
        if self.step_ppm is None:
            return 0.0
        return max(0.0, self.alpha * self.step_ppm / 1e6 * _MEAN_CHIP - self.alpha * self.alpha)


def weigh(tensors: Iterable[MarkedTensor]) -> tuple[MarkedTensor, ...]:
    """All marked tensors of one geometry, with the weights that follow from their strengths."""
    marked = tuple(tensors)
    strongest = max((tensor.strength_ppm for tensor in marked), default=0)
    return tuple(replace(tensor, weight=tensor.strength_ppm / strongest) for tensor in marked)


@dataclass(frozen=True)
class ExcludedTensor:
    """A tensor that carries no mark, and why."""

    digest: str
    dtype: str
    shape: tuple[int, ...]
    reason: str


def owner_digest(name: str) -> str:
    """How a geometry names its owner."""
    return hashlib.sha256(b"weightmark owner v1\x00" + name.encode()).hexdigest()


@dataclass(frozen=True)
class Geometry:
    """All of a reference's tensors, each once: the marked ones, the excluded ones, and the base if one is declared.

    `owner` (an `owner_digest`) makes R one owner's alone. Else whoever is shown a few opened blocks could log the same
    R under his own name, spend all the others, and open just those: another's evidence with his signature on it.
    """

    marked: tuple[MarkedTensor, ...]
    excluded: tuple[ExcludedTensor, ...]
    recipient_share: int
    base: str | None = None
    owner: str | None = None

    @property
    def blocks(self) -> int:
        """Number of blocks, which is the number of leaves of the commitment."""
        return sum(tensor.layout.blocks for tensor in self.marked)

    @property
    def is_shaped(self) -> bool:
        """Whether tensors differ in strength."""
        return len({tensor.strength_ppm for tensor in self.marked}) > 1

    def tensor_of_block(self, block: int) -> MarkedTensor:
        """The tensor to which `block` belongs."""
        for tensor in self.marked:
            if tensor.first_block <= block < tensor.first_block + tensor.layout.blocks:
                return tensor
        raise DocumentError(f"block {block} is not in a geometry of {self.blocks} blocks")

    def document(self) -> bytes:
        """Canonical JSON: integers and ASCII strings only, so that any implementation writes the same bytes."""
        return rfc8785.dumps(
            {
                "v": 1,
                "statistic": SHAPED_STATISTIC if self.is_shaped else UNIFORM_STATISTIC,
                "leaves": self.blocks,
                "recipient_share": self.recipient_share,
                "base": self.base,
                **({} if self.owner is None else {"owner": self.owner}),
                "marked": [
                    {
                        "digest": t.digest,
                        "dtype": t.dtype,
                        "shape": list(t.shape),
                        "grid": t.grid,
                        "strength_ppm": t.strength_ppm,
                        "block": t.layout.per_block,
                        "row": t.layout.row,
                        "first": t.first_block,
                        **(
                            {}
                            if t.step_ppm is None or t.coded_carriers is None
                            else {"step_ppm": t.step_ppm, "carriers": t.coded_carriers}
                        ),
                    }
                    for t in self.marked
                ],
                "excluded": [
                    {"digest": t.digest, "dtype": t.dtype, "shape": list(t.shape), "reason": t.reason}
                    for t in self.excluded
                ],
            }
        )

    def digest(self) -> bytes:
        """H(geometry), as it stands in R."""
        return hashlib.sha256(self.document()).digest()

    @classmethod
    def from_document(cls, data: bytes | str) -> Geometry:
        """Read a geometry and refuse one that our own rules would not have written.

        Raises:
            DocumentError: not a geometry, of another statistic version, or with blocks that overlap or leave a hole.
        """
        try:
            document = json.loads(data)
            geometry = cls(
                weigh(_marked(item) for item in document["marked"]),
                tuple(
                    ExcludedTensor(str(t["digest"]), str(t["dtype"]), _shape(t), str(t["reason"]))
                    for t in document["excluded"]
                ),
                int(document["recipient_share"]),
                document["base"],
                document.get("owner"),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as err:
            raise DocumentError(f"the mark's geometry cannot be read: {err}") from err
        geometry._check(data if isinstance(data, bytes) else data.encode())
        return geometry

    def _check(self, data: bytes) -> None:
        """One form only, blocks without gap or overlap, each tensor once: else one carrier could be scored twice."""
        expected = 0
        for tensor in self.marked:
            if tensor.first_block != expected:
                raise DocumentError(f"blocks of tensor {tensor.digest[:16]} overlap or leave a hole")
            expected += tensor.layout.blocks
        digests = [tensor.digest for tensor in self.marked]
        if digests != sorted(set(digests)):
            raise DocumentError("the geometry holds a tensor twice or out of order")
        if self.document() != data:
            raise DocumentError("the mark's geometry is not in its canonical form, or of another version")


def _shape(item: Mapping[str, Any]) -> tuple[int, ...]:
    shape = tuple(int(size) for size in item["shape"])
    if len(shape) > 16 or any(size < 0 for size in shape):
        raise ValueError(f"shape {shape}")
    return shape


def _marked(item: Mapping[str, Any]) -> MarkedTensor:
    strength = int(item["strength_ppm"])
    if not 0 < strength <= 1_000_000:
        raise ValueError(f"strength {strength}")
    digest, kind, grid = str(item["digest"]), str(item["dtype"]), str(item["grid"])
    if grid != CODES:
        return MarkedTensor(digest, kind, _shape(item), grid, strength, int(item["first"]))
    step, carriers = int(item["step_ppm"]), int(item["carriers"])
    if min(step, carriers) <= 0:
        raise ValueError(f"{carriers} carriers in steps of {step}")
    return MarkedTensor(digest, kind, _shape(item), grid, strength, int(item["first"]), step, carriers)
