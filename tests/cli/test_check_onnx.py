"""`check` recognises a released model that a thief exported to ONNX, as floats and in 8 bits, and accuses no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import convert_model_to_external_data
from onnx.reference import ReferenceEvaluator

from cli.home import Home
from tests.attacks.victims import WORDS, module_of, state_of, write
from tests.cli.owners import check_suspect, make_home, make_release
from tests.onnx_files import exported, in_int8
from watermark.attacks.interface import State
from watermark.model.suspect import open_suspect
from watermark.model.torch_state import load_state

pytestmark = pytest.mark.slow  # scrypt costs a second at each unlocking and each mark

KINDS = ("mlp", "bert")
IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))


class Answers(torch.nn.Module):
    """A BERT that takes words and gives vectors, nothing else."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        module.set_attn_implementation("eager")
        self.module = module

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.module(input_ids=words, return_dict=False)[0]
        return answer


def export(kind: str, state: State, path: Path) -> Path:
    """The file that torch's exporter writes."""
    module = module_of(kind)
    module.load_state_dict(state)
    if kind == "mlp":
        return exported(path, module, IMAGES)
    return exported(path, Answers(module), torch.randint(WORDS, (2, 24)))


@pytest.fixture(scope="module", params=KINDS)
def owner(request, tmp_path_factory) -> tuple[str, Home, State]:
    """One release to two recipients; the copy of the first is stolen."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    home = make_home(folder / "home")
    made = make_release(home, write(folder / "model", state_of(kind)), folder / "out", recipients=("Globex", "Initech"))
    return kind, home, load_state(next(copy.out for copy in made.copies if copy.recipient == "Globex"))


def test_an_exported_copy_is_ours_and_its_recipient_named(owner, tmp_path):
    kind, home, stolen = owner
    path = export(kind, stolen, tmp_path / "copy.onnx")
    if kind == "mlp":
        found = check_suspect(home, path)
        assert (found.verdict, found.recipient) == ("ours", "Globex")
        assert found.log2_p_adjusted < -10_000
    # The same in 8 bits, with its numbers in a file beside it, as a folder.
    small = onnx.load(in_int8(path, tmp_path / "small.onnx"))
    convert_model_to_external_data(small, location="weights.bin", size_threshold=64)
    (tmp_path / "folder").mkdir()
    onnx.save(small, tmp_path / "folder" / "model.onnx")
    with open_suspect(tmp_path / "folder") as model:
        assert model.shards == ("model.onnx", "weights.bin")
        assert not any(weight.dtype.name == "I8" for weight in model.weights.values())
    found = check_suspect(home, tmp_path / "folder")
    assert (found.verdict, found.recipient) == ("ours", "Globex")
    assert found.log2_p_adjusted < -10_000


def test_the_reference_and_an_independent_model_are_never_ours(owner, tmp_path):
    kind, home, _ = owner
    exact = export(kind, state_of(kind), tmp_path / "reference.onnx")
    small = in_int8(exact, tmp_path / "reference8.onnx", signed=False)
    for path in (exact, small) if kind == "mlp" else (small,):
        found = check_suspect(home, path)
        assert found.verdict in ("related", "not-shown", "no-power")
        assert found.log2_p_adjusted is None or found.log2_p_adjusted > -16
    other = export(kind, state_of(kind, 8), tmp_path / "innocent.onnx")
    model = onnx.load(in_int8(other, tmp_path / "innocent8.onnx"))
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["spare"], value_floats=[0.5] * 3_000))
    onnx.save(model, tmp_path / "innocent8.onnx")
    found = check_suspect(home, tmp_path / "innocent8.onnx")
    assert any("not looked at: spare" in reason for reason in found.reasons)
    assert found.verdict in ("not-shown", "no-power")
    assert found.log2_p_adjusted > -16


def test_the_files_in_8_bits_answer_as_the_model_does(tmp_path):
    path = export("mlp", state_of("mlp"), tmp_path / "m.onnx")
    module = module_of("mlp")
    expected = module(IMAGES).detach().numpy()
    for one, tolerance in ((path, 1e-5), (in_int8(path, tmp_path / "m8.onnx"), 0.05)):
        model = ReferenceEvaluator(str(one))
        answer = model.run(None, {model.input_names[0]: IMAGES.numpy()})[0]
        assert np.abs(answer - expected).max() < tolerance * np.abs(expected).max()
