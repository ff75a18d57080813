"""What the owner keeps of a release's mark: its geometry, the names its tensors had, and the base it stands on.

Stored as canonical JSON in the owner's private records. Holds no secret: the keys are derived again from the owner
secret and the reference's digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from registry.signing.canonical import canonical
from watermark.errors import DocumentError
from watermark.marks.geometry import Geometry


@dataclass(frozen=True)
class Calibration:
    """How strengths were chosen by the owner's own measure, and what the mark costs by it.

    `uniform_ppm` is the one strength for all whose bits were asked for; costs are what the measure loses, at that
    strength and at the chosen ones. `unseen` tensors kept it, because the measure did not see them.
    """

    measure: str
    uniform_ppm: int
    trials: int
    cost_uniform: float
    cost: float
    unseen: int

    @classmethod
    def from_json(cls, fields: Any) -> Calibration:
        """Read one from a record; TypeError, KeyError or ValueError for anything else."""
        return cls(
            str(fields["measure"]),
            int(fields["uniform_ppm"]),
            int(fields["trials"]),
            float(fields["cost_uniform"]),
            float(fields["cost"]),
            int(fields["unseen"]),
        )


@dataclass(frozen=True)
class MarkRecord:
    """Geometry, digest of each marked tensor to its name at release, where the declared base lay, and scrypt(R).

    `calibration` says how the strengths came about, where they were measured.

    scrypt(R) is no secret, since R is public: it is kept because it takes a second and 128 MiB to compute.
    """

    geometry: Geometry
    names: Mapping[str, str]
    base_place: str | None
    stretched: bytes
    calibration: Calibration | None = None

    def document(self) -> bytes:
        """Canonical JSON (RFC 8785)."""
        return canonical(
            {
                "geometry": self.geometry.document().decode(),
                "names": dict(self.names),
                "base_place": self.base_place,
                "stretched": self.stretched.hex(),
                **({} if self.calibration is None else {"calibration": asdict(self.calibration)}),
            }
        )

    @classmethod
    def from_document(cls, data: bytes) -> MarkRecord:
        """Read what `document` wrote; DocumentError for anything else."""
        try:
            fields = json.loads(data)
            calibration = fields.get("calibration")
            names = {str(digest): str(name) for digest, name in fields["names"].items()}
            return cls(
                Geometry.from_document(fields["geometry"]),
                names,
                fields["base_place"],
                bytes.fromhex(fields["stretched"]),
                None if calibration is None else Calibration.from_json(calibration),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise DocumentError(f"the record of the mark is damaged: {err}", hint="run `weightmark doctor`") from err
