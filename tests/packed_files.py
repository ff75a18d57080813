"""The packed layouts as their tools write them, each written out by hand from that tool's own packing loop.

bitsandbytes and compressed-tensors were compared bit for bit as peers (docs/containers.md); GPTQ and AWQ have no tool
that runs without a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Parts = dict[str, torch.Tensor]
#: Writes the tensors of one linear weight, (outputs, inputs), and says what they stand for.
Packer = Callable[[Floats], tuple[Parts, Floats]]

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
NF4 = np.array(
    [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626,
     0.7230, 1.0], np.float32,
)  # fmt: skip


def _rounded(weight: Floats, bits: int, group: int, order: NDArray[np.int64] | None = None):
    """Codes (inputs, outputs), zero points and scales (groups, outputs), and the group of each input: asymmetric."""
    inputs = weight.shape[1]
    index = np.arange(inputs) // group
    if order is not None:
        index = index[np.argsort(order)]
    top = (1 << bits) - 1
    columns = weight.T
    least, most = (
        np.stack([getattr(columns[index == one], name)(axis=0) for one in range(inputs // group)])
        for name in ("min", "max")
    )
    scales = ((most - least) / top).astype(np.float16).astype(np.float32)
    zeros = np.clip(np.rint(-least / scales), 1, top).astype(np.int64)
    codes = np.clip(np.rint(columns / scales[index]) + zeros[index], 0, top).astype(np.int64)
    return codes, zeros, scales, index, ((codes - zeros[index]) * scales[index]).T.astype(np.float32)


def _bitstream(values: NDArray[np.int64], bits: int) -> NDArray[np.int32]:
    """Each column as one number of many bits, the first value lowest, cut into words: (values, n) to (words, n)."""
    count, width = values.shape
    words = np.zeros((-(-count * bits // 32), width), np.uint32)
    for start in range(0, width, 1024):
        planes = values[:, None, start : start + 1024] >> np.arange(bits)[:, None] & 1
        stream = np.zeros((32 * len(words), planes.shape[2]), np.uint32)
        stream[: count * bits] = planes.reshape(count * bits, -1)
        shifted = stream.reshape(-1, 32, planes.shape[2]) << np.arange(32, dtype=np.uint32)[:, None]
        words[:, start : start + 1024] = shifted.sum(axis=1, dtype=np.uint32)
    return words.view(np.int32)


def gptq(bits: int = 4, group: int = 32, *, version: int = 1, act_order: bool = False) -> Packer:
    """GPTQ as AutoGPTQ (1) or GPTQModel (2) stores it; `act_order` puts inputs into groups out of order."""

    def pack(weight: Floats) -> tuple[Parts, Floats]:
        order = np.random.default_rng(5).permutation(weight.shape[1]) if act_order else None
        codes, zeros, scales, index, values = _rounded(weight, bits, group, order)
        parts = {
            ".qweight": _bitstream(codes, bits),
            ".qzeros": np.ascontiguousarray(_bitstream((zeros - (version == 1)).T, bits).T),
            ".scales": scales.astype(np.float16),
        }
        if act_order:
            parts[".g_idx"] = index.astype(np.int32)
        return {name: torch.from_numpy(part) for name, part in parts.items()}, values

    return pack


def awq(group: int = 32) -> Packer:
    """AWQ as AutoAWQ stores it (`gemm`)."""

    def words(codes: NDArray[np.int64]) -> torch.Tensor:
        packed = np.zeros((len(codes), codes.shape[1] // 8), np.int64)
        for column in range(packed.shape[1]):
            for place, output in enumerate(AWQ_ORDER):
                packed[:, column] |= codes[:, 8 * column + output] << (4 * place)
        return torch.from_numpy(packed.astype(np.uint32).view(np.int32))

    def pack(weight: Floats) -> tuple[Parts, Floats]:
        codes, zeros, scales, _, values = _rounded(weight, 4, group)
        return {
            ".qweight": words(codes),
            ".qzeros": words(zeros),
            ".scales": torch.from_numpy(scales.astype(np.float16)),
        }, values

    return pack


def compressed(bits: int = 4, group: int = 32) -> Packer:
    """compressed-tensors, "pack-quantized", asymmetric."""

    def pack(weight: Floats) -> tuple[Parts, Floats]:
        codes, zeros, scales, _, values = _rounded(weight, bits, group)
        return {
            ".weight_packed": torch.from_numpy(np.ascontiguousarray(_bitstream(codes, bits).T)),
            ".weight_scale": torch.from_numpy(np.ascontiguousarray(scales.T)),
            ".weight_zero_point": torch.from_numpy(_bitstream(zeros.T, bits)),
            ".weight_shape": torch.tensor(weight.shape),
        }, values

    return pack


def int8(weight: Floats) -> tuple[Parts, Floats]:
    """LLM.int8() of bitsandbytes."""
    largest = np.abs(weight).max(axis=1).astype(np.float32)
    codes = np.rint(weight * (127 / largest)[:, None]).astype(np.int8)
    values = (codes * largest[:, None]).astype(np.float32) / np.float32(127)
    return {".weight": torch.from_numpy(codes), ".SCB": torch.from_numpy(largest)}, values


def fp8_squares(weight: Floats) -> tuple[Parts, Floats]:
    """8-bit floats with a scale for each square of 128 x 128 (DeepSeek-V3)."""
    rows, columns = (-(-size // 128) for size in weight.shape)
    scales = np.ones((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            square = weight[128 * row : 128 * (row + 1), 128 * column : 128 * (column + 1)]
            scales[row, column] = np.abs(square).max() / 448
    spread = np.repeat(np.repeat(scales, 128, axis=0), 128, axis=1)[: weight.shape[0], : weight.shape[1]]
    codes = torch.from_numpy(weight / spread).to(torch.float8_e4m3fn)
    return {".weight": codes, ".weight_scale_inv": torch.from_numpy(scales)}, codes.float().numpy() * spread


def nf4(*, nested: bool = False, block: int = 64) -> Packer:
    """NF4 of bitsandbytes; `nested` quantises the scales too."""

    def pack(weight: Floats) -> tuple[Parts, Floats]:
        blocks = weight.reshape(-1, block)
        scales = np.abs(blocks).max(axis=1)
        state: dict[str, object] = {"quant_type": "nf4", "blocksize": block, "shape": list(weight.shape)}
        parts: Parts = {".quant_map": torch.from_numpy(NF4)}
        if nested:
            offset = float(scales.mean())
            table = np.linspace(-1, 1, 256, dtype=np.float32)
            outer = np.array([np.abs(run - offset).max() for run in np.split(scales, range(256, len(scales), 256))])
            spread = outer[np.arange(len(scales)) // 256]
            absmax = np.abs((scales - offset)[:, None] / spread[:, None] - table).argmin(axis=1).astype(np.uint8)
            scales = table[absmax] * spread.astype(np.float32) + np.float32(offset)
            state |= {"nested_blocksize": 256, "nested_offset": offset}
            parts |= {
                ".nested_absmax": torch.from_numpy(outer.astype(np.float32)),
                ".nested_quant_map": torch.from_numpy(table),
                ".absmax": torch.from_numpy(absmax),
            }
        else:
            parts[".absmax"] = torch.from_numpy(scales)
        codes = np.abs(blocks / scales[:, None] - NF4[:, None, None]).argmin(axis=0).astype(np.uint8).reshape(-1)
        parts[""] = torch.from_numpy(codes[0::2] << 4 | codes[1::2])[:, None]
        text = np.frombuffer(json.dumps(state).encode(), np.uint8).copy()
        parts[".quant_state.bitsandbytes__nf4"] = torch.from_numpy(text)
        values = (NF4[codes].reshape(blocks.shape) * scales[:, None]).reshape(weight.shape).astype(np.float32)
        return {f".weight{suffix}": part for suffix, part in parts.items()}, values

    return pack


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def _e2m1_codes(numbers: Floats) -> NDArray[np.uint8]:
    return np.abs(numbers[..., None] - E2M1).argmin(axis=-1).astype(np.uint8)


def mxfp4(weight: Floats) -> tuple[Parts, Floats]:
    """MXFP4 as gpt-oss stores it: blocks of 32 in a dimension of their own."""
    blocks = weight.reshape(len(weight), -1, 32)
    exponents = np.floor(np.log2(np.abs(blocks).max(axis=2))).astype(np.int64) - 2
    codes = _e2m1_codes(blocks / np.exp2(exponents)[..., None])
    values = (E2M1[codes] * np.exp2(exponents)[..., None]).reshape(weight.shape).astype(np.float32)
    packed = codes[..., 0::2] | codes[..., 1::2] << 4
    return {
        ".weight_blocks": torch.from_numpy(packed),
        ".weight_scales": torch.from_numpy((exponents + 127).astype(np.uint8)),
    }, values


def nvfp4(weight: Floats) -> tuple[Parts, Floats]:
    """NVFP4 as compressed-tensors stores it: a scale for 16 inputs in 8-bit floats, and one to divide them all by."""
    blocks = weight.reshape(len(weight), -1, 16)
    divisor = np.float32(448 * 6 / np.abs(weight).max())
    scales = torch.from_numpy(np.abs(blocks).max(axis=2) / 6 * divisor).to(torch.float8_e4m3fn)
    spread = scales.float().numpy()[..., None] / divisor
    codes = _e2m1_codes(blocks / spread)
    packed = codes[..., 0::2] | codes[..., 1::2] << 4
    return {
        ".weight_packed": torch.from_numpy(packed.reshape(len(weight), -1)),
        ".weight_scale": scales,
        ".weight_global_scale": torch.tensor([float(divisor)]),
    }, (E2M1[codes] * spread).reshape(weight.shape)


def packed_state(state: Mapping[str, torch.Tensor], pack: Packer, layers: str = "_proj") -> Parts:
    """A model with its linear layers packed, known by a part of their names; all else as it is."""
    packed: Parts = {}
    for name, values in state.items():
        if values.dim() == 2 and layers in name:
            parts, _ = pack(values.float().numpy())
            packed |= {name.removesuffix(".weight") + suffix: part for suffix, part in parts.items()}
        else:
            packed[name] = values
    return packed
