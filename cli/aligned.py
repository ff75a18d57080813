"""The same keyed tests once more, on a suspect brought into the reference's coordinates.

For what `check` does not settle as it stands: a thief who reorders units, turns the stream or mixes heads loses nothing
of the model and moves every number. The alignment sees the unmarked reference and the suspect only, so its tests count
like the others; their number is paid for whether they were needed or not. Knows no verdicts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from watermark.evidence import POWER_MARGIN_BITS, THRESHOLD_LOG2_P, KeyedTest
from watermark.lineage.symmetry import Alignment, align, write_aligned
from watermark.marks.geometry import MarkedTensor
from watermark.marks.spans import Carrier, Sources
from watermark.model.directory import Model
from watermark.model.safetensors import TensorInfo

#: Ends the names of tests on aligned weights.
ALIGNED = ", aligned"
#: The tests as the suspect stands, and those after alignment: every statistic has so many tries.
TRIES = 2


@dataclass(frozen=True)
class AlignedSuspect:
    """A suspect in the reference's coordinates, ready for the tests, and what was undone to bring it there."""

    sources: Sources
    carriers: tuple[Carrier, ...]
    alignment: Alignment

    def named(self, tests: Sequence[KeyedTest]) -> list[KeyedTest]:
        """Tests on these weights, called so, with what was undone."""
        undone = "; ".join(self.alignment.undone) or "scales fitted"
        return [replace(test, name=test.name + ALIGNED, detail=f"z = {test.z:.1f}; {undone}") for test in tests]

    def notes(self) -> list[str]:
        """What a report says of the alignment."""
        if not self.alignment.undone:
            return []
        return [f"undone before testing once more, against the unmarked reference: {'; '.join(self.alignment.undone)}"]


def is_settled(tests: Sequence[KeyedTest]) -> bool:
    """Whether the tests so far pass the threshold with room for whatever is paid."""
    return min((test.log2_p for test in tests), default=0.0) <= THRESHOLD_LOG2_P - POWER_MARGIN_BITS


def align_suspect(
    reference: Model,
    wanted: Mapping[str, TensorInfo],
    marked: Sequence[MarkedTensor],
    sources: Sources,
    bases: Mapping[str, TensorInfo],
    stack: ExitStack,
) -> AlignedSuspect | None:
    """Bring the suspect into the reference's coordinates; None where nothing of it is recognised.

    Args:
        reference: the unmarked reference.
        wanted: its tensors by digest.
        marked: those that carry the mark.
        sources: the suspect, and the declared base if there is one.
        bases: the base's tensor for the name of each of the reference's.
        stack: keeps the aligned weights on disk until it is closed.

    Raises:
        InputError: the temporary files cannot be written.
    """
    by_name = {wanted[tensor.digest].name: tensor for tensor in marked if tensor.digest in wanted}
    ours = {name: wanted[tensor.digest] for name, tensor in by_name.items()}
    found = align(reference, ours.values(), sources.suspect, sources.base)
    if found is None:
        return None
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weightmark-aligned-")))
    aligned = stack.enter_context(write_aligned(found, folder))
    carriers = tuple(
        Carrier(by_name[name], tensor, ours[name], bases.get(name)) for name, tensor in aligned.tensors.items()
    )
    return AlignedSuspect(Sources(aligned, reference, sources.base), carriers, found)
