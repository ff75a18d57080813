"""Whose order: a stamp that the reader believes makes it independent, and 64 bits enough where it is older."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from cli.check import CheckRequest, check
from cli.evidence import EvidenceRequest, EvidenceResult, verify_evidence
from cli.evidence_file import read_evidence, write_evidence
from cli.home import Home
from cli.release import ReleaseResult
from cli.verify import VerifyRequest, VerifyResult, verify
from registry.signing.claims import read_claims, write_claims
from registry.signing.stamp_claims import with_stamps
from tests.cli.owners import PASSPHRASE, check_suspect, make_home, make_release, phrase
from tests.stamping_authority import LocalTsa, new_tsa, serving
from tests.watermark.marks.models import random_weights, read_weights, write_model
from watermark.errors import CapacityError, DigestError, DocumentError, InputError, UnavailableError

pytestmark = pytest.mark.slow  # scrypt costs a second at each unlocking and each mark

TODAY = datetime.now(UTC)
LATER, EARLIER = (TODAY + timedelta(days=2)).strftime("%Y-%m-%d"), (TODAY - timedelta(days=2)).strftime("%Y-%m-%d")
DOWN = "http://127.0.0.1:1/"


@dataclass(frozen=True)
class World:
    """An owner who has a release stamped, an authority that he believes, and files of whom others believe."""

    home: Home
    tsa: LocalTsa
    model: Path
    out: Path
    result: ReleaseResult
    folder: Path

    @property
    def trust_with_tsa(self) -> Path:
        return self.home.trust_path

    @property
    def trust_without(self) -> Path:
        path = self.folder / "stranger.txt"
        lines = self.home.trust_path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith("tsa ")))
        return path


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTsa]:
    with serving(new_tsa(tmp_path_factory.mktemp("tsa") / "clock")) as running:
        yield running


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tsa: LocalTsa) -> World:
    folder = tmp_path_factory.mktemp("world")
    home = make_home(folder / "home")
    with open(home.trust_path, "a") as file:
        file.write(f"{tsa.line}\n")
    model = write_model(folder / "model", random_weights(seed=41))
    out = folder / "out"
    result = make_release(home, model, out, recipients=("Globex",), strength=0.05, tsa=(tsa.url,))
    return World(home, tsa, model, out, result, folder)


@pytest.fixture(scope="module")
def weak(world: World) -> Path:
    """A suspect so damaged that it shows about 98 bits: more than 64, fewer than 128.

    Keys are drawn anew in each run and move the bits by 20 either way, so the damage is fitted to what shows.
    """
    draw = np.random.default_rng(7)
    weights = read_weights(world.out)
    noise = {name: w.std() * draw.normal(0, 1, w.shape) for name, w in weights.items()}
    damage = 2.0
    for turn in range(6):
        noisy = {name: (w + damage * noise[name]).astype(np.float32) for name, w in weights.items()}
        suspect = write_model(world.folder / f"weak{turn}", noisy)
        shown = -(check_suspect(world.home, suspect).log2_p or 0.0)
        if 88 <= shown <= 108:
            return suspect
        damage *= float(np.sqrt(max(shown, 10.0) / 98))
    raise AssertionError(f"no damage leaves about 98 bits; the last one left {shown:.0f}")


def verified(folder: Path, trust: Path, **fields: object) -> VerifyResult:
    return verify(VerifyRequest(folder, trust=trust, **fields))  # type: ignore[arg-type]


def test_release_is_known_to_others_and_so_is_every_part(world: World) -> None:
    order = world.result.copies[0].order
    assert (order.kind, order.source) == ("independent", "rfc3161 clock")
    assert len(world.tsa.asked) >= 3
    found = verified(world.out, world.trust_with_tsa)
    assert (found.order, found.time_source) == ("independent", "rfc3161 clock")
    assert [what for what, _ in found.stamps] == ["the model signature", "claim 2", "the checkpoint"]
    stranger = verified(world.out, world.trust_without)
    assert (stranger.order, stranger.time_source, stranger.stamps) == ("self-asserted", "owner", ())
    assert len(stranger.stamp_notes) == 3
    by_root = verified(world.out, world.trust_without, tsa_roots=(world.tsa.root_pem,))
    assert (by_root.order, by_root.time_source) == ("independent", "rfc3161 clock root")


def test_same_release_again_gives_the_same_bytes_and_asks_nobody(world: World, tmp_path: Path) -> None:
    asked = len(world.tsa.asked)
    again = make_release(world.home, world.model, tmp_path / "out", recipients=("Globex",), strength=0.05, tsa=(DOWN,))
    assert again.copies[0].order == world.result.copies[0].order
    assert len(world.tsa.asked) == asked
    for name in ("model.sig", "claims.jsonl", "release.tlog-proof", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (world.out / name).read_bytes()


def test_authority_that_is_down_stops_a_release_before_the_log_knows_of_it(tmp_path: Path, tsa: LocalTsa) -> None:
    home = make_home(tmp_path / "home")
    model = write_model(tmp_path / "model", random_weights(seed=5, width=96))
    with home.registry() as registry:
        size = registry.size
    with pytest.raises(UnavailableError, match="out of reach") as caught:
        make_release(home, model, tmp_path / "out", tsa=(tsa.url, DOWN))
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out").exists()
    with home.registry() as registry:
        assert registry.size == size
        assert registry.records.copies(registry.records.list_releases()[0].release_id) == []


def test_authority_that_goes_down_after_the_log_leaves_a_release_to_be_finished(tmp_path: Path, tsa: LocalTsa) -> None:
    """The checkpoint cannot be stamped before the log has signed it: the same command again loses nothing."""
    home = make_home(tmp_path / "home")
    model = write_model(tmp_path / "model", random_weights(seed=6, width=96))
    first = len(tsa.asked)

    def two_stamps(request: bytes) -> tuple[int, dict[str, str], bytes]:
        return (200, {}, tsa.reply(request)) if len(tsa.asked) - first <= 2 else (503, {}, b"")

    tsa.answer = two_stamps
    try:
        with pytest.raises(UnavailableError, match="503"):
            make_release(home, model, tmp_path / "out", tsa=(tsa.url,))
    finally:
        tsa.answer = None
    assert not (tmp_path / "out").exists()
    with home.registry() as registry:
        size = registry.size
    finished = make_release(home, model, tmp_path / "out", tsa=(tsa.url,))
    with home.registry() as registry:
        assert registry.size == size  # the entry was there: none is made twice
    with open(home.trust_path, "a") as file:
        file.write(f"{tsa.line}\n")
    found = verified(tmp_path / "out", home.trust_path)
    assert (found.index, found.order) == (finished.copies[0].index, "independent")


def test_stamps_put_elsewhere_are_refused(world: World, tmp_path: Path) -> None:
    """A stamp of the checkpoint on a claim, and a claim's stamp on the signature: both real, both misplaced."""
    claims = read_claims((world.out / "claims.jsonl").read_bytes())
    mark = next(claim for claim in claims if claim.bundle.stamps)
    for target in ("model.sig", "claims.jsonl"):
        folder = tmp_path / target
        folder.mkdir()
        for file in world.out.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        if target == "model.sig":
            (folder / target).write_bytes(with_stamps((folder / target).read_bytes(), mark.bundle.stamps))
        else:
            first = with_stamps(claims[0].line, mark.bundle.stamps)
            (folder / target).write_bytes(write_claims([first, *(claim.line for claim in claims[1:])]))
        with pytest.raises(DigestError, match="other bytes"):
            verified(folder, world.trust_with_tsa)
        assert verified(folder, world.trust_without).order == "self-asserted"


def test_check_states_the_order_of_the_copy_it_names(world: World) -> None:
    found = check_suspect(world.home, world.out)
    assert (found.verdict, found.recipient) == ("ours", "Globex")
    assert (found.order, found.order_source) == ("independent", "rfc3161 clock")
    assert found.threshold == -128


def test_sixty_four_bits_are_enough_only_after_the_stamp(world: World, weak: Path) -> None:
    source = {"suspect_source": "its page on a hub"}
    late = check_suspect(world.home, weak, suspect_date=LATER, **source)
    assert (late.verdict, late.threshold) == ("ours", -64)
    assert -128 < late.log2_p_adjusted <= -64
    assert late.multiplicity[-1] == ("stamped entries", 2)
    assert any("the lower threshold applies" in reason for reason in late.reasons)
    for fields in ({}, {"suspect_date": EARLIER, **source}):
        found = check_suspect(world.home, weak, **fields)
        assert found.verdict != "ours"
        assert found.threshold == -128
        assert any("say when with --suspect-date" in reason for reason in found.reasons) == (not fields)


def test_without_a_believed_stamp_the_date_changes_nothing(world: World, weak: Path, tmp_path: Path) -> None:
    trust = world.home.trust_path
    kept = trust.read_text()
    try:
        trust.write_text(world.trust_without.read_text())
        found = check_suspect(world.home, weak, suspect_date=LATER, suspect_source="its page")
    finally:
        trust.write_text(kept)
    assert found.verdict != "ours"


@pytest.mark.parametrize("date", ["soon", "2026-13-01", "2026-01-31T08:00:00", ""])
def test_dates_that_are_none(world: World, weak: Path, date: str) -> None:
    with pytest.raises(InputError, match="--suspect-date"):
        check_suspect(world.home, weak, suspect_date=date, suspect_source="x")


def test_a_self_asserted_draw_never_gets_the_lower_threshold(world: World, weak: Path, tmp_path: Path) -> None:
    dated = {"suspect_date": LATER, "suspect_source": "its page on a hub"}
    with pytest.raises(CapacityError, match="128 are needed") as caught:
        check_suspect(world.home, weak, evidence=tmp_path / "case.json", **dated)
    assert "--challenge" in caught.value.hint
    assert not (tmp_path / "case.json").exists()


def test_authority_that_is_down_leaves_the_blocks_of_a_case_unopened(world: World, tmp_path: Path) -> None:
    file = tmp_path / "case.json"
    with pytest.raises(UnavailableError):
        check(CheckRequest(world.home.path, str(world.out), evidence=file, tsa=(DOWN,)), phrase)
    assert not file.exists()
    with world.home.registry() as registry:
        assert registry.records.cases(world.result.release)[-1].opened is None


@pytest.fixture(scope="module")
def challenged(world: World, weak: Path) -> Path:
    """An evidence file about the weak suspect: case logged, challenge by the other side, file stamped.

    It spends every block of the mark, so tests that open some come before.
    """
    dated = {"suspect_date": LATER, "suspect_source": "its page on a hub"}
    case = check_suspect(world.home, weak, case="new", **dated).case
    file = world.folder / "case.json"
    request = CheckRequest(
        world.home.path, str(weak), case=str(case), challenge="5a" * 16, evidence=file, tsa=(world.tsa.url,), **dated
    )
    assert check(request, phrase).evidence_path == str(file)
    return file


def judged(file: Path, trust: Path, suspect: Path | None, **fields: object) -> EvidenceResult:
    return verify_evidence(EvidenceRequest(file, Path("/nowhere"), suspect, None, trust, **fields))  # type: ignore[arg-type]


def test_a_stranger_who_believes_the_clock_needs_sixty_four_bits(world: World, weak: Path, challenged: Path) -> None:
    found = judged(challenged, world.trust_with_tsa, weak)
    assert found.holds
    assert (found.order, found.threshold) == ("independent", -64)
    assert -128 < found.log2_p_adjusted <= -64
    assert any("was stamped at" in reason for reason in found.reasons)
    by_root = judged(challenged, world.trust_without, weak, tsa_roots=(world.tsa.root_pem,))
    assert by_root.holds


def test_a_stranger_who_does_not_needs_all(world: World, weak: Path, challenged: Path) -> None:
    found = judged(challenged, world.trust_without, weak)
    assert not found.holds
    assert (found.order, found.threshold) == ("self-asserted", -128)


def test_the_accused_may_show_an_earlier_date(world: World, weak: Path, challenged: Path) -> None:
    found = judged(challenged, world.trust_with_tsa, weak, suspect_date=EARLIER)
    assert not found.holds
    assert (found.order, found.threshold) == ("independent", -128)
    assert judged(challenged, world.trust_with_tsa, weak, suspect_date="2099-01-01").holds


def test_stamps_in_an_evidence_file_must_be_its_own(world: World, weak: Path, challenged: Path, tmp_path: Path) -> None:
    body, _, _ = read_evidence(challenged.read_bytes())
    key, forged = world.home.private_key(PASSPHRASE), tmp_path / "forged.json"
    assert len(body.stamps) == 1
    unstamped = tmp_path / "unstamped.json"
    unstamped.write_bytes(write_evidence(replace(body, stamps=()), key))
    found = judged(unstamped, world.trust_with_tsa, weak)
    assert (found.holds, found.order) == (False, "self-asserted")
    for stamps, on_file, error in (
        ((world.tsa.stamp(b"another checkpoint"),), (), DigestError),
        ((b"no stamp",), (), DocumentError),
        (body.stamps, (world.tsa.stamp(b"another file"),), DigestError),
        (body.stamps * 20, (), DocumentError),
    ):
        forged.write_bytes(write_evidence(replace(body, stamps=stamps), key, lambda _, made=on_file: made))
        with pytest.raises(error):
            judged(forged, world.trust_with_tsa, weak)
