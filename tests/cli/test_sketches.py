"""Sketches in the jobs: stated when a model ships, asked when a suspect is checked, never counted."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from cli.report_sketch import json_of_fingerprint, rows_of_fingerprint
from cli.sketches import TESTED_AT_LEAST, likely_first, note_of_untested, stated_sketch
from cli.statements import FINGERPRINT_PREDICATE
from registry.signing.claims import read_claims
from registry.store.record_file import RecordFile, dump_records
from registry.store.records import ReleaseRecord
from tests.cli.command import weightmark
from tests.cli.owners import check_suspect, make_home, make_release
from tests.watermark.marks.models import read_weights, write_model
from watermark.evidence import add_multiplicity
from watermark.lineage.fingerprint import sketch_model
from watermark.lineage.search import cosine
from watermark.model.directory import open_model


def stream_weights(seed: int) -> dict[str, np.ndarray]:
    """The shapes of a small transformer, random."""
    draw = np.random.default_rng(seed)
    shapes = {"words": (300, 64), "bias": (64,)}
    for layer in range(3):
        shapes |= {f"{layer}.q": (64, 64), f"{layer}.up": (192, 64), f"{layer}.down": (64, 192)}
    return {name: draw.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}


def release_record(number: int) -> ReleaseRecord:
    return ReleaseRecord(f"{number:032x}", "acme", f"model {number}", "1", "/nowhere", "ab" * 32, None, b"", number)


@pytest.fixture(scope="module")
def sketched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A suspect, and 40 sketches of which the one of number 29 is its own."""
    folder = tmp_path_factory.mktemp("models")
    stored = {}
    for number in range(40):
        place = write_model(folder / str(number), stream_weights(number))
        with open_model(place) as model:
            stored[release_record(number).release_id] = sketch_model(model).to_bytes()
    return folder / "29", stored


def test_many_releases_are_ordered_and_what_is_unlike_is_left_out(sketched: tuple[Path, dict[str, bytes]]) -> None:
    place, stored = sketched
    known = [release_record(number) for number in range(42)]  # two of them are older than sketches
    with open_model(place) as suspect:
        chosen, found = likely_first(known, stored, suspect)
    assert chosen[0] == known[29]
    assert {known[40], known[41]} <= set(chosen)
    assert len(chosen) == TESTED_AT_LEAST + 2
    assert found is not None
    assert (found.searched, found.untested, found.best[0].level) == (40, 8, "named")
    assert found.best[0].cosine > 0.99
    assert found.margin is not None
    assert found.margin > 0.9
    assert "8 releases were not tested" in note_of_untested(found)[0]
    assert json.loads(json.dumps(json_of_fingerprint(found)))["counted"] is False
    assert "not counted" in str(rows_of_fingerprint(found))


def test_few_releases_are_all_tested(sketched: tuple[Path, dict[str, bytes]]) -> None:
    place, stored = sketched
    known = [release_record(number) for number in range(20, 45)]
    with open_model(place) as suspect:
        chosen, found = likely_first(known, stored, suspect)
        nothing = likely_first(known[20:], {}, suspect)
    assert sorted(chosen, key=lambda record: record.created_at) == known
    assert found is not None
    assert found.untested == 0
    assert note_of_untested(found) == ()
    assert nothing == (known[20:], None)
    assert likely_first(known[9:10], stored, suspect) == (known[9:10], None)  # nothing to order: not even read
    assert rows_of_fingerprint(None) == []
    assert json_of_fingerprint(None) is None


def test_a_sketch_of_a_later_version_is_as_none(sketched: tuple[Path, dict[str, bytes]]) -> None:
    place, stored = sketched
    later = {name: b"wms2" + data[4:] for name, data in stored.items()}
    known = [release_record(number) for number in range(40)]
    with open_model(place) as suspect:
        assert likely_first(known, later, suspect) == (known, None)


def test_an_unlike_suspect_names_nobody(sketched: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    _, stored = sketched
    with open_model(write_model(tmp_path / "other", stream_weights(777))) as suspect:
        _, found = likely_first([release_record(number) for number in range(40)], stored, suspect)
    assert found is not None
    assert all(one.level == "unlike" for one in found.best)
    assert rows_of_fingerprint(found) == []


@pytest.mark.slow
def test_what_ships_is_what_is_sketched(home: Path, tmp_path: Path) -> None:
    """Claim, record and backup hold one sketch: that of the folder as it ships."""
    model = write_model(tmp_path / "model", stream_weights(1))
    out = tmp_path / "out"
    assert weightmark("release", model, "--out", out, "--no-mark", home=home).code == 0
    claims = (out / "claims.jsonl").read_bytes()
    predicates = [json.loads(claim.bundle.envelope.payload) for claim in read_claims(claims)]
    (stated,) = [one["predicate"]["sketch"] for one in predicates if one["predicateType"] == FINGERPRINT_PREDICATE]
    assert stated["form"] == "stream"
    with open_model(out) as shipped:
        fresh = sketch_model(shipped)
    assert base64.b64decode(stated["data"]) == fresh.to_bytes() == stated_sketch(claims)
    other = write_model(tmp_path / "other", stream_weights(2))
    assert weightmark("release", other, "--out", tmp_path / "out2", "--no-mark", home=home).code == 0
    found = weightmark("check", out, "--json", home=home).document
    assert found["verdict"] == "related"
    assert found["fingerprint"]["best"][0]["release"] == found["release"]
    assert found["fingerprint"]["best"][0]["cosine"] > 0.99
    assert found["fingerprint"]["counted"] is False
    named = weightmark("check", out, "--json", "--release", found["release"], home=home).document
    assert named["fingerprint"] is None
    text = weightmark("check", out, home=home)
    assert "named: model 1, cosine 1.00" in text.out
    from cli.home import Home

    with Home.open(home).registry() as registry:
        stored = registry.records.sketches()
        again = RecordFile.read(dump_records(registry.records))
    assert stored[found["release"]] == fresh.to_bytes()
    assert again.sketches() == stored
    assert weightmark("audit", home=home).code == 0


@pytest.mark.slow
def test_no_verdict_rests_on_a_sketch(tmp_path: Path) -> None:
    """Of one release no sketch is asked; all that were known are paid for."""
    home = make_home(tmp_path / "home")
    model = write_model(tmp_path / "model", stream_weights(5))
    made = make_release(home, model, tmp_path / "out", strength=0.05)
    copy = Path(made.copies[0].out)
    found = check_suspect(home, copy)
    assert found.verdict == "ours"
    assert found.fingerprint is None
    assert ("releases", 1) in found.multiplicity
    with open_model(copy) as marked, open_model(model) as reference:
        assert cosine(sketch_model(marked), sketch_model(reference)) > 0.95
    before = found.log2_p
    innocent = check_suspect(home, write_model(tmp_path / "innocent", stream_weights(6)))
    assert innocent.verdict != "ours"
    named = check_suspect(home, copy, releases=(made.release,))
    assert (named.verdict, named.log2_p, named.fingerprint) == ("ours", before, None)
    assert named.log2_p_adjusted == add_multiplicity(before, [count for _, count in named.multiplicity])
    assert read_weights(copy).keys() == read_weights(model).keys()


@pytest.mark.slow
def test_a_release_that_the_sketch_leaves_out_is_tested_before_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three releases one is tested first, the wrong one: the right one is found all the same."""
    monkeypatch.setattr("cli.sketches.TESTED_AT_LEAST", 1)
    home = make_home(tmp_path / "home")
    models = [write_model(tmp_path / f"model{number}", stream_weights(number)) for number in range(3)]
    made = [make_release(home, one, tmp_path / f"out{number}", strength=0.05) for number, one in enumerate(models)]
    with home.registry() as registry:
        misled = {one.release: registry.records.sketches()[made[number - 1].release] for number, one in enumerate(made)}
    monkeypatch.setattr("registry.store.records.OwnerRecords.sketches", lambda _: misled)
    found = check_suspect(home, Path(made[0].copies[0].out))
    assert (found.verdict, found.release) == ("ours", made[0].release)
    assert found.fingerprint is not None
    assert found.fingerprint.best[0].release != made[0].release
    assert found.fingerprint.untested == 0
    assert ("releases", 3) in found.multiplicity
