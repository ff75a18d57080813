"""`check` reads a suspect in the containers that models run in, and accuses in them nobody whom it would not else."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.evidence import EvidenceRequest, verify_evidence
from cli.home import Home
from tests import packed_files
from tests.attacks.victims import HEADS, KEY_HEADS, edits_of, module_of, write
from tests.cli.owners import check_suspect, make_home, make_release
from tests.gguf_files import Quantisation, as_llama_cpp, write_gguf
from watermark.attacks.interface import State
from watermark.errors import DigestError
from watermark.model.torch_state import load_state

pytestmark = pytest.mark.slow  # scrypt costs a second at each unlocking and each mark

#: Rows of whole K-quant blocks, as models have them that are run by llama.cpp.
SIZES = {"hidden_size": 256, "intermediate_size": 512}


PACKED = {
    "gptq": packed_files.gptq(act_order=True),
    "awq": packed_files.awq(),
    "compressed": packed_files.compressed(3),
    "nf4": packed_files.nf4(nested=True),
}


def llama(seed: int) -> State:
    return dict(module_of("llama", seed, **SIZES).state_dict())


@pytest.fixture(scope="module")
def owner(tmp_path_factory) -> tuple[Home, Path, State]:
    """A release to two recipients; the copy of the first is stolen."""
    folder = tmp_path_factory.mktemp("owner")
    home = make_home(folder / "home")
    made = make_release(home, write(folder / "model", llama(0)), folder / "out", recipients=("Globex", "Initech"))
    stolen = Path(next(copy.out for copy in made.copies if copy.recipient == "Globex"))
    return home, folder / "model", load_state(stolen)


def gguf_of(path: Path, state: State, kind: str) -> Path:
    return write_gguf(path, as_llama_cpp(state, HEADS, KEY_HEADS), Quantisation[kind], architecture="llama")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "Q2_K"])
def test_a_copy_quantised_by_ggml_is_ours_and_its_recipient_named(owner, tmp_path, kind):
    home, _, stolen = owner
    found = check_suspect(home, gguf_of(tmp_path / "m.gguf", stolen, kind))
    assert (found.verdict, found.recipient) == ("ours", "Globex")
    assert found.log2_p_adjusted < -1_000


def test_a_disguised_copy_is_ours_in_gguf_too(owner, tmp_path):
    home, _, state = owner
    for seed, name in enumerate(("hidden permuted", "heads permuted", "query-key mixed", "stream rotated")):
        state = edits_of("llama")[name].run(state, seed)
    found = check_suspect(home, gguf_of(tmp_path / "m.gguf", state, "Q4_K"))
    assert (found.verdict, found.recipient) == ("ours", "Globex")
    assert found.log2_p_adjusted < -1_000


def test_an_independent_model_and_the_unmarked_one_are_innocent_in_gguf(owner, tmp_path):
    home, model, _ = owner
    other = check_suspect(home, gguf_of(tmp_path / "other.gguf", llama(8), "Q4_K"))
    assert other.verdict in ("not-shown", "no-power")
    assert other.log2_p_adjusted > -16
    unmarked = check_suspect(home, gguf_of(tmp_path / "reference.gguf", load_state(model), "Q4_K"))
    assert unmarked.verdict == "related"
    assert unmarked.log2_p is None


@pytest.mark.parametrize("container", ["gguf", "gptq"])
def test_a_stranger_verifies_evidence_about_a_converted_suspect(owner, tmp_path, container):
    home, model, stolen = owner
    if container == "gguf":
        suspect = gguf_of(tmp_path / "m.gguf", stolen, "Q4_K")
    else:
        suspect = write(tmp_path / "s", packed_files.packed_state(stolen, PACKED["gptq"]))
    found = check_suspect(home, suspect, evidence=tmp_path / "case.json")
    assert found.evidence_path == str(tmp_path / "case.json")
    read = verify_evidence(EvidenceRequest(tmp_path / "case.json", home.path, suspect=suspect, reference=model))
    assert read.holds
    assert read.log2_p_adjusted <= -128
    other = gguf_of(tmp_path / "other.gguf", stolen, "Q5_K")
    with pytest.raises(DigestError):
        verify_evidence(EvidenceRequest(tmp_path / "case.json", home.path, suspect=other))


@pytest.mark.parametrize("layout", PACKED)
def test_a_copy_in_packed_weights_is_ours_and_an_independent_model_is_not(owner, tmp_path, layout):
    home, _, stolen = owner
    found = check_suspect(home, write(tmp_path / "s", packed_files.packed_state(stolen, PACKED[layout])))
    assert (found.verdict, found.recipient) == ("ours", "Globex")
    assert found.matched_tensors == 16  # every one that is marked
    other = check_suspect(home, write(tmp_path / "o", packed_files.packed_state(llama(8), PACKED[layout])))
    assert other.verdict in ("not-shown", "no-power")
    assert other.log2_p_adjusted > -16


def test_weights_that_were_not_looked_at_are_named(owner, tmp_path):
    home, _, stolen = owner
    write(tmp_path / "s", llama(8))
    gguf_of(tmp_path / "s" / "hidden.gguf", stolen, "Q4_K")
    found = check_suspect(home, tmp_path / "s")
    assert found.verdict in ("not-shown", "no-power")
    assert any("not looked at: hidden.gguf; name such a file" in reason for reason in found.reasons)
    assert check_suspect(home, tmp_path / "s" / "hidden.gguf").verdict == "ours"
