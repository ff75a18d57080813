"""Singular value decomposition that ends: LAPACK's fast one gives up on a few matrices that are nothing special.

Seen on the turn of a disguised perceptron, 256 x 256, finite and well scaled: gesdd "did not converge", its transpose
did. The older gesvd is slower and does not give up.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def singular(matrix: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Left vectors, values from large to small, right vectors (as rows), as many as the shorter side."""
    try:
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError:
        left, values, right = scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesvd")
    return left, values, right
