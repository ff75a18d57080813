"""Open a model without trusting it: a Hugging Face folder, or a single weight file.

A model is opened once. From then on every byte of a weight is read by position from the one descriptor that was
opened, so what is hashed, marked and shipped is one and the same file, whoever swaps names meanwhile. Nothing is mapped
into memory: a mapped file that another process cuts short kills the reader with SIGBUS.

It does not know what tensors mean or what a signature is. Formats: safetensors, with the shard index of Hugging Face
transformers; PyTorch files by way of `torchfile`; GGUF; ONNX with its data files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from watermark.errors import InputError, ModelFormatError
from watermark.model.dtypes import Values, decode
from watermark.model.ggml import decode_blocks
from watermark.model.gguffile import read_gguf_header
from watermark.model.index import INDEX_SUFFIX, TORCH_INDEX_SUFFIX, ShardIndex, parse_index
from watermark.model.nameless import nameless_file, write_at
from watermark.model.onnx_lists import ListedTensor, listed_bytes
from watermark.model.onnxfile import OnnxHeader, OnnxNode, check_data_files, listed_shard, read_onnx_header
from watermark.model.safetensors import LENGTH_BYTES, TensorInfo, header_length, parse_header
from watermark.model.selection import (
    EVERY_CONTAINER,
    ONLY_SAFETENSORS,
    WITH_TORCH,
    ContainerName,
    Selection,
    choose_file,
    choose_from_folder,
)
from watermark.model.torchfile import convert
from watermark.model.walk import FileEntry, Folder, Identity, Limits, Listed, changed

__all__ = ["FileEntry", "Limits", "Model", "open_container", "open_model"]

# Linux reads at most 0x7ffff000 bytes in one call.
_READ_AT_ONCE = 1 << 30


@dataclass(frozen=True, slots=True)
class _Shard:
    """One open weight file; `descriptor` is of what is read, for a PyTorch file its safetensors form."""

    descriptor: int
    identity: Identity
    header_end: int
    metadata: dict[str, str]
    tensors: tuple[TensorInfo, ...]
    graph: OnnxHeader | None = None


class Model:
    """An open model: its files, its tensors, and their bytes by position. Use it in a `with` block.

    Everything is relative to `root`; for a single file, `root` is the folder it lies in. Safe to read from several
    threads at once.

    Attributes:
        files: every regular file, by path; for a single file, that one.
        shards: the paths of the weight files, in code point order.
        tensors: every tensor by name as it is stored, in the order of shards and bytes.
        weights: the numbers that the model computes with, by name: its tensors, and in place of those that only
            together make up a weight (codes, scales, zero points) what they unpack to.
        index_file: the path of the shard index when there is exactly one, else None.
        container: in what the weights are; "torch" ones are read through their converted form.
        nodes: of an ONNX model, the operations that say how codes are read.
        unread: names of tensors whose numbers cannot be read where they lie.
        carried_weights: files that hold weights in a form that is not read here, beside those that are.
    """

    def __init__(self, root: Path, folder: Folder, files: Sequence[Listed], selection: Selection, limits: Limits):
        """Open the selected weight files among `files`; `open_model` is the way to get here."""
        self.root = root
        self.is_single_file = False
        self.container: ContainerName = selection.container
        self._listed = {listed.path: listed for listed in files}
        self._opened: set[str] = set()
        self._folder = folder
        self._is_of_several = len(selection.shards) > 1
        with ExitStack() as stack:
            self._shards = {listed.path: self._open_shard(listed, limits, stack) for listed in selection.shards}
            graphs = [shard.graph for shard in self._shards.values() if shard.graph is not None]
            if self.container == "onnx":
                self._open_data_files(stack)
            self.tensors = _unique(self._shards)
            self.weights = dict(self.tensors)
            suffix = TORCH_INDEX_SUFFIX if self.container == "torch" else INDEX_SUFFIX
            indexes = [self._read_index(path, limits) for path in self._listed if path.endswith(suffix)]
            _check_indexes(indexes, self.tensors, self._shards)
            self._closing = stack.pop_all()
        self.shards = tuple(self._shards)
        self.nodes: tuple[OnnxNode, ...] = tuple(chain.from_iterable(graph.nodes for graph in graphs))
        self.unread: tuple[str, ...] = tuple(chain.from_iterable(graph.unread for graph in graphs))
        self.carried_weights = tuple(path for path in selection.carried if path not in self._shards)
        self.files = tuple(FileEntry(listed.path, listed.identity.size_bytes) for listed in self._listed.values())
        self.index_file = indexes[0].path if len(indexes) == 1 else None

    def close(self) -> None:
        """Let go of every descriptor."""
        self._closing.close()
        self._folder.close()

    def __enter__(self) -> Self:
        """Use the model in a `with` block, which closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the model."""
        self.close()

    def header_bytes(self, shard: str) -> bytes:
        """Read what stands before the first tensor of a shard, exactly as it stands there.

        For a PyTorch file this is the header of its safetensors form.
        """
        opened = self._shard(shard)
        return _read_at(opened.descriptor, 0, opened.header_end, shard)

    def metadata(self, shard: str) -> dict[str, str]:
        """The `__metadata__` of a shard's header, or short values of a GGUF or ONNX file; empty when it has none."""
        return dict(self._shard(shard).metadata)

    def read(self, tensor: TensorInfo, start: int, stop: int) -> bytes:
        """Read the bytes from `start` to `stop` of a tensor, counted from its first byte.

        Raises:
            ModelFormatError: the file was cut short meanwhile.
            InputError: the range is not within the tensor.
        """
        if not 0 <= start <= stop <= tensor.nbytes:
            raise InputError(f"tensor {tensor.name!a} has {tensor.nbytes} bytes: {start} to {stop} is not within it")
        return _read_at(self._shard(tensor.shard).descriptor, tensor.begin + start, stop - start, tensor.shard)

    def values(self, tensor: TensorInfo, start: int, stop: int) -> Values:
        """Read the elements from `start` to `stop` of a tensor in row-major order, as `dtypes.decode` gives them.

        Raises:
            ModelFormatError: the file was cut short meanwhile.
            InputError: the range is not within the tensor, or its dtype cannot be decoded.
        """
        if not tensor.dtype.is_decodable:
            raise InputError(f"tensor {tensor.name!a} is {tensor.dtype}, whose values are not decodable")
        kind = tensor.dtype
        if kind.block == 1:
            return decode(self.read(tensor, *kind.byte_range(start, stop)), kind)
        # Whole blocks around what is asked for; a tensor is whole blocks, so they never reach beyond it.
        first, last = start // kind.block, -(-stop // kind.block)
        blocks = decode_blocks(self.read(tensor, *kind.byte_range(first * kind.block, last * kind.block)), kind)
        return blocks[start - first * kind.block : stop - first * kind.block]

    def add_unpacked(self, descriptor: int, weights: Iterable[TensorInfo], instead_of: Iterable[str]) -> None:
        """Let `weights` stand in `self.weights` for the tensors named in `instead_of`.

        Args:
            descriptor: the file that they lie in; closed with the model.
            weights: their `shard` is a name that no file of the model has.
            instead_of: names of tensors that are not weights by themselves.
        """
        self._closing.callback(os.close, descriptor)
        identity = Identity.of(os.fstat(descriptor))
        for name in instead_of:
            del self.weights[name]
        for tensor in weights:
            self._shards.setdefault(tensor.shard, _Shard(descriptor, identity, 0, {}, ()))
            self.weights[tensor.name] = tensor

    def open_file(self, path: str) -> BinaryIO:
        """Open one of `files` for reading; what is read is the file that was listed, or an error.

        Raises:
            ModelFormatError: the file was changed, swapped or removed since the model was opened.
            InputError: there is no such file, or it cannot be read.
        """
        listed = self._listed.get(path)
        if listed is None:
            raise InputError(f"the model has no file {path!a}")
        self._opened.add(path)
        return os.fdopen(self._folder.open(listed), "rb")

    def verify_unchanged(self) -> None:
        """Demand that every file that was opened is still as it was when the model was opened.

        Call it after the last read and before anything is said about what was read.

        Raises:
            ModelFormatError: a file's size, times or inode are not the same.
        """
        for path, shard in self._shards.items():
            if Identity.of(os.fstat(shard.descriptor)) != shard.identity:
                raise changed(path)
        for path in self._opened:
            self._folder.check_unchanged(self._listed[path])

    def _shard(self, path: str) -> _Shard:
        shard = self._shards.get(path)
        if shard is None:
            raise InputError(f"the model has no weight file {path!a}")
        return shard

    def _open_shard(self, listed: Listed, limits: Limits, stack: ExitStack) -> _Shard:
        descriptor = self._folder.open(listed)
        stack.callback(os.close, descriptor)
        if self.container == "torch":
            self._opened.add(listed.path)
            descriptor = convert(descriptor, listed.path)
            stack.callback(os.close, descriptor)
        identity = Identity.of(os.fstat(descriptor))
        size = identity.size_bytes
        if self.container == "gguf":
            found = read_gguf_header(_reader(descriptor, listed.path), size, listed.path)
            return _Shard(descriptor, identity, found.end, found.metadata, found.tensors)
        if self.container == "onnx":
            # Exporters number what they write, so that the parts of a model share names that mean nothing.
            prefix = f"{listed.path}: " if self._is_of_several else ""
            graph = read_onnx_header(_reader(descriptor, listed.path), size, listed.path, prefix=prefix)
            return _Shard(descriptor, identity, 0, graph.metadata, graph.tensors, graph)
        first = _read_at(descriptor, 0, min(LENGTH_BYTES, size), listed.path)
        end = header_length(first, size, listed.path, limit=limits.max_header_bytes)
        header = _read_at(descriptor, 0, end, listed.path)
        tensors, metadata, end = parse_header(header, size, listed.path, limit=limits.max_header_bytes)
        return _Shard(descriptor, identity, end, metadata, tensors)

    def _open_data_files(self, stack: ExitStack) -> None:
        """Open what else holds tensors of ONNX models, as shards that list none: files beside them, each once."""
        tensors = list(chain.from_iterable(shard.tensors for shard in self._shards.values()))
        models = {path: model for model, shard in self._shards.items() for path in {t.shard for t in shard.tensors}}
        for model, shard in list(self._shards.items()):
            if shard.graph is not None and shard.graph.listed:
                self._shards[listed_shard(model)] = _write_lists(shard, shard.graph.listed, model, stack)
        for path, model in models.items():
            if path in (model, listed_shard(model)):
                continue
            if path in self._shards:
                raise ModelFormatError(f"{model!a} keeps tensors in {path!a}, which is no data file but a model")
            try:
                listed = self._listed.get(path) or self._folder.find(path)
                descriptor = self._folder.open(listed)
            except ModelFormatError as error:
                raise ModelFormatError(
                    f"{model!a} keeps tensors in {path!a}, which is not there", hint="put that file beside the model"
                ) from error
            stack.callback(os.close, descriptor)
            self._listed[path] = listed
            self._shards[path] = _Shard(descriptor, Identity.of(os.fstat(descriptor)), 0, {}, ())
        self._shards = dict(sorted(self._shards.items()))
        check_data_files(tensors, {path: shard.identity.size_bytes for path, shard in self._shards.items()})

    def _read_index(self, path: str, limits: Limits) -> ShardIndex:
        with self.open_file(path) as file:
            return parse_index(file.read(limits.max_header_bytes + 1), path, limit=limits.max_header_bytes)


def open_model(
    path: Path, *, limits: Limits | None = None, link_root: Path | None = None, allow_torch: bool = False
) -> Model:
    """Open the model at `path`, a folder or a single weight file, and read where every tensor lies.

    When it returns, every header was read and fits its file, the shards and their index agree, and no name is in
    doubt. Symbolic links are refused, but those to files below `link_root` (for a Hugging Face cache: the folder that
    holds both `snapshots` and `blobs`). With `allow_torch`, PyTorch files that are plain tensor dictionaries are
    read too, in a confined process of their own.

    Raises:
        InputError: there is nothing to open, or no weights in it.
        ModelFormatError: a file is not exactly its format, or the shards do not fit together.
        UnsafeFormatError: the weights are in a form that could run code, or that we cannot read fully.
        PathEscapeError: a name or link leaves the model, or is not one file on every system.
        LimitError: over `limits`.
    """
    accept = WITH_TORCH if allow_torch else ONLY_SAFETENSORS
    return open_container(path, accept, limits=limits, link_root=link_root)


def open_container(
    path: Path,
    accept: Sequence[ContainerName] = EVERY_CONTAINER,
    *,
    limits: Limits | None = None,
    link_root: Path | None = None,
) -> Model:
    """Open a model in one of the containers in `accept`; where a folder holds several, in the first of them.

    Raises:
        As `open_model`.
    """
    limits = limits if limits is not None else Limits()
    path = Path(path)
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError) as error:
        # A name that leads nowhere may still be a link, which is refused by its name below.
        if not path.is_symlink():
            raise InputError(f"{str(path)!a}: there is nothing that can be read") from error
        is_folder = False
    root, name = (path, None) if is_folder else (path.parent, path.name)
    with ExitStack() as stack:
        folder = stack.enter_context(Folder(root, limits, link_root))
        if name is None:
            files = folder.files()
            selection = choose_from_folder(folder, files, accept)
        else:
            files = [folder.find(name)]
            selection = choose_file(folder, files[0], accept)
        model = Model(root, folder, files, selection, limits)
        model.is_single_file = name is not None
        stack.pop_all()
    return model


def _write_lists(shard: _Shard, listed: Iterable[ListedTensor], path: str, stack: ExitStack) -> _Shard:
    """Write tensors that are lists of numbers in their file to where they can be read by position."""
    descriptor = nameless_file()
    stack.callback(os.close, descriptor)
    for one in listed:
        place = one.tensor.begin
        for data in listed_bytes(one, _reader(shard.descriptor, path), f"{path!a}"):
            place += write_at(descriptor, data, place)
    return _Shard(descriptor, Identity.of(os.fstat(descriptor)), 0, {}, ())


def _unique(shards: dict[str, _Shard]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for tensor in chain.from_iterable(shard.tensors for shard in shards.values()):
        first = tensors.setdefault(tensor.name, tensor)
        if first is not tensor:
            raise ModelFormatError(
                f"the tensor {tensor.name[:200]!a} is in {first.shard!a} and in {tensor.shard!a}",
                hint="keep one set of weights in the folder",
            )
    return tensors


def _check_indexes(indexes: Sequence[ShardIndex], tensors: dict[str, TensorInfo], shards: dict[str, _Shard]) -> None:
    """Demand that the indexes and the shards beside them name the same tensors in the same places."""
    mapped: set[str] = set()
    for index in indexes:
        for missing in sorted(index.shards - shards.keys()):
            raise ModelFormatError(f"{index.path!a} names the shard {missing!a}, which is not there")
        for name, shard in index.shard_of.items():
            if name not in tensors or tensors[name].shard != shard:
                raise ModelFormatError(f"{index.path!a} says that {name[:200]!a} is in {shard!a}: it is not")
        mapped.update(index.shard_of)
    folders = {index.path.rpartition("/")[0] for index in indexes}
    named = frozenset(chain.from_iterable(index.shards for index in indexes))
    for name, tensor in tensors.items():
        if name not in mapped and (tensor.shard in named or tensor.shard.rpartition("/")[0] in folders):
            raise ModelFormatError(
                f"{tensor.shard!a} holds the tensor {name[:200]!a}, which no index names",
                hint="a loader would leave it out: index it, or move the file out of the folder",
            )


def _reader(descriptor: int, path: str) -> Callable[[int, int], bytes]:
    """Reads the bytes from one place of a file to another."""
    return lambda start, stop: _read_at(descriptor, start, stop - start, path)


def _read_at(descriptor: int, offset: int, length: int, path: str) -> bytes:
    """Read exactly `length` bytes at `offset`; one piece whenever the system gives it so, to copy nothing twice."""
    pieces: list[bytes] = []
    while length > 0:
        try:
            piece = os.pread(descriptor, min(length, _READ_AT_ONCE), offset)
        except OSError as error:
            raise InputError(f"{path!a}: cannot be read: {error.strerror}") from error
        if not piece:
            raise ModelFormatError(f"{path!a} ends at byte {offset}, cut short while it was read")
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
