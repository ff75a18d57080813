"""GGUF files as llama.cpp makes them: written by ggml's own `gguf` package, quantised by ggml itself.

The encoder of the K-quants exists in C alone; the package pywhispercpp brings it, `scripts/setup.sh` installs it.
"""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

Quantisation = gguf.GGMLQuantizationType
_PLAIN = {Quantisation.F32: np.float32, Quantisation.F16: np.float16}
#: What `llama-quantize` takes where a row is not whole blocks of what was asked for.
_INSTEAD = {"Q2_K": "Q4_0", "Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}


@cache
def _ggml() -> ctypes.CDLL:
    """The library, with its tables built before two threads can ask for them."""
    path = Path(sysconfig.get_paths()["platlib"], "libggml-base.so")
    assert path.exists(), f"{path} is missing: run scripts/setup.sh"
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    return library


def quantised(values: NDArray[np.float32], kind: Quantisation) -> NDArray[np.uint8]:
    """Blocks of a matrix, (rows, bytes of a row), as `llama-quantize` writes them without an importance matrix."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, values.shape[-1])
    blocks = np.zeros((len(rows), rows.shape[1] // block * size), np.uint8)
    weights = np.ones(rows.shape[1], np.float32)
    written = _ggml().ggml_quantize_chunk(
        kind.value, rows.ctypes.data, blocks.ctypes.data, 0, len(rows), rows.shape[1], weights.ctypes.data
    )
    assert written == blocks.nbytes
    return blocks.reshape(*values.shape[:-1], -1)


def write_gguf(
    path: Path,
    state: Mapping[str, torch.Tensor],
    kind: Quantisation,
    architecture: str = "bert",
) -> Path:
    """Write a model as GGUF: matrices as `kind` or, where rows are no whole blocks, as ggml falls back; else F32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_token_list([f"token {number}" for number in range(1_000)])
    candidates = [kind, Quantisation[_INSTEAD.get(kind.name, "Q4_0")]]
    for name, tensor in state.items():
        values = tensor.float().numpy()
        chosen = next((one for one in candidates if fits(values, one)), Quantisation.F16)
        if values.ndim < 2 or chosen in _PLAIN:
            writer.add_tensor(name, values.astype(np.float32 if values.ndim < 2 else _PLAIN[chosen]))
        else:
            writer.add_tensor(name, quantised(values, chosen), raw_dtype=chosen)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fits(values: NDArray[np.float32], kind: Quantisation) -> bool:
    """Whether rows are whole blocks."""
    return values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0


def as_llama_cpp(state: Mapping[str, torch.Tensor], heads: int, key_heads: int) -> dict[str, torch.Tensor]:
    """A Llama as llama.cpp's converter hands it on: other names, and rotary pairs side by side, no longer in halves."""
    converted: dict[str, torch.Tensor] = {}
    for name, values in state.items():
        for suffix, count in (("q_proj.weight", heads), ("k_proj.weight", key_heads)):
            if name.endswith(suffix):
                values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        for old, new in _LLAMA_NAMES.items():
            name = name.replace(old, new)
        converted[name] = values
    return converted


_LLAMA_NAMES = {
    "model.layers.": "blk.",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
