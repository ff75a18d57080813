"""ONNX files as exporters and quantisers make them, by the `onnx` package and torch's own exporter."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

IR_VERSION = 10
_OPSET = 21


def save(path: Path, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], **fields: object) -> Path:
    """Write a model of these nodes and initialisers; what goes in and out is not declared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model_of(nodes, tensors, **fields).SerializeToString())
    return path


def model_of(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], **fields: object) -> onnx.ModelProto:
    """A model of these nodes and initialisers."""
    outputs = [
        helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None) for _ in range(min(1, len(nodes)))
    ]
    graph = helper.make_graph(nodes, "graph", [], outputs, tensors, **fields)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def exported(path: Path, module: torch.nn.Module, example: torch.Tensor) -> Path:
    """Write a module as torch exports it: matrices as they are, or turned into factors of `MatMul`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (example,), str(path), dynamo=False, opset_version=19)
    return path


def in_int8(source: Path, path: Path, *, signed: bool = True) -> Path:
    """Write a model with its matrices as 8-bit codes, a scale a column or kernel, and an operation that reads them."""
    model = onnx.load(source)
    kept, nodes = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2:
            kept.append(tensor)
            continue
        axis = 1 if values.ndim == 2 else 0
        codes, scale, zero = quantise(values, axis, signed=signed)
        name = tensor.name
        kept += [
            numpy_helper.from_array(part, f"{name}_{what}")
            for part, what in ((codes, "quantized"), (scale, "scale"), (zero, "zero_point"))
        ]
        parts = [f"{name}_{what}" for what in ("quantized", "scale", "zero_point")]
        nodes.append(helper.make_node("DequantizeLinear", parts, [name], axis=axis))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path.write_bytes(model.SerializeToString())
    return path


def quantise(
    values: NDArray[np.float32], axis: int | None, *, signed: bool
) -> tuple[NDArray[np.generic], NDArray[np.float32], NDArray[np.generic]]:
    """8-bit codes, scales and zero points, one of each along `axis` or one of each in all."""
    others = tuple(at for at in range(values.ndim) if at != axis) if axis is not None else None
    low, high = np.minimum(values.min(others), 0), np.maximum(values.max(others), 0)
    scale = np.asarray((high - low) / 255, np.float32)
    kind, least = (np.int8, -128) if signed else (np.uint8, 0)
    zero = np.asarray(np.round(least - low / scale))
    shape = [-1 if at == axis else 1 for at in range(values.ndim)] if axis is not None else []
    codes = np.round(values / scale.reshape(shape)) + zero.reshape(shape)
    return np.clip(codes, least, least + 255).astype(kind), scale, zero.astype(kind)
