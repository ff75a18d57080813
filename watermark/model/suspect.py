"""Open a suspect: a model in whatever container a thief put it.

What is released and signed is safetensors; what comes back may be anything that runs. Every number that can be read is
read, and what cannot be read is said.
"""

from __future__ import annotations

from pathlib import Path

from watermark.model.directory import Limits, Model, open_container


def open_suspect(path: Path, *, limits: Limits | None = None, link_root: Path | None = None) -> Model:
    """Open a suspect, a folder or a file, in any container that can be read here.

    Raises:
        As `directory.open_model`.
    """
    return open_container(path, limits=limits, link_root=link_root)
