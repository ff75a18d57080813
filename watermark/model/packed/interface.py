"""What a packed weight is, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from watermark.model.directory import Model

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class PackedWeight:
    """One weight that several tensors make up together.

    Attributes:
        name: what a loader calls the weight.
        shape: rows first, as torch holds it: (outputs, inputs) for a linear layer.
        parts: names of the tensors that are no weights by themselves.
        rows: computes the rows from the first number to the second, (rows, the rest) in float32.
        row_step: rows are cheapest in runs of so many.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    rows: Callable[[int, int], Floats]
    row_step: int = 1


#: Finds the packed weights of one layout; whatever does not fit the layout is left as it is stored.
Finder: TypeAlias = Callable[[Model], Iterable[PackedWeight]]
