"""Read an ONNX file: where every constant tensor of its graphs lies, and which operations say how codes are read.

Reads by position and a little at a time: the readers of the onnx package hold the whole file, more than once, and end
at 2 GB. A tensor is where its bytes lie, in this file or in a data file beside it; sparse tensors are named as unread.
Knows nothing of what tensors mean, and opens nothing.

Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (IR version 14), docs/ExternalData.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Final

from watermark.errors import LimitError, ModelFormatError
from watermark.model.onnx_lists import ListedTensor
from watermark.model.onnx_tensors import (
    ONNX_TYPES,
    TEXT,
    TensorMessage,
    external_place,
    item_bytes,
    raw_place,
    read_tensor,
)
from watermark.model.protobuf import Field, Read, Wire
from watermark.model.safetensors import TensorInfo
from watermark.model.strict_json import MAX_INTEGER

KEPT_OPERATIONS: Final = frozenset(
    {
        "DequantizeLinear", "QLinearMatMul", "QLinearConv", "QGemm", "MatMulInteger", "ConvInteger",
        "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits", "GatherBlockQuantized", "QAttention",
        "QEmbedLayerNormalization", "Gather", "Identity", "Cast", "Mul",
    }
)  # fmt: skip
"""Operations by which it can be told what codes stand for."""
_SETTINGS: Final = frozenset({"axis", "block_size", "bits", "K", "N", "transB", "gather_axis", "quantize_axis"})

#: Tensors, and kept operations: a large mixture of experts has a tenth of it.
MAX_ENTRIES: Final = 250_000
_MAX_ATTRIBUTES: Final = 1_024
_MAX_DEPTH: Final = 16
#: Protobuf packs lists of numbers; a file that does not holds one field a number.
_MAX_PIECES: Final = 1_024
#: Tensors of fewer numbers that are not read go without saying: they are shapes and axes.
_UNREAD_FROM: Final = 1_024
_SIGN: Final = 1 << 63

# Numbers of fields, by message.
_MODEL_IR, _MODEL_PRODUCER, _MODEL_GRAPH, _MODEL_FUNCTION = 1, 2, 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NODE = 7
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATION, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_FLOATS = 1, 3, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_SPARSE_VALUES = 1


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One kept operation: a constant among its inputs is under the name of its tensor, whatever graph it is in."""

    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """What an ONNX file holds.

    Attributes:
        tensors: those whose bytes lie together, in this file or a data file, and those in `listed`.
        listed: how to come by tensors that are lists of numbers in the file.
        nodes: the kept operations.
        unread: names of large tensors that are not read.
        metadata: who wrote it, and the version of the format.
    """

    tensors: tuple[TensorInfo, ...]
    listed: tuple[ListedTensor, ...]
    nodes: tuple[OnnxNode, ...]
    unread: tuple[str, ...]
    metadata: dict[str, str]


def read_onnx_header(read: Read, file_size: int, shard: str, *, prefix: str = "") -> OnnxHeader:
    """Read where the tensors of an ONNX file lie.

    Args:
        read: gives bytes of the file by position, exactly as many as are asked for.
        file_size: in bytes.
        shard: the path of the file, for errors and for the tensors; tensors in data files have those files' paths.
        prefix: comes before every name, where several files are one model.

    Raises:
        ModelFormatError: the file is not ONNX, or a tensor is not where and what it says.
        PathEscapeError: a data file is not one within the folder of the file.
        LimitError: too many fields, or too much text.
    """
    walk = _Walk(Wire(read, file_size, f"{shard!a}"), shard, prefix)
    walk.model()
    return walk.header()


def listed_shard(shard: str) -> str:
    """What the file without a name is called that holds the listed tensors of an ONNX file."""
    return f"{shard} (lists)"


def check_data_files(tensors: Iterable[TensorInfo], sizes: Mapping[str, int]) -> None:
    """Demand that tensors lie within the files that they are said to be in.

    Raises:
        ModelFormatError: one does not.
    """
    for tensor in tensors:
        if tensor.begin + tensor.nbytes > sizes[tensor.shard]:
            raise ModelFormatError(
                f"{tensor.shard!a} ends at byte {sizes[tensor.shard]}, before its tensor {tensor.name[:200]!a} does",
                hint="the file was cut, or belongs to another model: fetch it again",
            )


@dataclass
class _Node:
    """One NodeProto, its texts read."""

    operation: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: list[Field] = field(default_factory=list)


class _Walk:
    """Goes through the messages of one file once and keeps what it finds."""

    def __init__(self, wire: Wire, shard: str, prefix: str) -> None:
        self._wire, self._shard, self._prefix = wire, shard, prefix
        self._tensors: dict[str, TensorInfo] = {}
        self._constants: dict[tuple[int, str], str] = {}
        self._listed: list[ListedTensor] = []
        self._listed_bytes = 0
        self._nodes: list[tuple[int, _Node, dict[str, int]]] = []
        self._unread: list[str] = []
        self._outer: list[int] = []
        self._metadata: dict[str, str] = {}

    def model(self) -> None:
        """A ModelProto: the whole file."""
        graphs: list[Field] = []
        for found in self._wire.fields(0, self._wire.file_size):
            if found.number == _MODEL_IR:
                self._metadata["ir_version"] = str(self._wire.number(found))
            elif found.number == _MODEL_PRODUCER:
                self._metadata["producer_name"] = self._wire.name(found)
            elif found.number == _MODEL_GRAPH:
                graphs.append(self._wire.message(found))
                self._graph(found, -1, 0)
            elif found.number == _MODEL_FUNCTION:
                self._function(self._wire.message(found))
        if len(graphs) != 1:
            raise self._wire.broken(f"holds {len(graphs) or 'no'} graphs: it is not an ONNX model")

    def header(self) -> OnnxHeader:
        """What was found, once the whole file was walked: constants known by name to nodes before and after them."""
        self._join_same_places()
        nodes = tuple(
            OnnxNode(
                node.operation,
                tuple(self._resolve(scope, name) for name in node.inputs),
                tuple(f"{scope}/{name}" for name in node.outputs),
                settings,
            )
            for scope, node, settings in self._nodes
        )
        listed = tuple(self._listed)
        return OnnxHeader(tuple(self._tensors.values()), listed, nodes, tuple(self._unread), self._metadata)

    def _graph(self, graph: Field, outer: int, depth: int) -> None:
        scope = self._scope(outer)
        for found in self._wire.fields(graph.begin, graph.end):
            if found.number == _GRAPH_NODE:
                self._node(self._wire.message(found), scope, depth)
            elif found.number == _GRAPH_INITIALIZER:
                self._keep(read_tensor(self._wire, self._wire.message(found)), scope, found)
            elif found.number == _GRAPH_SPARSE:
                self._sparse(self._wire.message(found))

    def _function(self, function: Field) -> None:
        scope = self._scope(-1)
        for found in self._wire.fields(function.begin, function.end):
            if found.number == _FUNCTION_NODE:
                self._node(self._wire.message(found), scope, 0)

    def _scope(self, outer: int) -> int:
        self._outer.append(outer)
        return len(self._outer) - 1

    def _node(self, message: Field, scope: int, depth: int) -> None:
        node = _Node()
        for found in self._wire.fields(message.begin, message.end):
            if found.number == _NODE_INPUT:
                node.inputs.append(self._wire.name(found))
            elif found.number == _NODE_OUTPUT:
                node.outputs.append(self._wire.name(found))
            elif found.number == _NODE_OPERATION:
                node.operation = self._wire.name(found)
            elif found.number == _NODE_ATTRIBUTE:
                node.attributes.append(self._wire.message(found))
                if len(node.attributes) > _MAX_ATTRIBUTES:
                    raise LimitError(f"{self._wire.what} has an operation of more than {_MAX_ATTRIBUTES} attributes")
        settings: dict[str, int] = {}
        for attribute in node.attributes:
            self._attribute(attribute, node, settings, scope, depth)
        if node.operation in KEPT_OPERATIONS:
            self._nodes.append((scope, node, settings))
            self._demand_few(len(self._nodes), "operations on codes")

    def _attribute(self, message: Field, node: _Node, settings: dict[str, int], scope: int, depth: int) -> None:
        name, integer, floats = "", 0, 0
        for found in self._wire.fields(message.begin, message.end):
            if found.number == _ATTRIBUTE_NAME:
                name = self._wire.name(found)
            elif found.number == _ATTRIBUTE_INTEGER:
                integer = self._wire.number(found)
            elif found.number == _ATTRIBUTE_FLOATS:
                floats += (found.end - found.begin) // 4
            elif found.number in _ATTRIBUTE_TENSORS:
                tensor = read_tensor(self._wire, self._wire.message(found))
                # A constant is known by what its node puts out; the tensor itself mostly has no name.
                is_constant = node.operation == "Constant" and bool(node.outputs)
                self._keep(replace(tensor, name=node.outputs[0]) if is_constant else tensor, scope, found)
            elif found.number in _ATTRIBUTE_GRAPHS:
                if depth == _MAX_DEPTH:
                    raise self._wire.broken(f"has graphs more than {_MAX_DEPTH} deep in one another")
                self._graph(self._wire.message(found), scope, depth + 1)
            elif found.number in _ATTRIBUTE_SPARSE:
                self._sparse(self._wire.message(found))
        if name in _SETTINGS:
            settings[name] = integer - (integer >= _SIGN) * 2 * _SIGN
        if floats >= _UNREAD_FROM:
            self._unread.append(f"{self._prefix}{(node.outputs or [name])[0]}")

    def _sparse(self, message: Field) -> None:
        for found in self._wire.fields(message.begin, message.end):
            if found.number == _SPARSE_VALUES:
                tensor = read_tensor(self._wire, self._wire.message(found))
                self._leave(tensor.name, prod(tensor.shape))

    def _keep(self, tensor: TensorMessage, scope: int, at: Field) -> None:
        """Keep a tensor under a name of its own, if its numbers can be read where they lie."""
        kind, count = ONNX_TYPES.get(tensor.type), prod(tensor.shape)
        if prod(max(size, 1) for size in tensor.shape) * (kind.bits if kind else 8) > MAX_INTEGER:
            raise self._wire.broken(f"{tensor.what} of the shape {tensor.shape}, too large for any file")
        if kind is None:
            self._leave(tensor.name, count if tensor.type != TEXT else 0)
            return
        nbytes = kind.byte_range(0, count)[1]
        name = self._prefix + (tensor.name or f"tensor at byte {at.begin}")
        while name in self._tensors:
            # Graphs within graphs, and files that are wrong, use a name again.
            name = f"{name} at byte {at.begin}"
        lists = tensor.lists_of(kind)
        if tensor.is_external:
            path, begin = external_place(self._wire, tensor, self._shard, nbytes)
        elif tensor.raw is not None or nbytes == 0:
            path, begin = self._shard, raw_place(self._wire, tensor, nbytes)
        elif lists and len(lists) <= _MAX_PIECES:
            path, begin = listed_shard(self._shard), self._listed_bytes
        else:
            self._leave(tensor.name, count)
            return
        info = TensorInfo(name, kind, tuple(tensor.shape), path, begin, nbytes)
        if path == listed_shard(self._shard):
            self._listed.append(ListedTensor(info, lists, item_bytes(kind)))
            self._listed_bytes += nbytes
        self._tensors[name] = info
        self._constants.setdefault((scope, tensor.name), name)
        self._demand_few(len(self._tensors), "tensors")

    def _demand_few(self, count: int, what: str) -> None:
        if count > MAX_ENTRIES:
            raise LimitError(f"{self._wire.what} has more than {MAX_ENTRIES} {what}")

    def _leave(self, name: str, count: int) -> None:
        if count >= _UNREAD_FROM:
            self._unread.append(f"{self._prefix}{name}")

    def _join_same_places(self) -> None:
        """Tensors in the very same bytes of a data file are one; elsewhere no number is read twice."""
        names: dict[str, str] = {}
        last: TensorInfo | None = None
        for tensor in sorted(self._tensors.values(), key=_place):
            if not tensor.nbytes or tensor.shard == self._shard:
                continue
            if last is not None and tensor.shard == last.shard and tensor.begin < last.begin + last.nbytes:
                if (tensor.begin, tensor.nbytes) != (last.begin, last.nbytes):
                    raise self._wire.broken(f"has the tensor {tensor.name[:200]!a} on top of another")
                names[tensor.name] = last.name
            else:
                last = tensor
        for name in names:
            del self._tensors[name]
        self._constants = {key: names.get(name, name) for key, name in self._constants.items()}

    def _resolve(self, scope: int, name: str) -> str:
        """The tensor that a value is in the graph `scope` or those around it; else its own name and graph."""
        around = scope
        while name and around >= 0:
            found = self._constants.get((around, name))
            if found is not None:
                return found
            around = self._outer[around]
        return f"{scope}/{name}" if name else ""


def _place(tensor: TensorInfo) -> tuple[str, int, int]:
    return tensor.shard, tensor.begin, tensor.nbytes
