"""A model that ships as integer codes is marked in them: it loads as before, is found again, and accuses nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cli.check import CheckRequest, check_unlocked
from cli.evidence import EvidenceRequest, verify_evidence
from cli.home import Home
from cli.owner_secrets import OwnerSecrets
from cli.release import ReleaseResult
from cli.verdict import CheckResult
from cli.verify import VerifyRequest, verify
from tests import packed_files
from tests.attacks.victims import module_of, write
from tests.cli.owners import PASSPHRASE, make_home, make_release
from watermark.attacks.interface import State
from watermark.errors import ConflictError, InputError, VerificationError
from watermark.marks.survey import survey
from watermark.model.suspect import open_suspect
from watermark.model.torch_state import load_state

pytestmark = pytest.mark.slow  # scrypt costs a second at each unlocking and each mark

#: A layout for each matrix of a block.
LAYOUTS = {
    "q_proj": packed_files.gptq(act_order=True),
    "k_proj": packed_files.gptq(3),
    "v_proj": packed_files.awq(),
    "o_proj": packed_files.compressed(3),
    "gate_proj": packed_files.compressed(),
    "up_proj": packed_files.int8,
    "down_proj": packed_files.int8,
}
SCALES = ("scales", "weight_scale", "SCB")


def packed_llama(seed: int) -> State:
    sizes = {"hidden_size": 128, "intermediate_size": 256}
    state = dict(module_of("llama", seed, **sizes).state_dict())
    for layer, pack in LAYOUTS.items():
        state = packed_files.packed_state(state, pack, layers=layer)
    return state


def weights_of(folder: Path) -> State:
    """What a loader computes with: dequantised, without scales."""
    with open_suspect(folder) as model:
        found = {
            name: torch.tensor(model.values(tensor, 0, tensor.count)).reshape(tensor.shape)
            for name, tensor in model.weights.items()
        }
    return {name: values for name, values in found.items() if not name.endswith(SCALES)}


@dataclass(frozen=True)
class Owner:
    home: Home
    secrets: OwnerSecrets
    reference: Path
    made: ReleaseResult

    @property
    def stolen(self) -> Path:
        """The copy of Globex."""
        return Path(next(copy.out for copy in self.made.copies if copy.recipient == "Globex"))

    def check(self, suspect: Path, **fields: object) -> CheckResult:
        request = CheckRequest(self.home.path, str(suspect), **fields)  # type: ignore[arg-type]
        return check_unlocked(request, self.home, PASSPHRASE, self.secrets)


@pytest.fixture(scope="module")
def owner(tmp_path_factory) -> Owner:
    """A release to two recipients."""
    folder = tmp_path_factory.mktemp("packed")
    home = make_home(folder / "home")
    reference = write(folder / "model", packed_llama(0))
    made = make_release(home, reference, folder / "out", recipients=("Globex", "Initech"))
    return Owner(home, OwnerSecrets(home, PASSPHRASE), reference, made)


def test_only_codes_change_and_the_release_says_so(owner):
    before, after = load_state(owner.reference), load_state(owner.stolen)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    codes = {name for name in changed if "_proj" in name}
    assert len(codes) == 2 * len(LAYOUTS)
    assert not [name for name in codes if name.endswith((*SCALES, "zeros", "zero_point", "g_idx", "shape"))]
    assert owner.made.marked_tensors == 2 * len(LAYOUTS) + 2  # and the two tables of words
    reasons = dict(owner.made.excluded)
    assert {reasons[name] for name in before if name.endswith(SCALES)} == {"scales of codes that carry the mark"}
    assert codes <= {name for name, reason in reasons.items() if reason.startswith("codes of a packed weight")}
    ours, theirs = weights_of(owner.reference), weights_of(owner.stolen)
    # A step of three bits is a quarter of the widest weight or less.
    widest = max(float(ours[name].abs().max()) for name in ours if "_proj" in name)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours if "_proj" in name) < widest / 2


FORMS: dict[str, Callable[[State], State]] = {
    "dequantised": lambda state: state,
    "GPTQ of 4 bits": lambda state: packed_files.packed_state(state, packed_files.gptq()),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_copy_in_another_form_is_ours(owner, tmp_path, form):
    found = owner.check(write(tmp_path / "s", FORMS[form](weights_of(owner.stolen))))
    assert (found.verdict, found.recipient) == ("ours", "Globex")
    assert found.log2_p_adjusted < -2_000


def test_the_reference_and_another_model_are_innocent(owner, tmp_path):
    assert owner.check(owner.reference).verdict == "related"
    unmarked = owner.check(write(tmp_path / "r", FORMS["GPTQ of 4 bits"](weights_of(owner.reference))))
    assert (unmarked.verdict, unmarked.log2_p) == ("related", None)
    assert all(test.log2_p is None or test.log2_p > -16 for test in unmarked.tests)
    other = owner.check(write(tmp_path / "o", packed_llama(8)))
    assert other.verdict == "not-shown"  # with power: a copy would have shown
    assert other.log2_p_adjusted > -16


def test_the_copy_itself_is_ours_as_predicted_and_a_stranger_sees_it_and_what_was_tampered_with(owner, tmp_path):
    case = tmp_path / "case.json"
    found = owner.check(owner.stolen, evidence=case)
    assert (found.verdict, found.recipient, found.evidence_path) == ("ours", "Globex", str(case))
    assert found.matched_tensors == found.total_tensors == 2 * len(LAYOUTS) + 2
    blind = next(test.log2_p for test in found.tests if test.name == "blind")
    assert blind == pytest.approx(owner.made.expected_log2_p, rel=0.3)
    asked = EvidenceRequest(case, owner.home.path, suspect=owner.stolen, reference=owner.reference)
    read = verify_evidence(asked)
    assert read.holds
    assert read.log2_p_adjusted <= -128
    tampered = load_state(owner.stolen)
    name = next(name for name in tampered if name.endswith("up_proj.weight"))
    tampered[name][0, 0] ^= 1
    other = write(tmp_path / "t", tampered)
    with pytest.raises(VerificationError):
        verify_evidence(EvidenceRequest(case, owner.home.path, suspect=other))
    weights = owner.stolen / "model.safetensors"
    kept = weights.read_bytes()
    assert verify(VerifyRequest(owner.stolen, trust=owner.home.trust_path)).release == owner.made.release
    weights.write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(VerificationError):
        verify(VerifyRequest(owner.stolen, trust=owner.home.trust_path))
    weights.write_bytes(kept)


def test_the_same_release_again_gives_the_same_bytes(owner, tmp_path):
    again = make_release(owner.home, owner.reference, tmp_path / "out", recipients=("Globex",))
    assert again.copies[0].copy in {copy.copy for copy in owner.made.copies}
    for file in ("model.safetensors", "model.sig"):
        assert (tmp_path / "out" / file).read_bytes() == (owner.stolen / file).read_bytes()


def test_a_release_from_before_codes_were_marked_is_repeated_as_it_was(owner, tmp_path, monkeypatch):
    draw = torch.Generator().manual_seed(2)
    state = {"a_proj.weight": torch.randn(64, 512, generator=draw), "b.weight": torch.randn(512, 512, generator=draw)}
    model = write(tmp_path / "m", packed_files.packed_state(state, packed_files.compressed()))
    with monkeypatch.context() as earlier:
        earlier.setattr("cli.release.survey_with_codes", lambda model, progress: survey(model, progress=progress))
        first = make_release(owner.home, model, tmp_path / "one", recipients=("Globex",))
    # Another R would be a conflict.
    again = make_release(owner.home, model, tmp_path / "two", recipients=("Globex",), dry_run=True)
    assert (again.release, again.carriers) == (first.release, first.carriers)
    monkeypatch.setattr("cli.release._was_marked_without_codes", lambda before: False)
    with pytest.raises(ConflictError):
        make_release(owner.home, model, tmp_path / "three", recipients=("Globex",), dry_run=True)


def test_strengths_of_codes_are_not_calibrated(owner, tmp_path):
    with pytest.raises(InputError, match="integer codes"):
        make_release(owner.home, owner.reference, tmp_path / "out", calibrate="python:math:sqrt")
