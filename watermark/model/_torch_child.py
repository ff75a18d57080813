"""The process that reads one PyTorch file and writes its tensors down as safetensors; `torchfile` starts it.

It is given descriptors and opens nothing of its own. It first loads all that reading will need, then seals itself
(`confinement`), and only then looks at the file. What it writes is read back by the strict reader like any other
stranger's file: this process is not trusted by the one that started it.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
import warnings
import zipfile
from collections import OrderedDict
from typing import Any, BinaryIO, Final

from watermark.errors import WeightmarkError
from watermark.model.confinement import Allowance, Refused, leave_network, seal
from watermark.model.containers import HEAD_BYTES, Container, container_of
from watermark.model.dtypes import DType, dtype
from watermark.model.safetensors import build_header

_TORCH_NAMES: Final = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "complex64": "C64",
    "int64": "I64",
    "uint64": "U64",
    "int32": "I32",
    "uint32": "U32",
    "int16": "I16",
    "uint16": "U16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_WRITE_AT_ONCE: Final = 1 << 26


class NotPlainError(Exception):
    """The file holds more, or else, than a dictionary of plain tensors."""


def main() -> None:
    """Read the file of descriptor argv[1] into descriptor argv[2], and report on standard output as JSON."""
    source, output, memory_bytes, output_bytes, cpu_seconds = map(int, sys.argv[1:6])
    leave_network()
    warnings.simplefilter("ignore")
    torch = _load_torch()
    # Opened before the seal: a reader without the right to open by path (another user's file) still has the descriptor.
    file = os.fdopen(source, "rb")
    path = seal(Allowance(memory_bytes, output_bytes, cpu_seconds), source)
    report: dict[str, str | int]
    try:
        tensors = _read_tensors(torch, file, path)
        _write(torch, tensors, output, output_bytes)
        report = {"tensors": len(tensors)}
    except (NotPlainError, WeightmarkError) as error:
        report = {"refused": str(error)}
    except (Refused, MemoryError) as error:
        report = {"refused": f"reading it was stopped: {error}"}
    except Exception as error:  # noqa: BLE001 (whatever a hostile file makes torch raise is one and the same refusal)
        report = {"refused": f"PyTorch refuses it: {type(error).__name__}: {error}"[:400]}
    os.write(1, json.dumps(report).encode())
    # Not by way of the interpreter's end, whose clean-up the seal would refuse.
    os._exit(0)


def _load_torch() -> Any:
    """Import torch and read a file in each of its forms once, so that nothing is left to import after the seal."""
    import torch

    torch.set_num_threads(1)
    # How zipfile reads the member names of archives that were not written by PyTorch.
    codecs.lookup("cp437")
    sample = OrderedDict(a=torch.zeros(2), b=torch.nn.Parameter(torch.zeros(2, 2)), c=torch.zeros(1, dtype=torch.bool))
    for as_zip in (True, False):
        file = io.BytesIO()
        torch.save(sample, file, _use_new_zipfile_serialization=as_zip)
        file.seek(0)
        for tensor in torch.load(file, weights_only=True, map_location="cpu").values():
            _raw(torch, tensor)
    return torch


def _read_tensors(torch: Any, file: BinaryIO, path: str) -> dict[str, Any]:
    kind = container_of(os.pread(file.fileno(), HEAD_BYTES, 0))
    if kind is Container.ZIP:
        _check_archive(file)
    state: object
    if kind is Container.ZIP and os.access(path, os.R_OK):
        # Mapped: a file that is cut meanwhile ends this process with SIGBUS, and no other.
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    else:
        file.seek(0)
        state = torch.load(file, weights_only=True, map_location="cpu")
    if type(state) not in (dict, OrderedDict) or not isinstance(state, dict):
        raise NotPlainError(f"it holds a {type(state).__name__}, not a dictionary of tensors")
    for name, value in state.items():
        if type(name) is not str:
            raise NotPlainError(f"it holds a name that is a {type(name).__name__}")
        _check_plain(torch, name, value)
    return state


def _check_archive(file: BinaryIO) -> None:
    """Demand an archive whose members are stored as they are, each under a name of its own, as PyTorch writes it.

    A compressed member could unfold without end, and would be read as garbage where the file is mapped.
    """
    try:
        members = zipfile.ZipFile(file).infolist()
    except zipfile.BadZipFile as error:
        raise NotPlainError(f"it is a damaged zip archive: {error}") from error
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise NotPlainError("it is a zip archive with compressed members, which PyTorch does not write")
    if len({member.filename for member in members}) != len(members):
        raise NotPlainError("it is a zip archive with two members of one name")


def _check_plain(torch: Any, name: str, value: Any) -> None:
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise NotPlainError(f"its member {name!a} is a {type(value).__name__}, not a tensor")
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise NotPlainError(f"its tensor {name!a} is not a plain dense tensor")
    if str(value.dtype).removeprefix("torch.") not in _TORCH_NAMES:
        raise NotPlainError(f"its tensor {name!a} is of {value.dtype}, which safetensors cannot hold")


def _write(torch: Any, tensors: dict[str, Any], output: int, output_bytes: int) -> None:
    layout: list[tuple[str, DType, tuple[int, ...]]] = [
        (name, dtype(_TORCH_NAMES[str(tensor.dtype).removeprefix("torch.")]), tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]
    # What transformers asks of every safetensors file that it loads.
    header = build_header(layout, {"format": "pt"})
    # A tensor of one stored number can claim any shape (stride 0): the sum must be known before the first is written.
    total = len(header) + sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > output_bytes:
        raise NotPlainError(f"its tensors unfold to {total} bytes, far more than the file holds")
    _write_all(output, memoryview(header))
    for tensor in tensors.values():
        if tensor.numel():
            _write_all(output, _raw(torch, tensor))


def _raw(torch: Any, tensor: Any) -> memoryview:
    """The bytes of a tensor in row-major order."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return memoryview(plain.view(torch.uint8).numpy())


def _write_all(output: int, data: memoryview) -> None:
    at = 0
    while at < len(data):
        at += os.write(output, data[at : at + _WRITE_AT_ONCE])
