"""Small models on disk, and a marked copy of one, for tests of the mark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from watermark.marks.chips import recipient_code
from watermark.marks.detect import DIFFERENCE, ROW_STATISTICS
from watermark.marks.plan import MarkPlan, plan_mark
from watermark.marks.secret import ReleaseKey
from watermark.marks.spans import Carrier, ChipSource, Sources
from watermark.marks.survey import survey
from watermark.marks.trace import Scores, fold
from watermark.marks.weights import Embedder
from watermark.model.directory import Model, open_model
from watermark.model.dtypes import dtype, encode
from watermark.model.rewrite import rewrite_shard
from watermark.model.safetensors import write_safetensors

SECRET = b"o" * 32
WITHOUT_BASE = [name for name in ROW_STATISTICS if "base" not in name]


def random_weights(seed: int = 1, width: int = 192) -> dict[str, NDArray[np.float32]]:
    """Weights with the spread of a small trained network: two square matrices, a tall one, and a bias."""
    draw = np.random.default_rng(seed)
    shapes = {"up": (4 * width, width), "down": (width, 4 * width), "mix": (width, width), "bias": (width,)}
    return {name: draw.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}


def write_model(folder: Path, weights: Mapping[str, NDArray], kinds: Mapping[str, str] | None = None) -> Path:
    """Write a folder with one safetensors file; `kinds` names data types other than F32."""
    folder.mkdir(parents=True)
    write_safetensors(
        folder / "model.safetensors",
        [
            (name, dtype(kind), values.shape, encode(values.ravel(), dtype(kind)))
            for name, values in weights.items()
            for kind in [(kinds or {}).get(name, "F32")]
        ],
    )
    return folder


def read_weights(folder: Path) -> dict[str, NDArray]:
    """All tensors of a folder as float32 or integers."""
    with open_model(folder) as model:
        return {
            name: model.values(tensor, 0, tensor.count).reshape(tensor.shape).copy()
            for name, tensor in model.tensors.items()
        }


@dataclass
class MarkedModel:
    """A reference, its plan, and one marked copy for each recipient (or one without)."""

    reference: Path
    plan: MarkPlan
    copies: list[Path]
    embedder: Embedder

    @property
    def chips(self) -> ChipSource:
        """The owner's chips."""
        return ChipSource.of(self.plan.key.block_secrets(), self.embedder.stretched)

    def code(self, recipient: str) -> NDArray[np.int8]:
        """The code of a recipient, whether a copy was made for him or not."""
        copy = self.plan.key.copy_key(recipient)
        return recipient_code(copy.key, self.embedder.stretched, copy.commitment(self.plan.root))

    def folded(self, suspect: Path) -> Scores:
        """What a suspect shows of recipients, by its plain difference from the reference."""
        with open_model(self.reference) as reference, open_model(suspect) as model:
            share = self.plan.geometry.recipient_share
            return fold(Sources(model, reference), self.carriers(reference, model), self.chips, share, DIFFERENCE)

    def carriers(self, reference: Model, suspect: Model) -> list[Carrier]:
        """Marked tensors beside the suspect's tensors of the same name."""
        by_digest = {t.digest.hex(): t.names[0] for t in self.plan.surveys.values()}
        return [
            Carrier(marked, suspect.tensors[by_digest[marked.digest]], reference.tensors[by_digest[marked.digest]])
            for marked in self.plan.geometry.marked
        ]


def mark_model(
    reference: Path,
    out: Path,
    recipients: tuple[str, ...] = (),
    strength: float | None = 0.03,
    owner: str | None = None,
    shape: Mapping[str, int] | None = None,
    secret: bytes = SECRET,
) -> MarkedModel:
    """Mark a folder with an owner's secret; `shape` has a strength in millionths for each tensor's name."""
    with open_model(reference) as model:
        found = survey(model)
        key = ReleaseKey.of(secret, found.reference_digest)
        by_digest = {t.digest.hex(): shape[t.names[0]] for t in found.tensors if t.names[0] in shape} if shape else None
        plan = plan_mark(key, found, strength=strength, owner=owner, shape=by_digest)
        embedder = Embedder(plan, [key.copy_key(name) for name in recipients] or [None])
        copies = [out / str(number) for number in range(max(1, len(recipients)))]
        for copy in copies:
            copy.mkdir(parents=True)
        for shard in model.shards:
            rewrite_shard(
                model, shard, [copy / shard for copy in copies], lambda span, raw: embedder.mark(span, raw, None)
            )
    return MarkedModel(reference, plan, copies, embedder)
