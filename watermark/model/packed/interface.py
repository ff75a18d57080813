"""What a packed weight is, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from watermark.model.directory import Model

Floats: TypeAlias = NDArray[np.float32]
#: Computes the rows from the first number to the second, (rows, the rest).
Rows: TypeAlias = Callable[[int, int], Floats]


@dataclass(frozen=True)
class PackedWeight:
    """One weight that several tensors make up together.

    Attributes:
        name: what a loader calls the weight; another tensor of the same name stays a weight beside it.
        shape: rows first, as torch holds it: (outputs, inputs) for a linear layer.
        parts: names of its codes, zero points and the like, which are no weights by themselves. Scales are among
            them only where a graph reads them as such: under a mere name a thief's loader could look for weights.
        rows: computes them.
        row_step: rows are cheapest in runs of so many.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    rows: Rows
    row_step: int = 1


#: Finds the packed weights of one layout; whatever does not fit the layout is left as it is stored.
Finder: TypeAlias = Callable[[Model], Iterable[PackedWeight]]
