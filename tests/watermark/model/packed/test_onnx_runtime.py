"""What ONNX Runtime's own quantisers wrote is unpacked to what its own kernels compute with.

The files and the kernels' answers were recorded by `record_onnxruntime.py` from onnxruntime 1.32.0.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from watermark.model.suspect import open_suspect

RECORDS = Path(__file__).with_name("onnxruntime.json")
#: Not whole runs of 16, so that the last one of a row is padded.
WEIGHT = np.random.default_rng(4).normal(0, 0.05, (24, 7)).astype(np.float32)
NAMES = sorted(json.loads(RECORDS.read_text())) if RECORDS.exists() else []


@pytest.mark.parametrize("name", NAMES)
def test_unpacked_weights_are_those_of_the_kernels(name: str, tmp_path: Path) -> None:
    record = json.loads(RECORDS.read_text())[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(base64.b64decode(record["model"]))
    answer = np.frombuffer(base64.b64decode(record["answer"]), "<f4").reshape(WEIGHT.shape)
    with open_suspect(path) as model:
        matrices = [weight for weight in model.weights.values() if len(weight.shape) == 2]
        assert len(matrices) == 1
        assert matrices[0].dtype.name == "F32"
        values = model.values(matrices[0], 0, matrices[0].count).reshape(matrices[0].shape)
    is_turned = name.startswith("MatMulNBits") or name.endswith("transposed")
    np.testing.assert_allclose(values.T if is_turned else values, answer, rtol=1e-6, atol=1e-7)
    # And that is the weight which was quantised, to half a step of its coarsest grid.
    bits = int(name.split(", ")[1][0]) if "bits" in name else 4 if "Gather" in name else 8
    assert np.abs(answer - WEIGHT).max() < 0.6 * np.ptp(WEIGHT) / (2**bits - 1) * (2 if "symmetric" in name else 1)


def test_all_are_there() -> None:
    assert len(NAMES) == 18
