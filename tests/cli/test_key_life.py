"""The life of an owner's keys from end to end: what is logged, what the home does, what readers then believe."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.audit import AuditRequest, audit
from cli.check import CheckRequest, check
from cli.evidence import EvidenceRequest, verify_evidence
from cli.home import Home
from cli.home_keys import home_keys
from cli.key_change import ChangeRequest, approve_draft, submit_draft
from cli.key_cosign import CosignRequest, countersign
from cli.key_events import enrol_key, retire_key, revoke_key, rotate_keys, set_threshold
from cli.key_leak import replace_leaked_secret
from cli.keys import change_passphrase, export_trust, list_keys
from cli.release import ReleaseRequest, ReleaseResult
from cli.release import release as release_model
from cli.standing import StandingRules
from cli.verify import VerifyRequest, VerifyResult, verify
from registry.signing.encoding import to_base64
from registry.signing.keys import PrivateKey, generate, write_new_private_file, write_private_key
from registry.signing.trust import parse_trust
from tests.amazon import set_credentials
from tests.cli.command import PASSPHRASE, weightmark
from tests.registry.keystores.fake_kms import FakeKms
from tests.watermark.marks.models import random_weights, write_model
from watermark.errors import (
    InputError,
    KeyEventError,
    RevokedKeyError,
    StaleViewError,
    ThresholdError,
    UntrustedKeyError,
)

pytestmark = pytest.mark.slow  # each change unlocks two keys, and a release the secret: seconds of key stretching

PHRASE = PASSPHRASE.encode()


def phrase() -> bytes:
    return PHRASE


def make_unmarked(home: Path, model: Path, out: Path, version: str = "1") -> Path:
    """A release without a mark, which spares the seconds of scrypt that a mark takes."""
    release_model(ReleaseRequest(home, model, out, mark=False, version=version), phrase)
    return out


def trusting(release: Path, trust: Path, **rules: object) -> VerifyResult:
    return verify(VerifyRequest(release, trust=trust, rules=StandingRules(**rules)))  # type: ignore[arg-type]


def somebody(folder: Path, name: str) -> tuple[PrivateKey, Path, Path]:
    """A person with a key of his own: the key, its file and the public half's."""
    key = generate("p256")
    write_private_key(folder / f"{name}.pem", key, None)
    write_new_private_file(folder / f"{name}.pub", key.public.pem.encode())
    return key, folder / f"{name}.pem", folder / f"{name}.pub"


def exported(home: Path, place: Path) -> Path:
    export_trust(home, place)
    return place


def test_rotation_keeps_old_releases_and_needs_a_new_trust_file(home: Path, model: Path, tmp_path: Path) -> None:
    first = make_unmarked(home, model, tmp_path / "first")
    old_trust = exported(home, tmp_path / "old.trust")
    old = Home.open(home).public_key
    change = rotate_keys(ChangeRequest(home), phrase)
    assert (change.kind, change.version, change.index) == ("rotate", 2, 2)
    now = Home.open(home)
    assert now.public_key.key_id == change.current == change.key
    assert now.private_key(PHRASE).public == now.public_key != old
    assert [one.public for one in home_keys(now)] == [now.public_key, old]
    (model / "more.txt").write_text("x")
    second = make_unmarked(home, write_model(tmp_path / "other", random_weights(seed=3)), tmp_path / "second")
    new_trust = exported(home, tmp_path / "new.trust")
    assert trusting(first, old_trust).index == trusting(first, new_trust).index == 1
    assert trusting(second, new_trust).key == now.public_key.key_id
    with pytest.raises(UntrustedKeyError):
        trusting(second, old_trust)
    assert audit(AuditRequest(home)).whole
    assert parse_trust(new_trust.read_text()).retired == {old.key_id: 3}
    assert now.trust().owners["acme"] == (old, now.public_key)


def test_the_same_release_after_a_rotation_is_the_same(home: Path, model: Path, tmp_path: Path) -> None:
    first = make_unmarked(home, model, tmp_path / "first")
    rotate_keys(ChangeRequest(home), phrase)
    again = make_unmarked(home, model, tmp_path / "again")
    assert (again / "model.sig").read_bytes() == (first / "model.sig").read_bytes()
    with Home.open(home).registry() as registry:
        assert registry.size == 3


@pytest.mark.parametrize("start", [1, 2])
def test_revocation_fells_what_the_key_signed_from_an_index_on(
    home: Path, model: Path, tmp_path: Path, start: int
) -> None:
    first = make_unmarked(home, model, tmp_path / "first")  # entry 1
    old = Home.open(home).public_key.key_id
    rotate_keys(ChangeRequest(home), phrase)  # entry 2
    before = exported(home, tmp_path / "before.trust")
    change = revoke_key(ChangeRequest(home), phrase, old[:8], from_index=start)
    assert change.key == old
    assert [note.split(":")[0] for note in change.notes] == ["entry 1 falls"] * (start == 1)
    after = exported(home, tmp_path / "after.trust")
    assert trusting(first, before).verified  # offline, nobody told this reader: that is what the age of a view is for
    if start == 1:
        with pytest.raises(RevokedKeyError, match="from entry 1 on"):
            trusting(first, after)
    else:
        assert trusting(first, after).verified
    found = audit(AuditRequest(home)).findings
    assert [(one.code, one.index) for one in found] == [("revoked-key", 1)] * (start == 1)


def test_several_people_sign_what_one_drafted(home: Path, model: Path, tmp_path: Path) -> None:
    bob, bob_file, bob_public = somebody(tmp_path, "bob")
    carol, carol_file, carol_public = somebody(tmp_path, "carol")
    with pytest.raises(KeyEventError, match="not signed by the key that it brings in"):
        enrol_key(ChangeRequest(home), phrase, public=bob_public)
    draft = tmp_path / "enrol.json"
    drafted = enrol_key(ChangeRequest(home, draft=draft), phrase, public=bob_public)
    assert (drafted.index, drafted.key) == (None, bob.public.key_id)
    assert set(approve_draft(draft, bob).signers) == {bob.public.key_id, Home.open(home).public_key.key_id}
    with pytest.raises(KeyEventError, match="already"):
        approve_draft(draft, bob)
    assert submit_draft(ChangeRequest(home), phrase, draft).version == 2
    enrol_key(ChangeRequest(home, keys=(str(carol_file),)), phrase, public=carol_public)
    set_threshold(ChangeRequest(home), phrase, 2)
    with pytest.raises(ThresholdError, match="signed by 1 of"):
        set_threshold(ChangeRequest(home), phrase, 1)

    release = make_unmarked(home, model, tmp_path / "out")
    trust = exported(home, tmp_path / "acme.trust")
    with pytest.raises(ThresholdError, match="1 of acme's keys signed this release, and 2 must"):
        trusting(release, trust)
    done = countersign(CosignRequest(tmp_path / "no home", release, (str(bob_file),), trust), phrase)
    assert done.added == (bob.public.key_id,)
    standing = trusting(release, trust).standing
    assert standing is not None
    assert (len(standing.signers), standing.threshold) == (2, 2)
    assert countersign(CosignRequest(home, release, (str(bob_file),), trust), phrase).added == ()
    stranger = somebody(tmp_path, "eve")[1]
    with pytest.raises(UntrustedKeyError, match="no key of acme that is in use"):
        countersign(CosignRequest(home, release, (str(stranger),), trust), phrase)

    revoke_key(ChangeRequest(home, keys=(str(carol_file),)), phrase, bob.public.key_id)
    newer = exported(home, tmp_path / "newer.trust")
    with pytest.raises(ThresholdError, match="nothing shows that it signed before"):
        trusting(release, newer)
    countersign(CosignRequest(home, release, (str(carol_file),), newer), phrase)
    standing = trusting(release, newer).standing
    assert standing is not None
    assert carol.public.key_id in standing.signers
    assert "does not count" in standing.warnings[0]


def test_a_tampered_release_is_not_countersigned(home: Path, model: Path, tmp_path: Path) -> None:
    _, bob_file, bob_public = somebody(tmp_path, "bob")
    enrol_key(ChangeRequest(home, keys=(str(bob_file),)), phrase, public=bob_public)
    release = make_unmarked(home, model, tmp_path / "out")
    claims = (release / "claims.jsonl").read_bytes()
    (release / "config.json").write_text("{}")
    refused = weightmark("keys", "cosign", release, "--key", bob_file, "--json", home=home)
    assert (refused.code, refused.error["code"]) == (1, "digest")
    assert (release / "claims.jsonl").read_bytes() == claims


def test_thresholds_count_from_their_own_index_on(home: Path, model: Path, tmp_path: Path) -> None:
    first = make_unmarked(home, model, tmp_path / "first")
    enrol_key(ChangeRequest(home), phrase)
    set_threshold(ChangeRequest(home), phrase, 2)
    trust = exported(home, tmp_path / "acme.trust")
    assert "threshold acme 2 3\n" in trust.read_text()
    assert trusting(first, trust).verified
    rotate_keys(ChangeRequest(home), phrase)  # both keys are in this home and sign
    assert parse_trust(Home.open(home).trust_path.read_text()).thresholds == {"acme": ((3, 2),)}


def test_a_retired_key_is_kept_and_never_comes_back(home: Path, tmp_path: Path) -> None:
    added = enrol_key(ChangeRequest(home), phrase, algorithm="ed25519")
    assert added.current != added.key
    retire_key(ChangeRequest(home), phrase, str(added.key))
    listed = {key.name: key for key in list_keys(home)}
    name = f"owner-{str(added.key)[:16]}.key"
    assert listed[name].purpose == "out of use from entry 3 on"
    with pytest.raises(KeyEventError, match="one that this home signs with"):
        revoke_key(ChangeRequest(home), phrase, str(added.current))
    with pytest.raises(InputError, match="no key"):
        retire_key(ChangeRequest(home), phrase, "ffff" * 16)
    with pytest.raises(KeyEventError, match="would leave 0 keys"):
        retire_key(ChangeRequest(home), phrase, str(added.current))


def test_a_crash_between_log_and_home_is_put_right_and_no_second_rotation_made(home: Path, tmp_path: Path) -> None:
    before = Path(shutil.copytree(home, tmp_path / "before"))
    change = rotate_keys(ChangeRequest(home), phrase)
    new = f"owner-{str(change.key)[:16]}"
    for suffix, placed in ((".key", "owner.key"), (".pub", "owner.pub")):
        shutil.copy(home / placed, before / f"{new}{suffix}")  # made before the log was asked
    shutil.rmtree(before / "registry")
    shutil.copytree(home / "registry", before / "registry")  # and the log had it
    for cut in range(3):
        crashed = Path(shutil.copytree(before, tmp_path / f"crashed {cut}"))
        if cut > 0:
            os.replace(crashed / f"{new}.key", crashed / "owner.key")
        if cut > 1:
            shutil.copy(before / "owner.key", crashed / f"owner-{Home.open(before).public_key.key_id[:16]}.key")
        finished = rotate_keys(ChangeRequest(crashed), phrase)
        assert (finished.version, finished.index, finished.key) == (2, 1, change.key)
        opened = Home.open(crashed)
        assert opened.private_key(PHRASE).public == opened.public_key == Home.open(home).public_key
        assert opened.trust().owners == Home.open(home).trust().owners


def test_a_changed_passphrase_opens_the_keys_beside_too(home: Path) -> None:
    enrol_key(ChangeRequest(home), phrase)
    names = change_passphrase(home, phrase, lambda: b"another one")
    assert len([name for name in names if name.startswith("owner-")]) == 1
    rotate_keys(ChangeRequest(home), lambda: b"another one")
    with pytest.raises(InputError, match="passphrase"):
        rotate_keys(ChangeRequest(home), phrase)


def test_own_lines_of_the_trust_file_are_renewed_and_others_left(home: Path) -> None:
    opened = Home.open(home)
    text = opened.trust_path.read_text()
    friend = generate("p256").public
    other = f"# a friend\nowner friend {to_base64(friend.der)}  # met in Graz\n"
    opened.trust_path.write_text(text + other)
    enrol_key(ChangeRequest(home), phrase)
    renewed = Home.open(home).trust_path.read_text()
    assert other in renewed
    assert len(Home.open(home).trust().owners["acme"]) == 2
    assert Home.open(home).trust().owners["friend"] == (friend,)


def test_old_trust_files_are_warned_of_and_then_refused(home: Path, model: Path, tmp_path: Path) -> None:
    release = make_unmarked(home, model, tmp_path / "out")
    trust = exported(home, tmp_path / "acme.trust")
    line = next(line for line in trust.read_text().split("\n") if line.startswith("viewed"))

    def aged(days: float) -> Path:
        at = datetime.now(UTC) - timedelta(days=days)
        old = " ".join([*line.split(" ")[:3], f"{at:%Y-%m-%dT%H:%M:%SZ}"])
        place = tmp_path / f"{days}.trust"
        place.write_text(trust.read_text().replace(line, old))
        return place

    assert weightmark("verify", release, "--trust", aged(6)).out.count("warning:") == 0
    told = weightmark("verify", release, "--trust", aged(8))
    assert (told.code, told.out.count("warning: the trust file is 8 days old")) == (0, 1)
    refused = weightmark("verify", release, "--trust", aged(31), "--json")
    assert (refused.code, refused.error["code"]) == (1, "stale-view")
    assert "keys export" in refused.error["hint"]
    assert weightmark("verify", release, "--trust", aged(31), "--max-view-age", "40").code == 0
    assert weightmark("verify", release, "--trust", aged(3), "--max-view-age", "2").code == 1
    assert "warning" in weightmark("verify", release, "--trust", aged(3), "--warn-view-age", "2").out
    with pytest.raises(StaleViewError):
        trusting(release, aged(31))
    untold = tmp_path / "untold.trust"
    untold.write_text(trust.read_text().replace(line, ""))
    assert "does not say how old it is" in weightmark("verify", release, "--trust", untold).out


def test_the_commands_answer_in_both_forms(home: Path, tmp_path: Path) -> None:
    added = weightmark("keys", "enrol", "--json", home=home)
    assert added.code == 0
    assert added.document["index"] == 1
    assert set(added.document["signers"]) == {added.document["current"], added.document["key"]}
    assert "2 keys must sign" in weightmark("keys", "threshold", "2", home=home).out
    draft = tmp_path / "draft.json"
    drafted = weightmark("keys", "rotate", "--draft", draft, "--threshold", "1", home=home)
    assert drafted.code == 0
    assert "keys that must sign from then on: 1" in drafted.out
    assert weightmark("keys", "rotate", "--draft", draft, home=home).code == 2
    assert weightmark("keys", "submit", draft, home=home).out.startswith("ROTATED")
    repeated = weightmark("keys", "submit", draft, "--json", home=home)
    assert repeated.document["index"] == 3  # it is in the log already, and nothing changes
    assert weightmark("keys", "retire", added.document["key"], home=home).out.startswith("RETIRED")
    refused = weightmark("keys", "threshold", "5", "--json", home=home)
    assert (refused.code, refused.error["code"]) == (2, "input")


def test_a_leaked_secret_marks_nothing_new_and_old_marks_are_found_with_a_note(home: Path, tmp_path: Path) -> None:
    opened = Home.open(home)
    old_secret = opened.owner_secret(PHRASE)
    model = write_model(tmp_path / "model", random_weights(seed=5))
    before = make_release_of(home, model, tmp_path / "before")
    change = replace_leaked_secret(ChangeRequest(home), phrase, from_index=1)
    assert change.kind == "secret"
    assert Home.open(home).owner_secret(PHRASE) != old_secret
    (kept,) = Home.open(home).former_secrets
    assert Home.open(home).owner_secret(PHRASE, name=kept.name) == old_secret
    again = make_release_of(home, model, tmp_path / "again")
    assert (again.release, again.copies[0].copy) == (before.release, before.copies[0].copy)
    assert any("leaked: from log entry 1 on" in warning for warning in again.warnings)
    other = write_model(tmp_path / "other", random_weights(seed=6))
    fresh = make_release_of(home, other, tmp_path / "fresh")
    assert not any("leaked" in warning for warning in fresh.warnings)
    old = check(CheckRequest(home, str(tmp_path / "before")), phrase)
    assert (old.verdict, old.release) == ("ours", before.release)
    assert any("leaked: from log entry 1 on" in reason for reason in old.reasons)
    stranger = {}
    for name in ("before", "fresh"):
        request = CheckRequest(home, str(tmp_path / name), evidence=tmp_path / f"{name}.json")
        assert check(request, phrase).evidence_path
        stranger[name] = verify_evidence(EvidenceRequest(request.evidence, home, suspect=tmp_path / name))
        assert stranger[name].holds
    assert any("leaked: from log entry 1 on" in reason for reason in stranger["before"].reasons)
    assert not any("leaked" in reason for reason in stranger["fresh"].reasons)
    new = check(CheckRequest(home, str(tmp_path / "fresh")), phrase)
    assert (new.verdict, new.release) == ("ours", fresh.release)
    assert not any("leaked: from" in reason for reason in new.reasons)
    assert audit(AuditRequest(home)).whole


def make_release_of(home: Path, model: Path, out: Path) -> ReleaseResult:
    return release_model(ReleaseRequest(home, model, out, recipients=("Globex",)), phrase)


def test_a_key_in_a_store_follows_one_in_a_file_and_the_other_way(
    home: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_credentials(monkeypatch)
    old = Home.open(home).public_key
    settings = (home / "settings.toml").read_text()
    with FakeKms() as kms:
        reference = kms.make("release", "p384")
        change = rotate_keys(ChangeRequest(home), phrase, reference=reference)
        opened = Home.open(home)
        assert opened.stores.owner_key == reference
        assert (opened.public_key.key_id, opened.public_key.algorithm) == (change.key, "p384")
        assert not (home / "owner.key").exists()
        assert [(one.public, one.reference) for one in home_keys(opened)] == [
            (opened.public_key, reference),
            (old, None),
        ]
        release = make_unmarked(home, model, tmp_path / "out")
        assert trusting(release, exported(home, tmp_path / "acme.trust")).key == change.key
        back = rotate_keys(ChangeRequest(home), phrase)
    opened = Home.open(home)
    assert (opened.stores.owner_key, opened.public_key.key_id) == (None, back.key)
    assert (home / "settings.toml").read_text() == settings
    assert [one.reference for one in home_keys(opened)].count(reference) == 1
    assert opened.private_key(PHRASE).public == opened.public_key
    with pytest.raises(InputError, match="is a key file"):
        rotate_keys(ChangeRequest(home), phrase, reference=str(tmp_path / "some.pem"))
