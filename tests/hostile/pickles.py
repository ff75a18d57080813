"""Malicious pickles in every wrapping that weights travel in: each would leave a mark if any of it were run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def payloads(mark: Path, port: int) -> dict[str, bytes]:
    """One pickle a way to do harm: run a program, run code, write a file, reach the network."""
    import builtins
    import socket
    import subprocess

    source = f"open({str(mark)!r}, 'w').close()"
    calls = {
        "os.system": Calls(os.system, f"touch '{mark}'"),
        "exec": Calls(builtins.exec, source),
        "eval": Calls(builtins.eval, source),
        "open for writing": Calls(builtins.open, str(mark), "w"),
        "subprocess": Calls(subprocess.call, ["touch", str(mark)]),
        "connect": Calls(socket.create_connection, ("127.0.0.1", port)),
        "mkdir": Calls(os.mkdir, str(mark)),
    }
    made = {f"{name}, protocol {protocol}": pickle.dumps({"w": call}, protocol)
            for name, call in calls.items() for protocol in (0, 2, 4)}  # fmt: skip
    made["os.system by hand"] = b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    return made


def torch_archive(program: bytes, *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A PyTorch zip file around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def numpy_object_file(program: bytes) -> bytes:
    """A .npy file of dtype object, whose data is a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + program


def wrappings(program: bytes) -> dict[str, bytes]:
    """The same pickle under the names and in the containers that weights travel in."""
    return {
        "model.pt": torch_archive(program),
        "model.pth": program,
        "pytorch_model.bin": torch_archive(program),
        "legacy.bin": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + program,
        "model.pkl": program,
        "model.ckpt": torch_archive(program),
        "model.joblib": program,
        "model.npy": numpy_object_file(program),
        "model.h5": b"\x89HDF\r\n\x1a\n" + program,
        "model.keras": torch_archive(program),
        "model.safetensors": program,
        "zip.safetensors": torch_archive(program),
    }
