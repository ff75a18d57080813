"""Claims on what is not his: a public base, an ancestor, siblings, a stolen copy marked over, a licensed copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli.check import CheckRequest, check_unlocked
from cli.owner_secrets import OwnerSecrets
from cli.report_verdicts import exit_code_of_check
from tests.attacks.victims import state_of, write
from tests.cli.owners import PASSPHRASE, check_suspect, make_home, make_release
from tests.watermark.marks.models import random_weights, read_weights, write_model
from watermark.attacks.noise import gaussian
from watermark.model.torch_state import load_state

pytestmark = pytest.mark.slow  # scrypt costs a second at each unlocking and each mark


def test_a_public_base_its_children_and_his_own_model_claimed_back_prove_nothing(tmp_path):
    """Mallory fine-tunes a public base, declares none, and claims all who share it; a date of his changes nothing."""
    home = make_home(tmp_path / "home", "mallory")
    base = state_of("gpt", 31)
    make_release(home, write(tmp_path / "model", gaussian(base, sigma=0.1, seed=1)), tmp_path / "out")
    claimed = {
        "the base, his ancestor": base,
        "a sibling from the base": gaussian(base, sigma=0.1, seed=2),
        "the model that his was made from": load_state(tmp_path / "model"),
    }
    secrets = OwnerSecrets(home, PASSPHRASE)
    for number, (name, state) in enumerate(claimed.items()):
        suspect = write(tmp_path / str(number), state)
        dated = {"suspect_date": "2999-01-01", "suspect_source": "mallory says so"}
        found = check_unlocked(CheckRequest(home.path, str(suspect), **dated), home, PASSPHRASE, secrets)
        assert (found.verdict, found.log2_p, found.order) == ("related", None, "self-asserted"), name
        assert exit_code_of_check(found.verdict, None) == 1
        assert any("open" in reason or "no key of ours speaks" in reason for reason in found.reasons), name
    file = tmp_path / "case.json"
    assert check_suspect(home, suspect, evidence=file).evidence_path is None
    assert not file.exists()


@pytest.fixture(scope="module")
def marked_over(tmp_path_factory):
    """acme ships to Globex and Initech; Mallory gets Globex' copy, marks it over as his own, and ships that."""
    folder = tmp_path_factory.mktemp("over")
    acme, mallory = make_home(folder / "acme", "acme"), make_home(folder / "mallory", "mallory")
    model = write_model(folder / "model", random_weights(seed=51))
    made = make_release(acme, model, folder / "out", recipients=("Globex", "Initech"), strength=0.05)
    copies = {copy.recipient: Path(copy.out) for copy in made.copies}
    make_release(mallory, write_model(folder / "taken", read_weights(copies["Globex"])), folder / "over", strength=0.1)
    return acme, mallory, model, copies, folder / "over"


def test_who_marks_over_and_claims_finds_himself_in_his_own_copies_alone(marked_over):
    acme, mallory, model, copies, over = marked_over
    assert check_suspect(mallory, over).verdict == "ours"
    for suspect in (model, copies["Globex"], copies["Initech"]):
        found = check_suspect(mallory, suspect)
        assert found.verdict in ("related", "not-shown")
        assert found.log2_p_adjusted is None or found.log2_p_adjusted > -16
    theirs = check_suspect(acme, over)
    assert (theirs.verdict, theirs.recipient) == ("ours", "Globex")
    assert theirs.log2_p_adjusted < -1_000


def test_a_licensed_copy_is_ours_says_whose_copy_and_never_that_it_was_stolen(marked_over, tmp_path):
    """What Initech may do with its copy no weight can tell: the verdict says derivation and copy, and its limits."""
    acme, mallory, _, copies, _ = marked_over
    draw = np.random.default_rng(6)
    tuned = {
        name: (values + draw.normal(0, 0.1 * values.std(), values.shape)).astype(np.float32)
        for name, values in read_weights(copies["Initech"]).items()
    }
    suspect = write_model(tmp_path / "tuned", tuned)
    found = check_suspect(acme, suspect)
    assert (found.verdict, found.recipient) == ("ours", "Initech")
    assert any("never who leaked it" in reason for reason in found.reasons)
    assert check_suspect(mallory, suspect).verdict in ("related", "not-shown")
