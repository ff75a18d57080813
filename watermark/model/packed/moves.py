"""By how much each code of a packed weight moves, kept in a file without a name until the codes are written.

The chips of a mark come in the order of the weights, the codes of some layouts lie across it: what is worked out in
one order is read here in the other. One byte a code; knows no layout and no mark.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from watermark.model.nameless import nameless_file, write_at

Steps = NDArray[np.int8]


class Moves:
    """The moves of all codes of one weight, (outputs, inputs). Use it in a `with` block; safe across forks."""

    def __init__(self, shape: tuple[int, int]) -> None:
        """No code moves yet."""
        self._width = shape[1]
        self._descriptor = nameless_file()
        os.truncate(self._descriptor, shape[0] * shape[1])
        self._outputs = shape[0]

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def put(self, first: int, steps: Steps) -> None:
        """Set the moves from element `first` on, in the order of rows."""
        write_at(self._descriptor, steps.tobytes(), first)

    def elements(self, start: int, stop: int) -> Steps:
        """Moves of consecutive elements, in the order of rows."""
        return np.frombuffer(os.pread(self._descriptor, stop - start, start), np.int8)

    def rows(self, start: int, stop: int) -> Steps:
        """Moves of some outputs, (outputs, inputs)."""
        return self.elements(start * self._width, stop * self._width).reshape(-1, self._width)

    def columns(self, start: int, stop: int) -> Steps:
        """Moves of some inputs, (all outputs, inputs)."""
        width = self._width
        return np.stack([self.elements(row * width + start, row * width + stop) for row in range(self._outputs)])
