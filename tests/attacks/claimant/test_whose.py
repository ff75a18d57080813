"""Claims on what is not his: a public base, an ancestor, siblings, a stolen copy marked over, a licensed copy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cli.check import CheckRequest, check_unlocked
from cli.home import Home
from cli.owner_secrets import OwnerSecrets
from cli.report_verdicts import exit_code_of_check
from cli.verdict import CheckResult
from tests.attacks.victims import state_of, write
from tests.cli.owners import PASSPHRASE, make_home, make_release
from tests.watermark.marks.models import random_weights, read_weights, write_model
from watermark.attacks.noise import gaussian
from watermark.model.torch_state import load_state

pytestmark = pytest.mark.slow  # scrypt costs a second at each unlocking and each mark


@dataclass
class Owner:
    """A home whose secret is unlocked once."""

    home: Home
    secrets: OwnerSecrets

    @classmethod
    def new(cls, folder: Path, name: str) -> Owner:
        home = make_home(folder / name, name)
        return cls(home, OwnerSecrets(home, PASSPHRASE))

    def checks(self, suspect: Path, *releases: str, **fields: str) -> CheckResult:
        request = CheckRequest(self.home.path, str(suspect), releases, **fields)  # type: ignore[arg-type]
        return check_unlocked(request, self.home, PASSPHRASE, self.secrets)


@pytest.fixture(scope="module")
def mallory(tmp_path_factory):
    return Owner.new(tmp_path_factory.mktemp("owners"), "mallory")


def test_a_public_base_its_children_and_what_his_own_was_made_from_prove_nothing(mallory, tmp_path):
    """Mallory fine-tunes a public base, declares none, and claims all who share it; a date of his changes nothing."""
    base = state_of("gpt", 31)
    model = write(tmp_path / "model", gaussian(base, sigma=0.1, seed=1))
    made = make_release(mallory.home, model, tmp_path / "out")
    claimed = {
        "the base, his ancestor": base,
        "a sibling from the base": gaussian(base, sigma=0.1, seed=2),
        "the model that his was made from": load_state(model),
    }
    for number, (name, state) in enumerate(claimed.items()):
        dated = {"suspect_date": "2999-01-01", "suspect_source": "mallory says so"}
        found = mallory.checks(write(tmp_path / str(number), state), made.release, **dated)
        assert (found.verdict, found.log2_p, found.order) == ("related", None, "self-asserted"), name
        assert exit_code_of_check(found.verdict, None) == 1
        assert any("open" in reason or "no key of ours speaks" in reason for reason in found.reasons), name


@pytest.fixture(scope="module")
def marked_over(tmp_path_factory, mallory):
    """acme ships to Globex and Initech; Mallory gets Globex' copy, marks it over as his own, and ships that."""
    folder = tmp_path_factory.mktemp("over")
    acme = Owner.new(folder, "acme")
    model = write_model(folder / "model", random_weights(seed=51))
    made = make_release(acme.home, model, folder / "out", recipients=("Globex", "Initech"), strength=0.05)
    copies = {copy.recipient: Path(copy.out) for copy in made.copies}
    taken = write_model(folder / "taken", read_weights(copies["Globex"]))
    his = make_release(mallory.home, taken, folder / "over", strength=0.1).release
    return acme, his, model, copies, folder / "over"


def test_who_marks_over_and_claims_finds_himself_in_his_own_copies_alone(mallory, marked_over):
    acme, his, model, copies, over = marked_over
    assert mallory.checks(over, his).verdict == "ours"
    for suspect in (model, copies["Globex"], copies["Initech"]):
        found = mallory.checks(suspect, his)
        assert found.verdict in ("related", "not-shown")
        assert found.log2_p_adjusted is None or found.log2_p_adjusted > -16
    theirs = acme.checks(over)
    assert (theirs.verdict, theirs.recipient) == ("ours", "Globex")
    assert theirs.log2_p_adjusted < -1_000


def test_a_licensed_copy_is_ours_says_whose_copy_and_never_that_it_was_stolen(mallory, marked_over, tmp_path):
    """What Initech may do with its copy no weight can tell: the verdict says derivation and copy, and its limits."""
    acme, his, _, copies, _ = marked_over
    draw = np.random.default_rng(6)
    tuned = {
        name: (values + draw.normal(0, 0.1 * values.std(), values.shape)).astype(np.float32)
        for name, values in read_weights(copies["Initech"]).items()
    }
    suspect = write_model(tmp_path / "tuned", tuned)
    found = acme.checks(suspect)
    assert (found.verdict, found.recipient) == ("ours", "Initech")
    assert any("never who leaked it" in reason for reason in found.reasons)
    assert mallory.checks(suspect, his).verdict in ("related", "not-shown")
