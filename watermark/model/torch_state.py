"""Models on disk as state dicts of torch, and back: the border between our reader and PyTorch.

For attacks, rehearsals and whoever computes with a whole model in memory. Marking, digesting and detection do not
come this way: they read rows and never hold a model. Opens what `open_model` opens, as strictly; writes safetensors,
sharded with an index as Hugging Face folders are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from watermark.errors import InputError
from watermark.model.directory import Model, open_model
from watermark.model.dtypes import DType, dtype
from watermark.model.safetensors import TensorInfo, write_safetensors

READ_BYTES = 64 * 1024 * 1024

_TORCH_TYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {torch_type: name for name, torch_type in _TORCH_TYPES.items()}


def load_state(path: Path, *, allow_torch: bool = False) -> dict[str, torch.Tensor]:
    """Read a whole model, a folder or one weight file, into tensors of the types and shapes it states.

    Holds the model once in memory. `allow_torch` opens `.pt` and `.bin` files too, as `open_model` does it.

    Raises:
        InputError: the model cannot be opened, or holds a type that torch does not have.
    """
    with open_model(path, allow_torch=allow_torch) as model:
        state = {name: _read(model, tensor) for name, tensor in model.tensors.items()}
        model.verify_unchanged()
    return state


def _read(model: Model, tensor: TensorInfo) -> torch.Tensor:
    torch_type = _TORCH_TYPES.get(tensor.dtype.name)
    if torch_type is None:
        raise InputError(
            f"tensor {tensor.name!r} is of type {tensor.dtype}, which torch cannot compute with",
            hint="convert it to one of " + ", ".join(_TORCH_TYPES),
        )
    if tensor.count == 0:
        return torch.empty(tensor.shape, dtype=torch_type)
    raw = bytearray(tensor.nbytes)
    view = memoryview(raw)
    for start in range(0, tensor.nbytes, READ_BYTES):
        stop = min(start + READ_BYTES, tensor.nbytes)
        view[start:stop] = model.read(tensor, start, stop)
    return torch.frombuffer(raw, dtype=torch_type).reshape(tensor.shape)


def save_state(
    folder: Path,
    state: Mapping[str, torch.Tensor],
    *,
    shards: int = 1,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a state dict as safetensors into `folder`, in `shards` files of about equal size, in the order of the dict.

    One file is `model.safetensors`; several are `model-0000X-of-0000N.safetensors` with their index. `folder` is made
    if need be; other files in it stay.

    Raises:
        InputError: the folder holds safetensors already, a tensor is of a type that the format lacks, or there are
            fewer tensors than shards.
    """
    if not 1 <= shards <= max(1, len(state)):
        raise InputError(
            f"{len(state)} tensors do not fill {shards} shards", hint="ask for at least one and at most one a tensor"
        )
    save_shards(folder, _cut(state, shards), metadata=metadata)


def _cut(state: Mapping[str, torch.Tensor], shards: int) -> list[dict[str, torch.Tensor]]:
    """Cut the dict, in its order, into `shards` runs; none is left empty."""
    total = sum(tensor.nbytes for tensor in state.values())
    cut: list[dict[str, torch.Tensor]] = [{}]
    written = 0
    for index, (name, tensor) in enumerate(state.items()):
        missing = shards - len(cut)
        is_full = written * shards >= total * len(cut)
        if cut[-1] and missing and (is_full or len(state) - index == missing):
            cut.append({})
        cut[-1][name] = tensor
        written += tensor.nbytes
    return cut


def save_shards(
    folder: Path,
    shards: Sequence[Mapping[str, torch.Tensor]],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write each state dict as one safetensors file into `folder`, with an index where there are several.

    Raises:
        InputError: as `save_state`; or two shards hold a tensor of one name.
    """
    if folder.is_dir() and any(folder.glob("*.safetensors*")):
        raise InputError(f"{folder} holds safetensors already", hint="name a new folder, or empty this one")
    weight_map: dict[str, str] = {}
    files = []
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        for name in shard:
            if weight_map.setdefault(name, file) != file:
                raise InputError(f"tensor {name!r} is in two shards", hint="give every tensor to one shard")
        files.append((file, shard))
    folder.mkdir(parents=True, exist_ok=True)
    for file, shard in files:
        write_safetensors(folder / file, _stored(shard), dict(metadata or {}))
    if len(shards) > 1:
        tensors = [tensor for shard in shards for tensor in shard.values()]
        index = {
            "metadata": {
                "total_parameters": sum(tensor.numel() for tensor in tensors),
                "total_size": sum(tensor.nbytes for tensor in tensors),
            },
            "weight_map": dict(sorted(weight_map.items())),
        }
        text = json.dumps(index, indent=2) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _stored(shard: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, DType, tuple[int, ...], bytes]]:
    for name, tensor in shard.items():
        type_name = _NAMES.get(tensor.dtype)
        if type_name is None:
            raise InputError(f"tensor {name!r} is {tensor.dtype}, which safetensors does not hold")
        # Through uint8: numpy has no bfloat16 and no 8-bit float to hand the bytes over in.
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield name, dtype(type_name), tuple(tensor.shape), flat.numpy().tobytes()
