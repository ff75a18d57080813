"""Open a suspect: a model in whatever container and layout a thief put it.

What is released and signed is safetensors; what comes back may be anything that runs. Every number that can be read is
read, and what cannot be read is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from watermark.model.directory import Limits, Model, open_container
from watermark.model.packed.compressed import find_compressed
from watermark.model.packed.four_bit import find_four_bit
from watermark.model.packed.gptq import find_gptq
from watermark.model.packed.interface import Finder, PackedWeight
from watermark.model.packed.onnx_quantised import find_onnx_quantised
from watermark.model.packed.unpack import unpack

_FINDERS: Final[tuple[Finder, ...]] = (find_gptq, find_compressed, find_four_bit, find_onnx_quantised)


def find_packed(model: Model) -> Iterator[PackedWeight]:
    """The weights of a model that several of its tensors make up together, in every layout that is known here."""
    return chain.from_iterable(find(model) for find in _FINDERS)


def open_suspect(path: Path, *, limits: Limits | None = None, link_root: Path | None = None) -> Model:
    """Open a suspect, a folder or a file, in any container that can be read here, its packed weights unpacked.

    Raises:
        As `directory.open_model`, and InputError where there is no room for what is unpacked.
    """
    model = open_container(path, limits=limits, link_root=link_root)
    try:
        unpack(model, find_packed(model))
    except BaseException:
        model.close()
        raise
    return model
