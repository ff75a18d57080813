"""Record what ONNX Runtime's own quantisers write and what its kernels answer, for the test beside this file.

Run by hand, in an environment with onnxruntime 1.32.0 and onnx-ir, which no test needs:

    python -m tests.watermark.model.packed.record_onnxruntime

Every model is one layer, and its input the unit matrix (or every row of the table): its answer is the weight itself.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from tests.onnx_files import quantise
from tests.watermark.model.packed.test_onnx_runtime import RECORDS, WEIGHT

KINDS = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(uint8)": np.uint8}
EXTENDED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


def layer(operation: str, **settings: int) -> onnx.ModelProto:
    """One layer on the weight of the test."""
    inputs = ["w", "x"] if operation == "Gather" else ["x", "w"]
    kind = TensorProto.INT64 if operation == "Gather" else TensorProto.FLOAT
    node = helper.make_node(operation, inputs, ["y"], **settings)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", kind, ["n"] if operation == "Gather" else ["n", "m"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def product(operation: str, *, turned: bool = False) -> onnx.ModelProto:
    """A product of codes whose answer is floats; no quantiser writes it by itself, the runtime's optimiser does."""
    codes, scale, zero = quantise(WEIGHT, 1, signed=False)
    parts = {"q": codes.T if turned else codes, "s": scale, "z": zero}
    tensors = [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in parts.items()]
    tensors += [numpy_helper.from_array(np.float32(1), "xs"), numpy_helper.from_array(np.uint8(0), "xz")]
    places = ["x", "xs", "xz", "q", "s", "z"] if operation == "QGemm" else ["x", "q", "xs", "s", "xz", "z"]
    settings = {"transB": int(turned)} if operation == "QGemm" else {}
    node = helper.make_node(operation, places, ["y"], domain="com.microsoft", **settings)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", "m"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each quantiser's file, under the name of what it shows."""
    for bits, symmetric in ((2, False), (4, True), (4, False), (8, True), (8, False)):
        config = DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=symmetric, bits=bits)
        quantiser = MatMulNBitsQuantizer(layer("MatMul"), algo_config=config)
        quantiser.process()
        path = folder / f"bits{bits}{symmetric}.onnx"
        quantiser.model.save_model_to_file(str(path))
        yield f"MatMulNBits, {bits} bits, {'symmetric' if symmetric else 'with zero points'}", path
    for symmetric in (True, False):
        config = DefaultWeightOnlyQuantConfig(
            block_size=16, is_symmetric=symmetric, bits=4, op_types_to_quantize=("Gather",), quant_axes=(("Gather", 1),)
        )
        quantiser = MatMulNBitsQuantizer(layer("Gather"), algo_config=config)
        quantiser.process()
        path = folder / f"gather{symmetric}.onnx"
        quantiser.model.save_model_to_file(str(path))
        yield f"GatherBlockQuantized, {'symmetric' if symmetric else 'with zero points'}", path
    for kind in (QuantType.QInt8, QuantType.QUInt8):
        for per_channel in (False, True):
            words = f"{kind.name}, {'one scale a column' if per_channel else 'one scale'}"
            onnx.save(layer("MatMul"), folder / "float.onnx")
            path = folder / "dynamic.onnx"
            quantize_dynamic(folder / "float.onnx", path, weight_type=kind, per_channel=per_channel)
            yield f"MatMulInteger, {words}", path
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = EXTENDED
            options.optimized_model_filepath = str(folder / "fused.onnx")
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            yield f"DynamicQuantizeMatMul, {words}", folder / "fused.onnx"
    for operation, turned in (("MatMulIntegerToFloat", False), ("QGemm", False), ("QGemm", True)):
        path = folder / "product.onnx"
        onnx.save(product(operation, turned=turned), path)
        yield f"{operation}, QUInt8{', transposed' if turned else ''}", path


def main() -> None:
    """Write the records."""
    records = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in models(Path(folder)):
            stored = path.read_bytes()
            session = onnxruntime.InferenceSession(stored, providers=["CPUExecutionProvider"])
            kind = KINDS[session.get_inputs()[0].type]
            rows = np.arange(len(WEIGHT)) if kind is np.int64 else np.eye(len(WEIGHT), dtype=kind)
            answer = session.run(None, {"x": rows})[0]
            operations = sorted({node.op_type for node in onnx.load_from_string(stored).graph.node})
            assert name.partition(",")[0] in operations, (name, operations)
            records[name] = {
                "model": base64.b64encode(stored).decode(),
                "answer": base64.b64encode(answer.astype("<f4").tobytes()).decode(),
            }
    RECORDS.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
