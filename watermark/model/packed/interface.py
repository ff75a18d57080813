"""What a packed weight is, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from watermark.model.directory import Model
from watermark.model.packed.bits import Codes
from watermark.model.packed.moves import Moves
from watermark.model.safetensors import TensorInfo

Floats: TypeAlias = NDArray[np.float32]
#: Computes the rows from the first number to the second, (rows, the rest).
Rows: TypeAlias = Callable[[int, int], Floats]


@dataclass(frozen=True)
class CodeGrid:
    """The integer codes of a packed weight: how they are read, what they stand for, and how moved ones are stored.

    Attributes:
        stored: the tensor that holds the codes, and nothing but codes and padding.
        scales: names of the tensors that hold the scales.
        read: the codes of the rows from the first number to the second, (rows, inputs); 0 to 255 or -128 to 127.
        values: the numbers that codes stand for in the rows from the second argument to the third, (rows, inputs).
        write: the bytes of the stored elements from the first number to the second, with codes moved; all other bits
            stay.
    """

    stored: TensorInfo
    scales: tuple[str, ...]
    read: Callable[[int, int], Codes]
    values: Callable[[Codes, int, int], Floats]
    write: Callable[[int, int, Moves], bytes]


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
        grid: its codes, where they are evenly spaced integers that can be written back.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    rows: Rows
    row_step: int = 1
    grid: CodeGrid | None = None


#: Finds the packed weights of one layout; whatever does not fit the layout is left as it is stored.
Finder: TypeAlias = Callable[[Model], Iterable[PackedWeight]]
