"""`check` and `evidence`: right verdicts, right recipients, and no accusation of the innocent."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cli.check import CheckRequest, check
from cli.evidence import EvidenceRequest, verify_evidence
from cli.evidence_file import read_evidence, write_evidence
from cli.home import Home
from tests.cli.owners import PASSPHRASE, check_suspect, make_home, make_release, phrase
from tests.watermark.marks.models import random_weights, read_weights, write_model
from watermark.errors import (
    CapacityError,
    ConflictError,
    DigestError,
    DocumentError,
    InclusionError,
    InputError,
    KeyMismatchError,
    SignatureError,
    UntrustedKeyError,
    VerificationError,
    WeightmarkError,
)
from watermark.evidence import predicted_bits_with_reference

pytestmark = pytest.mark.slow  # scrypt costs a second at each unlocking and each mark


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An owner, a reference and two copies of it at 3 %; the folder is shared, suspects are made beside it."""
    folder = tmp_path_factory.mktemp("world")
    home = make_home(folder / "home")
    model = write_model(folder / "model", random_weights(seed=41))
    result = make_release(home, model, folder / "out", recipients=("Globex", "Initech"), strength=0.05)
    copies = {copy.recipient: Path(copy.out) for copy in result.copies}
    return home, model, copies, result


def disguised(folder: Path, weights: dict[str, np.ndarray], seed: int = 3) -> Path:
    """The same weights under other names, in another order."""
    draw = np.random.default_rng(seed)
    names = list(weights)
    draw.shuffle(names)
    return write_model(folder, {f"t{number}": weights[name] for number, name in enumerate(names)})


@pytest.mark.parametrize("recipient", ["Globex", "Initech"])
def test_a_disguised_damaged_copy_is_ours_and_names_its_recipient(world, tmp_path, recipient):
    home, _, copies, result = world
    draw = np.random.default_rng(1)
    weights = {
        name: (values + draw.normal(0, 0.05 * values.std(), values.shape)).astype(np.float32)
        for name, values in read_weights(copies[recipient]).items()
    }
    found = check_suspect(home, disguised(tmp_path / "suspect", weights))
    assert (found.verdict, found.release, found.recipient) == ("ours", result.release, recipient)
    assert found.log2_p_adjusted <= -128
    assert found.matched_tensors == 3
    assert found.order == "self-asserted"


def test_an_exact_copy_in_another_container_says_so(world, tmp_path):
    home, _, copies, _ = world
    found = check_suspect(home, disguised(tmp_path / "suspect", read_weights(copies["Globex"])))
    assert found.verdict == "ours"
    assert found.recipient == "Globex"
    assert any("identical to a released copy" in reason for reason in found.reasons)


def test_the_unmarked_reference_is_related_and_no_more(world, tmp_path):
    home, model, _, _ = world
    found = check_suspect(home, disguised(tmp_path / "suspect", read_weights(model)))
    assert found.verdict == "related"
    assert found.log2_p is None
    assert found.recipient is None


@pytest.mark.parametrize("seed", range(3))
def test_an_innocent_model_of_the_same_shape_is_not_shown(world, tmp_path, seed):
    home, *_ = world
    found = check_suspect(home, write_model(tmp_path / "innocent", random_weights(seed=900 + seed)))
    assert found.verdict == "not-shown"
    assert found.log2_p_adjusted > -20
    assert found.release is None


def test_a_fine_tune_that_moved_its_rows_unevenly_shows_all_of_its_mark(tmp_path):
    # The mark is a share of each row's move from the base, however large the weights are: rows that hardly moved must
    # not outweigh the others.
    home = make_home(tmp_path / "home")
    base, draw = random_weights(seed=73), np.random.default_rng(74)
    tuned = {
        name: (w + draw.normal(0, 0.004, w.shape) * 10.0 ** draw.uniform(-2, 0, (len(w), *[1] * (w.ndim - 1)))).astype(
            np.float32
        )
        for name, w in base.items()
    }
    base_folder, model = write_model(tmp_path / "base", base), write_model(tmp_path / "model", tuned)
    make_release(home, model, tmp_path / "out", base=str(base_folder), strength=0.05)
    found = check_suspect(home, tmp_path / "out")
    carriers = sum(w.size for w in tuned.values() if w.ndim > 1)
    # Nothing but the other layer, half as strong, stands against the mark.
    assert -found.log2_p_adjusted > 0.7 * predicted_bits_with_reference(carriers, 0.05 * (2 / 3) ** 0.5, 0.05 / 3**0.5)
    assert check_suspect(home, model).log2_p_adjusted in (None, 0.0)


def test_the_declared_base_is_a_shared_ancestor_and_a_sibling_is_innocent(tmp_path):
    home = make_home(tmp_path / "home")
    base = random_weights(seed=71)
    draw = np.random.default_rng(72)

    def tuned() -> dict[str, np.ndarray]:
        return {name: (w + draw.normal(0, 0.004, w.shape)).astype(np.float32) for name, w in base.items()}

    base_folder = write_model(tmp_path / "base", base)
    model = write_model(tmp_path / "model", tuned())
    make_release(home, model, tmp_path / "out", base=str(base_folder), recipients=("Globex",))
    assert check_suspect(home, disguised(tmp_path / "theirs", base)).verdict == "shared-ancestor"
    sibling = check_suspect(home, write_model(tmp_path / "sibling", tuned()))
    assert sibling.verdict in ("not-shown", "no-power")
    assert sibling.log2_p_adjusted > -20
    ours = check_suspect(home, disguised(tmp_path / "stolen", read_weights(tmp_path / "out")))
    assert (ours.verdict, ours.recipient) == ("ours", "Globex")
    merged = {
        name: (0.5 * w + 0.5 * base[name]).astype(np.float32) for name, w in read_weights(tmp_path / "out").items()
    }
    assert check_suspect(home, disguised(tmp_path / "merged", merged)).verdict == "ours"


def test_a_model_of_another_shape_gives_no_power(world, tmp_path):
    home, *_ = world
    found = check_suspect(home, write_model(tmp_path / "other", random_weights(seed=1, width=96)))
    assert found.verdict == "no-power"
    assert any("needed" in reason for reason in found.reasons)


def test_a_release_of_another_shape_neither_takes_power_nor_is_spoken_of(world, tmp_path):
    home, *_ = world
    other = Home.open(Path(shutil.copytree(home.path, tmp_path / "home")))
    small = write_model(tmp_path / "small", random_weights(seed=42, width=96))
    make_release(other, small, tmp_path / "out", name="small", strength=0.08)
    found = check_suspect(other, write_model(tmp_path / "innocent", random_weights(seed=43)))
    assert found.verdict == "not-shown"
    (apart,) = [reason for reason in found.reasons if "not comparable" in reason]
    assert "small 1" in apart
    assert "model 1" not in apart
    assert dict(found.multiplicity)["releases"] == 2  # paid for all the same
    assert check_suspect(other, tmp_path / "out").verdict == "ours"
    # Of a third shape nothing can be said at all; and without its reference a release is not set apart.
    third = write_model(tmp_path / "third", random_weights(seed=44, width=64))
    assert check_suspect(other, third).verdict == "no-power"
    shutil.rmtree(small)
    found = check_suspect(other, disguised(tmp_path / "renamed", random_weights(seed=43)))
    assert found.verdict == "no-power"
    assert not any("not comparable" in reason for reason in found.reasons)


def test_another_owner_finds_nothing_in_our_copy(world, tmp_path):
    _, model, copies, _ = world
    other = make_home(tmp_path / "home", "rival")
    make_release(other, model, tmp_path / "out", strength=0.05, recipients=("Globex",))
    found = check_suspect(other, copies["Globex"])
    assert found.verdict == "not-shown"


def test_without_its_reference_the_mark_still_shows_blind(world, tmp_path):
    home, _, copies, _ = world
    found = check_suspect(home, copies["Globex"], reference=tmp_path / "nowhere")
    assert found.verdict == "ours"
    assert [test.name for test in found.tests] == ["blind"]
    assert any("not at" in reason for reason in found.reasons)
    wrong = write_model(tmp_path / "wrong", random_weights(seed=5))
    found = check_suspect(home, copies["Globex"], reference=wrong)
    assert any("not the reference of this release" in reason for reason in found.reasons)


def test_requests_that_make_no_sense_are_refused(world, tmp_path):
    home, _, copies, _ = world
    for fields, words in (
        ({"expect": "mine"}, "--expect"),
        ({"suspect_date": "2026-01-01"}, "go together"),
        ({"case": "5"}, "go together"),
        ({"challenge": "00" * 16}, "go together"),
        ({"releases": ("ffff",)}, "no release begins"),
    ):
        with pytest.raises(InputError, match=words):
            check(CheckRequest(home.path, str(copies["Globex"]), **fields), phrase)
    with pytest.raises(InputError, match="only answers"):
        check(CheckRequest(home.path, "https://example.com/v1"), phrase)
    empty = make_home(tmp_path / "empty")
    with pytest.raises(InputError, match="released nothing"):
        check_suspect(empty, copies["Globex"])


@pytest.fixture(scope="module")
def evidence(world, tmp_path_factory):
    """An evidence file about Globex' copy, and a trust file such as a stranger holds."""
    home, _, copies, _ = world
    file = tmp_path_factory.mktemp("evidence") / "case.json"
    found = check_suspect(home, copies["Globex"], evidence=file)
    assert found.evidence_path == str(file)
    return file, copies["Globex"]


def asked(home: Home, file: Path, suspect: Path | None = None, reference: Path | None = None):
    return verify_evidence(EvidenceRequest(file, Path("/nowhere"), suspect, reference, home.trust_path))


def test_a_stranger_recomputes_the_evidence(world, evidence):
    home, model, _, result = world
    file, suspect = evidence
    found = asked(home, file, suspect, model)
    assert found.holds
    assert (found.owner, found.release, found.recipient) == ("acme", result.release, "Globex")
    assert found.log2_p_adjusted <= -128
    assert found.blocks == 4


def test_without_the_suspect_nothing_is_shown(world, evidence):
    found = asked(world[0], evidence[0])
    assert not found.holds
    assert not found.suspect_compared


def test_evidence_keeps_the_owner_secret_and_all_other_blocks(world, evidence):
    home, *_ = world
    text = evidence[0].read_text()
    assert home.owner_secret(PASSPHRASE).hex() not in text
    body, _, _ = read_evidence(evidence[0].read_bytes())
    assert len({opening.secret for opening in body.openings}) == 4


def test_evidence_is_about_its_suspect_and_reference_alone(world, evidence, tmp_path):
    home, _model, copies, _ = world
    with pytest.raises(DigestError, match="not the suspect"):
        asked(home, evidence[0], copies["Initech"])
    with pytest.raises(DigestError, match="reference"):
        asked(home, evidence[0], evidence[1], copies["Initech"])
    stranger = make_home(tmp_path / "stranger", "acme")
    with pytest.raises((UntrustedKeyError, SignatureError)):
        asked(stranger, evidence[0], evidence[1])


def test_cases_spend_their_blocks_and_a_challenge_draws_others(world, tmp_path):
    home, _, copies, _ = world
    logged = check_suspect(home, copies["Globex"], case="new")
    file = tmp_path / "challenged.json"
    found = check_suspect(home, copies["Globex"], case=str(logged.case), challenge="ab" * 16, evidence=file)
    assert found.case == logged.case
    body, _, _ = read_evidence(file.read_bytes())
    assert body.draw == "challenge"
    result = asked(home, file, copies["Globex"])
    assert result.holds
    assert any("abab" in reason for reason in result.reasons)
    with home.registry() as registry:
        cases = registry.records.cases(found.release)
    spent = [block for case in cases if case.opened for block in json.loads(case.opened)["blocks"]]
    assert len(spent) == len(set(spent))
    with pytest.raises(ConflictError, match="opened before"):
        check_suspect(
            home, copies["Globex"], case=str(logged.case), challenge="cd" * 16, evidence=tmp_path / "again.json"
        )
    with pytest.raises(InputError, match="another suspect"):
        check_suspect(
            home, copies["Initech"], case=str(logged.case), challenge="cd" * 16, evidence=tmp_path / "again.json"
        )


def test_no_evidence_is_written_about_the_innocent(world, tmp_path):
    home, *_ = world
    file = tmp_path / "case.json"
    found = check_suspect(home, write_model(tmp_path / "i", random_weights(seed=950)), evidence=file)
    assert found.verdict == "not-shown"
    assert not file.exists()
    assert found.evidence_path is None


def resigned(home: Home, file: Path, out: Path, **changes) -> Path:
    """The owner himself, dishonest: the same file with other contents, signed again with his real key."""
    body, _, _ = read_evidence(file.read_bytes())
    out.write_bytes(write_evidence(replace(body, **changes), home.private_key(PASSPHRASE)))
    return out


def test_a_release_whose_root_does_not_name_its_owner_spends_no_blocks(world, tmp_path, monkeypatch):
    # Homes of early versions hold such releases: a case about one would be refused by everyone.
    home, _, copies, _ = world
    monkeypatch.setattr("cli.case.owner_digest", lambda name: f"not {name}")
    with home.registry() as registry:
        size = registry.size
    with pytest.raises(CapacityError, match="before R named its owner"):
        check_suspect(home, copies["Globex"], evidence=tmp_path / "file.json")
    assert not (tmp_path / "file.json").exists()
    with home.registry() as registry:
        assert registry.size == size


def test_a_dishonest_owner_cannot_bend_the_file(world, evidence, tmp_path):
    """Forgeries by the claimant himself, each signed with his real key."""
    home, _, _copies, _ = world
    file, suspect = evidence
    body, _, _ = read_evidence(file.read_bytes())
    first, second, *rest = body.openings
    result = dict(body.result)
    with home.registry() as registry:
        later_release = registry.prove(2)
    forgeries = {
        "a block left out": ({"openings": body.openings[1:]}, VerificationError),
        "a block twice": ({"openings": (first, first, *rest)}, (VerificationError, KeyMismatchError)),
        "blocks reordered": ({"openings": (second, first, *rest)}, VerificationError),
        "another secret": ({"openings": (replace(first, secret=bytes(32)), second, *rest)}, KeyMismatchError),
        "other reference": (
            {"openings": (replace(first, reference=bytes(len(first.reference))), second, *rest)},
            KeyMismatchError,
        ),
        "other randomness": ({"randomness": bytes(32)}, VerificationError),
        "challenge pretended": ({"draw": "challenge", "randomness": b"x" * 32}, VerificationError),
        "numbers improved": ({"result": {**result, "total": str(int(result["total"]) * 2)}}, VerificationError),
        "another's copy": (
            {"proofs": {**body.proofs, "release": later_release}},
            (DigestError, KeyMismatchError, VerificationError),
        ),
        "no case": ({"proofs": {k: v for k, v in body.proofs.items() if k != "case"}}, InclusionError),
        "case as release": ({"proofs": {**body.proofs, "release": body.proofs["case"]}}, InclusionError),
        "recipient renamed": ({"copy": replace(body.copy, recipient="Initech")}, KeyMismatchError),
        "recipient dropped": ({"copy": None}, DocumentError),
        "geometry changed": (
            {"geometry": body.geometry.replace(b'"recipient_share":65536', b'"recipient_share":65535')},
            KeyMismatchError,
        ),
    }
    accepted = []
    for number, (name, (changes, error)) in enumerate(forgeries.items()):
        forged = resigned(home, file, tmp_path / f"{number}.json", **changes)
        try:
            accepted.append((name, asked(home, forged, suspect)))
        except error:
            continue
    assert accepted == []
    assert asked(home, resigned(home, file, tmp_path / "unchanged.json"), suspect).holds


def test_every_flipped_byte_of_the_file_is_refused_or_changes_nothing(world, evidence, tmp_path):
    home, *_ = world
    file, _suspect = evidence
    data = file.read_bytes()
    draw = np.random.default_rng(4)
    target = tmp_path / "flipped.json"
    for place in draw.integers(0, len(data), 150):
        target.write_bytes(data[:place] + bytes([data[place] ^ (1 << int(draw.integers(8)))]) + data[place + 1 :])
        try:
            found = asked(home, target)
        except WeightmarkError:
            continue
        assert not found.holds
        target.unlink()


def test_a_claimant_who_invents_his_reference_gains_nothing(tmp_path):
    """Reference chosen as suspect minus pattern: the pattern would have to be known before R, and R draws it."""
    home = make_home(tmp_path / "home", "mallory")
    victim = random_weights(seed=61)
    draw = np.random.default_rng(62)
    invented = {
        name: (values - 0.03 * values.std() * draw.choice([-1, 1], values.shape)).astype(np.float32)
        for name, values in victim.items()
    }
    make_release(home, write_model(tmp_path / "invented", invented), tmp_path / "out", strength=0.03)
    found = check_suspect(home, write_model(tmp_path / "victim", victim))
    assert found.verdict == "not-shown"
    assert found.log2_p_adjusted > -20
