"""Tell from a file's first bytes how it holds weights, whatever its name says.

A suffix is a claim: what decides is the content. The table knows the first bytes of the formats that weights travel
in and nothing more; it opens and unpacks nothing, and it does not tell whether a file is harmless.

Sources: the formats' own specifications (safetensors, ZIP APPNOTE 4.3.7, HDF5 II.A, NEP 1 for .npy, GGUF, the pickle
opcodes of pickletools, Git LFS pointer v1).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

HEAD_BYTES: Final = 512
"""How many first bytes of a file `container_of` wants to see."""


class Container(Enum):
    """How a file holds weights; the value is how people call it."""

    SAFETENSORS = "a safetensors file"
    ZIP = "a zip archive (PyTorch, Keras or numpy)"
    PICKLE = "a Python pickle"
    HDF5 = "an HDF5 file (Keras)"
    NUMPY = "a numpy array file"
    GGUF = "a GGUF file"
    TAR = "a tar archive"
    COMPRESSED = "a compressed file"
    TFLITE = "a TensorFlow Lite file"
    LFS_POINTER = "a Git LFS pointer, not the file itself"
    UNKNOWN = "of no format that is known to hold weights"


_MAGIC: Final = (
    (b"PK\x03\x04", Container.ZIP),
    (b"PK\x05\x06", Container.ZIP),
    (b"\x89HDF\r\n\x1a\n", Container.HDF5),
    (b"\x93NUMPY", Container.NUMPY),
    (b"GGUF", Container.GGUF),
    (b"ggjt", Container.GGUF),
    (b"lmgg", Container.GGUF),
    (b"tjgg", Container.GGUF),
    (b"\x1f\x8b", Container.COMPRESSED),
    (b"BZh", Container.COMPRESSED),
    (b"\xfd7zXZ\x00", Container.COMPRESSED),
    (b"\x28\xb5\x2f\xfd", Container.COMPRESSED),
    (b"7z\xbc\xaf\x27\x1c", Container.COMPRESSED),
    (b"version https://git-lfs.github.com/spec/", Container.LFS_POINTER),
)
# Pickle protocols 2 to 5 begin with PROTO and their number; older ones with one of these and end with STOP.
_OLD_PICKLE: Final = (b"(dp", b"(lp", b"(dq", b"(lq", b"c__builtin__\n", b"cbuiltins\n", b"cposix\n", b"cos\n", b"}q")


def container_of(head: bytes) -> Container:
    """Name the container of a file from its first `HEAD_BYTES` bytes."""
    # First, for a header length may happen to be written like the short magic of another format (35,615 is gzip's).
    if is_safetensors(head):
        return Container.SAFETENSORS
    for magic, container in _MAGIC:
        if head.startswith(magic):
            return container
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return Container.PICKLE
    if head.startswith(_OLD_PICKLE):
        return Container.PICKLE
    if head[257:262] == b"ustar":
        return Container.TAR
    if head[4:8] == b"TFL3":
        return Container.TFLITE
    return Container.UNKNOWN


def is_safetensors(head: bytes) -> bool:
    """Tell whether a file begins as a safetensors file does; only reading its header can say whether it is one."""
    return head[8:9] == b"{" and head[5:8] == b"\0\0\0"
