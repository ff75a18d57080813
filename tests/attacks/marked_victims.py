"""A marked victim on disk, what its mark shows in a suspect before and after alignment, and what wrong keys show."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.attacks.victims import write
from tests.watermark.marks.models import MarkedModel, mark_model
from watermark.attacks.interface import State
from watermark.evidence import KeyedTest
from watermark.lineage.symmetry import Alignment, align, write_aligned
from watermark.marks.detect import DIFFERENCE, detect, residual
from watermark.marks.spans import Carrier, Sources, quantise, read_values
from watermark.model.digest import spans_of
from watermark.model.directory import Model, open_model
from watermark.model.safetensors import TensorInfo
from watermark.model.torch_state import load_state

STRENGTH = 0.03


@dataclass(frozen=True)
class Shown:
    """What one suspect shows after alignment."""

    test: KeyedTest
    alignment: Alignment | None

    @property
    def z(self) -> float:
        """T in units of its deviation under the null."""
        return self.test.z


class Victim:
    """One model with one mark; everything about it is computed once."""

    def __init__(self, folder: Path, reference_state: State, strength: float = STRENGTH) -> None:
        reference = write(folder / "reference", reference_state)
        self.marked: MarkedModel = mark_model(reference, folder / "copies", strength=strength)
        self.state: State = load_state(self.marked.copies[0])
        self.names = {t.digest.hex(): t.names[0] for t in self.marked.plan.surveys.values()}
        self.untouched_z = self.plain(self.state).z

    def plain(self, suspect: State) -> KeyedTest:
        """The test on the suspect as it stands, tensors taken by name and shape."""
        with self._opened(suspect) as (reference, model, _):
            return self._test(reference, model)

    def shown_in(self, suspect: State, base: Path | None = None) -> Shown:
        """The test on the aligned suspect; `base` is the declared one."""
        with self._opened(suspect) as (reference, model, folder), ExitStack() as stack:
            below = stack.enter_context(open_model(base)) if base is not None else None
            found = align(reference, self._wanted(reference), model, below)
            if found is None:
                return Shown(KeyedTest(DIFFERENCE, 0, 0, 0), None)
            with write_aligned(found, folder) as aligned:
                return Shown(self._test(reference, aligned), found)

    def wrong_keys(self, suspect: State, keys: int, seed: int = 0) -> list[KeyedTest]:
        """What so many keys that marked nothing show in the aligned suspect: aligned once, chips drawn for each."""
        with self._opened(suspect) as (reference, model, folder):
            found = align(reference, self._wanted(reference), model)
            if found is None:
                return []
            with write_aligned(found, folder) as aligned:
                shown = self._shown(reference, aligned)
        draw = np.random.default_rng(seed)
        energy = int(np.square(shown, dtype=np.float64).sum())
        whole = int(shown.sum(dtype=np.float64))
        tests: list[KeyedTest] = []
        for _ in range(keys):
            bits = np.unpackbits(draw.integers(0, 256, -(-len(shown) // 8), np.uint8), count=len(shown))
            # +-1 chips from bits; sums of whole numbers, exact in float32 at this size
            total = 2 * int(np.dot(bits.astype(np.float32), shown)) - whole
            tests.append(KeyedTest(DIFFERENCE, total, energy, len(shown)))
        return tests

    @contextmanager
    def _opened(self, suspect: State) -> Iterator[tuple[Model, Model, Path]]:
        """The reference and the suspect, open, and an empty folder."""
        with (
            tempfile.TemporaryDirectory() as folder,
            open_model(self.marked.reference) as reference,
            open_model(write(Path(folder) / "suspect", suspect)) as model,
        ):
            empty = Path(folder) / "aligned"
            empty.mkdir()
            yield reference, model, empty

    def _wanted(self, reference: Model) -> list[TensorInfo]:
        return [reference.tensors[self.names[marked.digest]] for marked in self.marked.plan.geometry.marked]

    def _carriers(self, reference: Model, suspect: Model) -> list[Carrier]:
        named = [(marked, self.names[marked.digest]) for marked in self.marked.plan.geometry.marked]
        return [
            Carrier(marked, suspect.tensors[name], reference.tensors[name])
            for marked, name in named
            if name in suspect.tensors and suspect.tensors[name].shape == marked.shape
        ]

    def _test(self, reference: Model, suspect: Model) -> KeyedTest:
        carriers = self._carriers(reference, suspect)
        return detect(Sources(suspect, reference), carriers, self.marked.chips, [DIFFERENCE])[0]

    def _shown(self, reference: Model, suspect: Model) -> np.ndarray:
        """The quantised difference of all carriers, each line weighted as the test does (rounded to whole numbers)."""
        pieces = []
        sources = Sources(suspect, reference)
        for carrier in self._carriers(reference, suspect):
            for span in spans_of(carrier.suspect):
                values = read_values(sources, carrier, span)
                shown = residual(DIFFERENCE, values, carrier.marked.layout)
                assert shown is not None
                pieces.append(quantise(shown.reshape(1, -1), 2.2)[0].ravel())
        return np.concatenate(pieces)
