"""The number formats of GGUF files: blocks of small integers with a scale in common, and how to turn them into numbers.

Sizes and values are those of ggml's own `gguf` package, which is loaded where such a block is first decoded. Formats
that hold one number each are the ones of `dtypes.py`. Knows no files.

Source: ggml (`ggml_type`, `ggml-quants.c`) by way of gguf 0.19.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from watermark.errors import ModelFormatError
from watermark.model.dtypes import DTYPES, Bytes, DType, Values

# Number in the file, name, elements of a block, bytes of a block.
_BLOCKS: Final = (
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (29, "IQ1_M", 256, 56),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
)
_PLAIN: Final = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}

GGML_TYPES: Final[Mapping[int, DType]] = MappingProxyType(
    {
        **{number: DTYPES[name] for number, name in _PLAIN.items()},
        **{number: DType(name, 8 * size, True, True, block) for number, name, block, size in _BLOCKS},
    }
)
"""Every type that a tensor of a GGUF file may have, by its number there."""
_NUMBERS: Final = {name: number for number, name, _, _ in _BLOCKS}


def ggml_type(number: int) -> DType:
    """Find a type by its number in a GGUF file.

    Raises:
        ModelFormatError: it is none that is known here.
    """
    found = GGML_TYPES.get(number)
    if found is None:
        raise ModelFormatError(
            f"unknown ggml type {number}",
            hint="a newer or withdrawn format: convert the file to Q8_0 with `llama-quantize`",
        )
    return found


def decode_blocks(raw: Bytes, dtype: DType) -> Values:
    """Turn whole blocks into a 1-D array of their values in float32, as ggml itself computes them."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    blocks = np.frombuffer(raw, np.uint8).reshape(-1, dtype.bits // 8)
    # A hostile scale may be infinite: what comes of it is no number, and readers of values know those.
    with np.errstate(all="ignore"):
        values: Values = dequantize(blocks, GGMLQuantizationType(_NUMBERS[dtype.name]))
    return values.reshape(-1)
