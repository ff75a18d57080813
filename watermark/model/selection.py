"""Choose which files of a model are its weights, by their names and by what they hold.

Safetensors files are weights by their suffix and must be what they say. Only where there are none may files in another
container stand in, and only if the caller accepts it. Weights in any other form are never opened: beside readable
weights they are carried along as they are, alone they are refused.

It reads the first bytes of files and no tensor.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from watermark.errors import InputError, ModelFormatError, UnsafeFormatError
from watermark.model.containers import HEAD_BYTES, Container, container_of
from watermark.model.walk import Folder, Listed

ContainerName = Literal["safetensors", "torch", "gguf", "onnx"]

#: What a caller is ready to read, in the order of preference where a folder holds several.
ONLY_SAFETENSORS: Final[tuple[ContainerName, ...]] = ("safetensors",)
WITH_TORCH: Final[tuple[ContainerName, ...]] = ("safetensors", "torch")
EVERY_CONTAINER: Final[tuple[ContainerName, ...]] = ("safetensors", "torch", "gguf", "onnx")

SAFETENSORS_SUFFIX: Final = ".safetensors"
ONNX_SUFFIX: Final = ".onnx"
TORCH_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth"})
# Names under which weights travel in forms that have no first bytes to know them by.
_OPAQUE_SUFFIXES: Final = frozenset({ONNX_SUFFIX, ".pb", ".msgpack"})
_WEIGHT_SUFFIXES: Final = (
    TORCH_SUFFIXES
    | _OPAQUE_SUFFIXES
    | {".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".h5", ".hdf5", ".keras", ".gguf", ".ggml"}
    | {".tflite", ".nemo", ".model", ".mar", ".params", ".weights"}
)
# Weights under a name that says nothing are not small; smaller files are not opened to look.
_LOOK_FROM_BYTES: Final = 1024 * 1024
# What a Hugging Face Trainer leaves beside the weights: state of the training, not of the model.
_TRAINING_STATE: Final = ("training_args.bin", "optimizer.", "scheduler.", "scaler.", "rng_state")


@dataclass(frozen=True, slots=True)
class Selection:
    """The weight files of a model, in code point order, and the files that hold weights we carry but do not read."""

    container: ContainerName
    shards: tuple[Listed, ...]
    carried: tuple[str, ...]


def choose_from_folder(folder: Folder, files: Sequence[Listed], accept: Collection[ContainerName]) -> Selection:
    """Choose the weight files among the files of a folder.

    Raises:
        InputError: there are no weights.
        UnsafeFormatError: the only weights are in a form that we do not open, or a safetensors file is none.
    """
    shards = tuple(listed for listed in files if _suffix(listed) == SAFETENSORS_SUFFIX and not _in_git(listed))
    for listed in shards:
        _demand_safetensors(listed.path, _look(folder, listed))
    others = {listed: kind for listed in files if (kind := _other_weights(folder, listed)) is not None}
    if shards:
        return Selection("safetensors", shards, tuple(listed.path for listed in others))
    for container in accept:
        found = tuple(listed for listed, kind in others.items() if _holds(listed, kind) == container)
        if found:
            return Selection(container, found, tuple(listed.path for listed in others if listed not in found))
    for listed, kind in others.items():
        raise _refusal(listed.path, kind)
    raise InputError(
        "the folder holds no weights", hint="point at a folder with *.safetensors files, or at one such file"
    )


def choose_file(folder: Folder, listed: Listed, accept: Collection[ContainerName]) -> Selection:
    """Take one file that a person named as the weights, by what it holds.

    Raises:
        UnsafeFormatError: its content is of a form that we do not open.
    """
    kind = _look(folder, listed)
    if kind is Container.SAFETENSORS or (_suffix(listed) == SAFETENSORS_SUFFIX and kind is Container.UNKNOWN):
        return Selection("safetensors", (listed,), ())
    if _suffix(listed) == SAFETENSORS_SUFFIX:
        _demand_safetensors(listed.path, kind)
    container = _holds(listed, kind)
    if container is not None and container in accept:
        return Selection(container, (listed,), ())
    raise _refusal(listed.path, kind)


def _look(folder: Folder, listed: Listed) -> Container:
    descriptor = folder.open(listed)
    try:
        return container_of(os.pread(descriptor, HEAD_BYTES, 0))
    finally:
        os.close(descriptor)


def _other_weights(folder: Folder, listed: Listed) -> Container | None:
    """Say what weights a file holds that is no safetensors file by its name, and None when it holds none."""
    suffix = _suffix(listed)
    # Git keeps copies of the weights under names of its own; they are no part of what the model ships.
    if suffix == SAFETENSORS_SUFFIX or _in_git(listed):
        return None
    if suffix not in _WEIGHT_SUFFIXES and listed.identity.size_bytes < _LOOK_FROM_BYTES:
        return None
    kind = _look(folder, listed)
    if kind is Container.UNKNOWN and suffix not in _OPAQUE_SUFFIXES:
        return None
    return kind


def _holds(listed: Listed, kind: Container) -> ContainerName | None:
    """The container other than safetensors as which a file may be read; None for none."""
    if kind is Container.GGUF:
        return "gguf"
    # A file of protobuf begins with no mark of its own: the name says it, and reading it shows whether it is so.
    if kind is Container.UNKNOWN and _suffix(listed) == ONNX_SUFFIX:
        return "onnx"
    is_torch = _suffix(listed) in TORCH_SUFFIXES and kind in (Container.ZIP, Container.PICKLE)
    return "torch" if is_torch and not listed.path.rpartition("/")[2].startswith(_TRAINING_STATE) else None


def _demand_safetensors(path: str, kind: Container) -> None:
    if kind is Container.LFS_POINTER:
        raise _refusal(path, kind)
    if kind not in (Container.SAFETENSORS, Container.UNKNOWN):
        raise UnsafeFormatError(f"{path!a} is named {SAFETENSORS_SUFFIX}, but is {kind.value}")


def _refusal(path: str, kind: Container) -> InputError:
    if kind is Container.LFS_POINTER:
        return ModelFormatError(f"{path!a} is {kind.value}", hint="run `git lfs pull` in the folder it came from")
    if kind is Container.SAFETENSORS:
        return InputError(f"{path!a} is {kind.value} under another name", hint="rename it to end in .safetensors")
    is_onnx = kind is Container.UNKNOWN and path.lower().endswith(ONNX_SUFFIX)
    if kind is Container.GGUF or is_onnx:
        what = "an ONNX model by its name" if is_onnx else kind.value
        return ModelFormatError(
            f"{path!a} is {what}: as a suspect it can be checked, not released or signed as weights",
            hint="release the float model that it was made from",
        )
    return UnsafeFormatError(f"{path!a} is {kind.value}, which is not opened here")


def _in_git(listed: Listed) -> bool:
    return listed.path.startswith(".git/")


def _suffix(listed: Listed) -> str:
    return os.path.splitext(listed.path)[1].lower()
