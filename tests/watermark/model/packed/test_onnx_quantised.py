"""Quantised weights of ONNX files become the numbers that the onnx package's own evaluator computes with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.onnx_files import quantise, save
from watermark.model.onnxfile import KEPT_OPERATIONS
from watermark.model.packed import onnx_quantised
from watermark.model.suspect import open_suspect

ROWS, COLUMNS = 24, 10
WEIGHT = np.random.default_rng(3).normal(0, 0.05, (ROWS, COLUMNS)).astype(np.float32)
KERNEL = np.random.default_rng(3).normal(0, 0.05, (6, 3, 2, 2)).astype(np.float32)
STEP = np.ptp(WEIGHT) / 255


def tensor(name: str, values: NDArray[np.generic], kind: int | None = None) -> onnx.TensorProto:
    if kind is None:
        return numpy_helper.from_array(values, name)
    return numpy_helper.from_array(np.asarray(values).astype(helper.tensor_dtype_to_np_dtype(kind)), name)


def unpacked(path: Path, name: str) -> NDArray[np.float32]:
    """The weight of that name, which must have taken the place of all its parts."""
    with open_suspect(path) as model:
        weight = model.weights[name]
        assert weight.dtype.name == "F32"
        assert all(other.dtype.name == "F32" for other in model.weights.values())
        # Also in parts that begin and end anywhere.
        whole = model.values(weight, 0, weight.count)
        np.testing.assert_array_equal(model.values(weight, 3, weight.count - 5), whole[3:-5])
        return whole.reshape(weight.shape)


def evaluated(path: Path, output: str, inputs: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """What the onnx package's evaluator gives for one value of the graph."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return np.asarray(ReferenceEvaluator(model).run(None, inputs)[0])


@pytest.mark.parametrize("signed", [True, False], ids=["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_codes_with_one_scale_or_a_list_of_them(signed: bool, axis: int | None, tmp_path: Path) -> None:
    codes, scale, zero = quantise(WEIGHT, axis if axis is None else axis % 2, signed=signed)
    parts = [tensor("q", codes), tensor("s", scale), tensor("z", zero)]
    settings = {} if axis is None else {"axis": axis}
    path = save(tmp_path / "m.onnx", [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **settings)], parts)
    found = unpacked(path, "q")
    np.testing.assert_array_equal(found, evaluated(path, "y", {}))
    assert np.abs(found - WEIGHT).max() < 0.51 * STEP


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT2", "UINT2", "INT8", "UINT8"])
@pytest.mark.parametrize("has_zero", [True, False])
def test_codes_with_a_scale_a_run(kind: str, axis: int, has_zero: bool, tmp_path: Path) -> None:
    number, run = TensorProto.DataType.Value(kind), 4
    bits = int(kind[-1])
    low = 0 if kind.startswith("U") else -(1 << (bits - 1))
    draw = np.random.default_rng(5)
    runs = (ROWS // run, COLUMNS) if axis == 0 else (ROWS, -(-COLUMNS // run))
    if axis == 1:
        # The evaluator demands whole runs; ragged ones are in the files of ONNX Runtime.
        codes = draw.integers(low, low + (1 << bits), (ROWS, 12))
    else:
        codes = draw.integers(low, low + (1 << bits), (ROWS, COLUMNS))
    parts = [tensor("q", codes, number), tensor("s", draw.uniform(0.1, 1, runs).astype(np.float32))]
    if has_zero:
        parts.append(tensor("z", draw.integers(low, low + (1 << bits), runs), number))
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"][: len(parts)], ["y"], axis=axis, block_size=run)
    path = save(tmp_path / "m.onnx", [node], parts)
    np.testing.assert_array_equal(unpacked(path, "q"), evaluated(path, "y", {}))


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT4E2M1"])
def test_codes_that_are_small_floats(kind: str, tmp_path: Path) -> None:
    parts = [tensor("q", WEIGHT * 30, TensorProto.DataType.Value(kind)), tensor("s", np.float32(1 / 30))]
    path = save(tmp_path / "m.onnx", [helper.make_node("DequantizeLinear", ["q", "s"], ["y"])], parts)
    np.testing.assert_array_equal(unpacked(path, "q"), evaluated(path, "y", {}))


def test_a_half_as_scale_and_codes_in_constant_nodes(tmp_path: Path) -> None:
    codes, scale, zero = quantise(WEIGHT, 1, signed=True)
    nodes = [
        helper.make_node("Constant", [], ["q"], value=tensor("", codes)),
        helper.make_node("Constant", [], ["s"], value=tensor("", scale, TensorProto.FLOAT16)),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ]
    path = save(tmp_path / "m.onnx", nodes, [tensor("z", zero)])
    found = unpacked(path, "q")
    np.testing.assert_array_equal(
        found, (codes.astype(np.float32) - zero) * scale.astype(np.float16).astype(np.float32)
    )
    np.testing.assert_allclose(found, evaluated(path, "y", {}).astype(np.float32), rtol=2e-3)


def product(
    path: Path, operation: str, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, fine: np.float32
) -> Path:
    """A product of integers, its input in steps of one and its output in steps of `fine`."""
    parts = [
        tensor("xs", np.float32(1)), tensor("xz", np.int8(0)), tensor("q", codes), tensor("s", scale),
        tensor("z", zero), tensor("ys", fine), tensor("yz", np.int8(0)),
    ]  # fmt: skip
    node = helper.make_node(operation, ["x", "xs", "xz", "q", "s", "z", "ys", "yz"], ["y"])
    return save(path, [node], parts)


@pytest.mark.parametrize("axis", [None, 1])
def test_products_of_codes(axis: int | None, tmp_path: Path) -> None:
    codes, scale, zero = quantise(WEIGHT, axis, signed=True)
    # The input is the unit matrix, and the grid of the output fine enough to show the weight.
    fine = np.float32(STEP / 8)
    path = product(tmp_path / "m.onnx", "QLinearMatMul", codes, scale, zero, fine)
    with open_suspect(path) as model:
        found = model.values(model.weights["q"], 0, WEIGHT.size).reshape(WEIGHT.shape)
    answer = evaluated(path, "y", {"x": np.eye(ROWS, dtype=np.int8)}).astype(np.float32) * fine
    shown = np.abs(found) < 120 * fine  # beyond it the output is saturated
    assert shown.sum() > 20
    assert np.abs(found - answer)[shown].max() < 0.51 * fine
    assert np.abs(found - WEIGHT).max() < 0.51 * STEP


@pytest.mark.parametrize("axis", [None, 0])
def test_kernels_of_codes(axis: int | None, tmp_path: Path) -> None:
    codes, scale, zero = quantise(KERNEL, axis, signed=True)
    fine = np.float32(np.abs(KERNEL).max() / 120)
    path = product(tmp_path / "m.onnx", "QLinearConv", codes, scale, zero, fine)
    with open_suspect(path) as model:
        found = model.values(model.weights["q"], 0, KERNEL.size).reshape(KERNEL.shape)
    # One point in one channel of each image: what comes out is that channel of every kernel, turned round.
    points = np.zeros((3, 3, 3, 3), np.int8)
    points[range(3), range(3), 1, 1] = 1
    answer = evaluated(path, "y", {"x": points}).astype(np.float32).swapaxes(0, 1)[..., ::-1, ::-1] * fine
    assert np.abs(found - answer).max() < 0.51 * fine
    assert np.abs(found - KERNEL).max() < 0.51 * np.ptp(KERNEL) / 255


def integer_product(codes_of_table: bool = False) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A matrix product as `quantize_dynamic` writes it: integers, a cast, and the product of both scales."""
    codes, scale, zero = quantise(WEIGHT, 1, signed=False)
    nodes = [
        helper.make_node("MatMulInteger", ["xq", "q", "xz", "z"], ["p"]),
        helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "s"], ["both"]),
        helper.make_node("Mul", ["f", "both"], ["y"]),
    ]
    tensors = [tensor("q", codes), tensor("s", scale), tensor("z", zero)]
    if codes_of_table:
        table, table_scale, table_zero = quantise(WEIGHT.T @ WEIGHT @ WEIGHT.T, None, signed=False)
        nodes.insert(0, helper.make_node("Gather", ["t", "ids"], ["xq"]))
        return nodes, [*tensors, tensor("t", table), tensor("xs", table_scale), tensor("xz", table_zero)]
    nodes.insert(0, helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]))
    return nodes, tensors


def test_a_scale_that_comes_later(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", *integer_product())
    found = unpacked(path, "q")
    answer = evaluated(path, "y", {"x": np.eye(ROWS, dtype=np.float32)})
    np.testing.assert_allclose(found, answer, rtol=1e-6, atol=1e-9)
    assert np.abs(found - WEIGHT).max() < 0.51 * STEP


def test_a_table_of_codes_that_is_looked_up(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", *integer_product(codes_of_table=True))
    table, weight = unpacked(path, "t"), unpacked(path, "q")
    answer = evaluated(path, "y", {"ids": np.arange(COLUMNS)})
    np.testing.assert_allclose(table @ weight, answer, rtol=1e-5, atol=1e-8)
    codes, scale, zero = quantise(WEIGHT, None, signed=True)
    nodes = [
        helper.make_node("Gather", ["q", "ids"], ["g"]),
        helper.make_node("DequantizeLinear", ["g", "s", "z"], ["y"]),
    ]
    path = save(tmp_path / "n.onnx", nodes, [tensor("q", codes), tensor("s", scale), tensor("z", zero)])
    np.testing.assert_array_equal(unpacked(path, "q"), evaluated(path, "y", {"ids": np.arange(ROWS)}))


def test_a_matrix_that_two_graphs_within_read_is_unpacked_once(tmp_path: Path) -> None:
    codes, scale, zero = quantise(WEIGHT, 1, signed=True)
    branches = [
        helper.make_graph([helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1)], name, [], [], [])
        for name in ("a", "b")
    ]
    node = helper.make_node("If", ["x"], ["z2"], then_branch=branches[0], else_branch=branches[1])
    path = save(tmp_path / "m.onnx", [node], [tensor("q", codes), tensor("s", scale), tensor("z", zero)])
    assert np.abs(unpacked(path, "q") - WEIGHT).max() < 0.51 * STEP


def test_several_files_are_unpacked_each_by_its_own_graph(tmp_path: Path) -> None:
    for name, factor in (("a", 1), ("b", 3)):
        codes, scale, zero = quantise(factor * WEIGHT, 1, signed=True)
        node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1)
        save(tmp_path / f"{name}.onnx", [node], [tensor("q", codes), tensor("s", scale), tensor("z", zero)])
    with open_suspect(tmp_path) as model:
        for name, factor in (("a.onnx: q", 1), ("b.onnx: q", 3)):
            values = model.values(model.weights[name], 0, WEIGHT.size).reshape(WEIGHT.shape)
            assert np.abs(values - factor * WEIGHT).max() < 0.51 * factor * STEP


def wrong(case: str) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """Operations that do not fit their codes."""
    codes, scale, zero = quantise(WEIGHT, 1, signed=False)
    settings: dict[str, object] = {"axis": 1}
    operation, inputs = "DequantizeLinear", ["q", "s", "z"]
    if case == "axis":
        settings = {"axis": 7}
    elif case == "scales":
        scale = scale[:-1]
    elif case == "runs":
        settings = {"axis": 1, "block_size": 3}
    elif case == "zeros":
        zero = zero[:3]
    elif case == "integers":
        scale = scale.astype(np.int32)
    elif case == "bits":
        operation, settings = "MatMulNBits", {"K": 20, "N": ROWS, "bits": 3, "block_size": 16}
    elif case == "rows":
        operation, settings = "MatMulNBits", {"K": 1 << 60, "N": 1 << 60, "bits": 4, "block_size": 16}
    elif case == "negative":
        operation, settings = "MatMulNBits", {"K": -20, "N": -ROWS, "bits": 4, "block_size": -16}
    elif case == "table":
        operation, inputs, settings = "GatherBlockQuantized", ["q", "i", "s", "z"], {"quantize_axis": 9}
    elif case == "missing":
        inputs = ["q", "other"]
    elif case == "nothing":
        inputs = []
    node = helper.make_node(operation, inputs, ["y"], **settings)
    return node, [tensor("q", codes), tensor("s", scale), tensor("z", zero)]


WRONG = ["axis", "scales", "runs", "zeros", "integers", "bits", "rows", "negative", "table", "missing", "nothing"]


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_stays_as_it_is(case: str, tmp_path: Path) -> None:
    node, tensors = wrong(case)
    path = save(tmp_path / "m.onnx", [node], tensors)
    with open_suspect(path) as model:
        assert model.weights == model.tensors
        assert list(model.weights) == ["q", "s", "z"]


def test_a_matrix_of_no_numbers_and_endless_rows_is_left_alone(tmp_path: Path) -> None:
    node = helper.make_node("DequantizeLinear", ["q", "s"], ["y"])
    codes = helper.make_tensor("q", TensorProto.INT8, (1 << 45, 0), b"", raw=True)
    with open_suspect(save(tmp_path / "m.onnx", [node], [codes, tensor("s", np.float32(1))])) as model:
        assert model.weights == model.tensors


def test_scales_that_are_no_numbers_give_values_that_are_none_and_no_warning(tmp_path: Path) -> None:
    codes, scale, zero = quantise(WEIGHT, 0, signed=True)
    scale[2] = np.inf
    scale[3] = 3e38
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=0)
    path = save(tmp_path / "m.onnx", [node], [tensor("q", codes), tensor("s", scale), tensor("z", zero)])
    found = unpacked(path, "q")
    assert not np.isfinite(found[2:4]).all()
    assert np.isfinite(found[:2]).all()


def test_operations_that_tell_are_all_kept_by_the_reader() -> None:
    told = {*onnx_quantised._PLACES, *onnx_quantised._SCALED_LATER, *onnx_quantised._LOOKED_THROUGH}
    told |= {"MatMulNBits", "GatherBlockQuantized", "DequantizeLinear", "Cast", "Mul"}
    assert told == KEPT_OPERATIONS
