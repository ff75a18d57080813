"""Write copies of a model folder with other weights: each file changed or carried, under the name by which it ships.

One reading of the model serves every copy, and what is written is hashed on the way. Does not know what the change
means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from registry.signing.manifest import DEFAULT_IGNORED, SIDE_FILES
from watermark.errors import UnavailableError
from watermark.model.directory import Model
from watermark.model.index import INDEX_SUFFIX, TORCH_INDEX_SUFFIX
from watermark.model.rewrite import WrittenShard


@dataclass(frozen=True)
class WrittenCopy:
    """SHA-256 of every file of a draft that is signed, and the digests of its tensors."""

    files: dict[str, bytes]
    tensors: dict[str, bytes]


#: Writes a weight file of the model, by its path, to every copy.
WriteShard: TypeAlias = Callable[[str, Sequence[Path]], Sequence[WrittenShard]]


def write_copies(model: Model, write_shard: WriteShard, folders: Sequence[Path]) -> tuple[list[WrittenCopy], float]:
    """Change, write and hash every file of every copy from one reading of the model; gives the largest change too."""
    largest = 0.0
    copies = [WrittenCopy({}, {}) for _ in folders]
    for entry in model.files:
        path = shipped_path(model, entry.path)
        targets = [folder / path for folder in folders]
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
        if entry.path in model.shards:
            for copy, shard in zip(copies, write_shard(entry.path, targets), strict=True):
                copy.files[path] = shard.file
                copy.tensors.update(shard.tensors)
                largest = max(largest, shard.largest_change)
        elif entry.path not in SIDE_FILES:
            if path != entry.path:
                digest = _translate_index(model, entry.path, targets)
            else:
                digest = carry_file(model, entry.path, targets)
            if path.partition("/")[0] in DEFAULT_IGNORED:
                continue  # OMS never signs what git keeps beside a model
            for copy in copies:
                copy.files[path] = digest
    return copies, largest


def shipped_path(model: Model, path: str) -> str:
    """The path under which a file ships: PyTorch weights and their index leave as safetensors, all else keeps its name.

    `pytorch_model` becomes `model`, which is what loaders of safetensors look for.
    """
    if model.container != "torch" or not (path in model.shards or path == model.index_file):
        return path
    name = Path(path).name.replace("pytorch_model", "model", 1)
    stem = name.removesuffix(TORCH_INDEX_SUFFIX)
    shipped = stem + INDEX_SUFFIX if path == model.index_file else str(Path(name).with_suffix(".safetensors"))
    return str(Path(path).with_name(shipped))


def _translate_index(model: Model, path: str, targets: Sequence[Path]) -> bytes:
    """Write the index of PyTorch shards as one of the safetensors that ship in their place; gives its SHA-256."""
    with model.open_file(path) as stream:
        index = json.loads(stream.read())
    names = {tensor.name: Path(shipped_path(model, tensor.shard)).name for tensor in model.tensors.values()}
    index["weight_map"] = {name: names[name] for name in index["weight_map"]}
    data = json.dumps(index, indent=2, sort_keys=True).encode() + b"\n"
    for target in targets:
        target.write_bytes(data)
    return hashlib.sha256(data).digest()


def carry_file(model: Model, path: str, targets: Sequence[Path]) -> bytes:
    """Copy a file that carries no weights, unchanged, and hash it on the way."""
    state = hashlib.sha256()
    try:
        with ExitStack() as stack:
            source = stack.enter_context(model.open_file(path))
            streams = [stack.enter_context(open(target, "xb")) for target in targets]
            while chunk := source.read(1 << 20):
                state.update(chunk)
                for stream in streams:
                    stream.write(chunk)
    except OSError as err:
        raise UnavailableError(
            f"cannot copy {path}: {err.strerror}", hint="free some disk space and run again"
        ) from err
    return state.digest()
