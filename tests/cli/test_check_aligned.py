"""`check` finds what a thief hid at no cost, says what was undone, and calls relatives relatives."""

from __future__ import annotations

import pytest

from tests.attacks.victims import edits_of, state_of, write
from tests.cli.owners import check_suspect, make_home, make_release
from watermark.attacks.noise import gaussian
from watermark.attacks.precision import int4_groups
from watermark.errors import CapacityError
from watermark.model.torch_state import load_state

DISGUISE = ("hidden permuted", "heads permuted", "value-output mixed", "stream rotated", "projections fused", "renamed")


def disguised(kind: str, state, names=DISGUISE):
    for number, name in enumerate(names):
        state = edits_of(kind)[name].run(state, number)
    return state


@pytest.fixture(scope="module")
def owner(tmp_path_factory):
    """One release to two recipients; the copy of the first is stolen."""
    folder = tmp_path_factory.mktemp("owner")
    home = make_home(folder / "home")
    made = make_release(
        home, write(folder / "model", state_of("llama")), folder / "out", recipients=("Globex", "Initech")
    )
    stolen = next(copy.out for copy in made.copies if copy.recipient == "Globex")
    return home, load_state(stolen)


def test_a_disguised_copy_is_ours_and_its_recipient_named(owner, tmp_path):
    home, stolen = owner
    found = check_suspect(home, write(tmp_path / "s", disguised("llama", stolen)))
    assert (found.verdict, found.recipient) == ("ours", "Globex")
    assert found.log2_p_adjusted < -1_000
    by_name = {test.name: test for test in found.tests}
    assert by_name["difference"].log2_p > -30
    aligned = by_name["difference, aligned"]
    assert aligned.log2_p < -1_000
    assert "residual stream rotated" in aligned.detail
    assert any("undone before testing once more" in reason for reason in found.reasons)
    assert dict(found.multiplicity)["statistics"] == 2 * 9  # the family, as it stands and aligned


def test_what_shows_only_when_aligned_is_no_case_for_opened_blocks(owner, tmp_path):
    home, stolen = owner
    suspect = write(tmp_path / "s", disguised("llama", stolen))
    with pytest.raises(CapacityError, match="only after the suspect is aligned") as refused:
        check_suspect(home, suspect, evidence=tmp_path / "file.json")
    assert "whole reference" in refused.value.hint
    assert not (tmp_path / "file.json").exists()


def test_the_reference_itself_is_never_ours_disguised_or_not(owner, tmp_path):
    home, _ = owner
    rounded = check_suspect(home, write(tmp_path / "a", int4_groups(state_of("llama"))))
    assert rounded.verdict == "related"
    assert rounded.log2_p is None  # no number without an independent stamp
    assert rounded.tests[0].name == "kinship: hidden units in place"
    assert "416 of 416 hidden units in 2 layers" in rounded.tests[0].detail
    assert any("whose it is, is open" in reason for reason in rounded.reasons)
    hidden = check_suspect(home, write(tmp_path / "b", disguised("llama", state_of("llama"))))
    assert hidden.verdict == "not-shown"
    assert hidden.log2_p_adjusted > -16


def test_an_independent_model_is_not_shown(owner, tmp_path):
    home, _ = owner
    found = check_suspect(home, write(tmp_path / "s", disguised("llama", state_of("llama", 8))))
    assert found.verdict in ("not-shown", "no-power")
    assert found.log2_p_adjusted > -16


def test_siblings_of_a_declared_base_share_an_ancestor(tmp_path):
    home = make_home(tmp_path / "home")
    base = state_of("llama", 3)
    write(tmp_path / "base", base)
    ours, theirs = (gaussian(base, sigma=0.3, seed=seed) for seed in (1, 2))
    make_release(home, write(tmp_path / "ours", ours), tmp_path / "out", base=tmp_path / "base")
    found = check_suspect(home, write(tmp_path / "theirs", theirs))
    assert found.verdict == "shared-ancestor"
    assert any("declared public base" in reason for reason in found.reasons)
