"""`release --calibrate`: a mark shaped by the owner's measure costs less, shows no less, and accuses nobody else."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from cli.calibrate import Subject, calibrate
from cli.check import CheckRequest, check_unlocked
from cli.evidence import EvidenceRequest, verify_evidence
from cli.evidence_file import read_evidence, write_evidence
from cli.home import Home
from cli.mark_record import Calibration, MarkRecord
from cli.owner_secrets import OwnerSecrets
from cli.rehearse import RECIPIENT, RehearseRequest, RehearseResult, rehearse
from cli.release import ReleaseRequest, release
from cli.report_home import json_of_show, text_of_show
from cli.report_models import json_of_release, text_of_release
from cli.show import show
from cli.strengths import choose_strengths
from registry.store.records import ReleaseRecord
from tests.watermark.marks.models import MarkedModel, mark_model, random_weights, read_weights, write_model
from tests.watermark.marks.test_detect import shown_in
from watermark.errors import ConflictError, DocumentError, InputError, KeyMismatchError
from watermark.marks.detect import BLIND, DIFFERENCE
from watermark.marks.geometry import Geometry
from watermark.marks.survey import survey
from watermark.model.directory import open_model

pytestmark = pytest.mark.slow  # scrypt costs a second at each unlocking and each mark

STRENGTH = 0.03
PHRASE = b"a rehearsal keeps no secret"
#: A network of two layers and a readout that hardly matters; how far its answers move is the loss.
MEASURES = """
from pathlib import Path
import numpy as np
from tests.watermark.marks.models import read_weights

INPUTS = np.random.default_rng(9).normal(0, 1, (192, 32))

def answers(folder):
    return answers_of(read_weights(Path(folder)))

def answers_of(weights):
    hidden = np.maximum(weights["up"] @ INPUTS, 0)
    return weights["down"] @ hidden + 0.02 * (weights["mix"] @ INPUTS)

WANTED = answers({reference!r}) + 0.1 * np.random.default_rng(4).normal(0, 1, (192, 32))

def quality(folder):
    with open({calls!r}, "a") as file:
        file.write("x")
    assert (Path(folder) / "config.json").exists()
    return -float(np.square(answers(folder) - WANTED).mean())

def fails_once(folder):
    if Path({calls!r}).stat().st_size == 6:
        raise RuntimeError("power cut")
    return quality(folder)

def constant(folder):
    return 0.5

def coarse(folder):
    return round(quality(folder))

def not_a_number(folder):
    return float("nan")

def no_number(folder):
    return "good"

def raises(folder):
    raise ValueError("no such layer")
"""


@dataclass(frozen=True)
class World:
    """What a rehearsal left: an owner who released the model shaped; and the same model marked at one strength."""

    folder: Path
    rehearsed: RehearseResult
    home: Home
    record: ReleaseRecord
    secrets: OwnerSecrets
    uniform: MarkedModel

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def shaped(self) -> Path:
        return self.rehearsed.work / "copy"

    @property
    def calls(self) -> Path:
        """One letter for each time that the measure was asked."""
        return self.folder / "calls"

    def check(self, suspect, **fields):
        """What `check` says, without unlocking the home again."""
        return check_unlocked(CheckRequest(self.home.path, str(suspect), **fields), self.home, PHRASE, self.secrets)

    def release(self, out, **fields):
        """The owner releases the model once more."""
        return release(ReleaseRequest(self.home.path, self.model, out, **fields), lambda: PHRASE)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    model = write_model(folder / "model", random_weights(seed=61))
    (model / "config.json").write_text("{}")
    text = MEASURES.format(reference=str(model), calls=str(folder / "calls"))
    (folder / "calibrated_measures.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        asked = measure("quality")
        rehearsed = rehearse(
            RehearseRequest(
                model,
                folder / "work",
                strength=STRENGTH,
                quality=asked,
                families=("prune, 2 of 4",),
                calibrate=asked,
            )
        )
        home = Home.open(folder / "work" / "owner")
        with home.registry() as registry:
            record = registry.records.list_releases()[0]
        uniform = mark_model(model, folder / "uniform", (RECIPIENT,), STRENGTH)
        yield World(folder, rehearsed, home, record, OwnerSecrets(home, PHRASE), uniform)


def measure(name):
    return f"python:calibrated_measures:{name}"


def loss(weights):
    """Mean squared error of a network's answers; takes its weights."""
    from calibrated_measures import WANTED, answers_of

    return float(np.square(answers_of(weights) - WANTED).mean())


def noisy(folder, sigma, strengths=None):
    """The weights of a folder with noise of `sigma` deviations, or so many times each tensor's own strength."""
    draw = np.random.default_rng(5)
    return {
        name: (
            w + sigma * (1 if strengths is None else strengths.get(name, 0)) * draw.normal(0, w.std(), w.shape)
        ).astype(np.float32)
        for name, w in read_weights(folder).items()
    }


def test_a_shaped_mark_costs_less_at_no_fewer_bits(world, tmp_path):
    copy = world.uniform.copies[0]
    base, with_shaped, with_uniform = (loss(read_weights(one)) for one in (world.model, world.shaped, copy))
    assert with_shaped - base < 0.6 * (with_uniform - base)
    calibration = MarkRecord.from_document(world.record.mark_document).calibration
    assert calibration.cost < 0.5 * calibration.cost_uniform
    assert calibration.cost_uniform == pytest.approx(with_uniform - base, rel=0.3)
    assert world.rehearsed.expected_log2_p <= world.uniform.plan.expected_log2_p
    noisy_copy, noisy_shaped = (
        write_model(tmp_path / name, noisy(one, 0.4)) for name, one in (("copy", copy), ("shaped", world.shaped))
    )
    for suspect, like in ((world.shaped, copy), (noisy_shaped, noisy_copy)):
        found = world.check(suspect)
        assert (found.verdict, found.recipient) == ("ours", RECIPIENT)
        bits = {test.name: -test.log2_p for test in found.tests}
        plain = {test.name: -test.log2_p for test in shown_in(world.uniform, like).values()}
        # One key each: the root of the bits is a normal number of deviation 0.85 where noise decides.
        assert bits[DIFFERENCE] ** 0.5 > 0.985 * plain[DIFFERENCE] ** 0.5 - 4.5 * 0.85 * 2**0.5
        assert bits[BLIND] ** 0.5 > plain[BLIND] ** 0.5 - 4.5 * 0.85 * 2**0.5


def test_noise_shaped_by_a_map_that_leaked_does_not_erase(world, tmp_path):
    mark = MarkRecord.from_document(world.record.mark_document)
    strengths = {mark.names[tensor.digest]: tensor.alpha for tensor in mark.geometry.marked}

    # As dear as plain noise of 0.4 deviations.
    wanted = loss(noisy(world.shaped, 0.4))
    times = next(times for times in 1.15 ** np.arange(60) if loss(noisy(world.shaped, times, strengths)) > wanted)
    suspect = write_model(tmp_path / "suspect", noisy(world.shaped, times, strengths))
    found = world.check(suspect)
    assert (found.verdict, found.recipient) == ("ours", RECIPIENT)
    assert all(test.log2_p > -20 for test in shown_in(world.uniform, suspect).values())


def test_a_rehearsal_attacks_the_shaped_copy(world):
    assert {point.key for point in world.rehearsed.points} == {"untouched", "prune, 2 of 4 50 %"}
    assert all(point.verdict == "ours" and point.recipient for point in world.rehearsed.points)


def test_nobody_else_is_accused(world, tmp_path):
    innocent = write_model(tmp_path / "innocent", random_weights(seed=961))
    for suspect in (innocent, world.uniform.copies[0]):
        found = world.check(suspect)
        assert found.verdict != "ours"
        assert found.log2_p_adjusted is None or found.log2_p_adjusted > -20
    # And another owner's key, of one strength, in the shaped copy.
    assert all(test.log2_p > -20 for test in shown_in(world.uniform, world.shaped).values())


def test_the_same_again_measures_nothing_and_gives_the_same_bytes(world, tmp_path):
    calls = world.calls.stat().st_size
    again = world.release(
        tmp_path / "again", recipients=(RECIPIENT,), name="rehearsal", strength=STRENGTH, calibrate=measure("quality")
    )
    assert world.calls.stat().st_size == calls
    first = {path.relative_to(world.shaped): path for path in world.shaped.rglob("*") if path.is_file()}
    assert all((tmp_path / "again" / name).read_bytes() == path.read_bytes() for name, path in first.items())
    assert again.expected_log2_p == world.rehearsed.expected_log2_p
    assert not list((world.home.path / "calibrations").iterdir())
    request = ReleaseRequest(world.home.path, world.model, tmp_path / "again")
    stated = json_of_release(request, again)["calibration"]
    assert stated["cost"] < stated["cost_uniform"]
    assert stated["least_strength"] < stated["uniform_strength"] == STRENGTH < stated["most_strength"] <= 0.1
    assert any("calibrated" in line for line in text_of_release(request, again))
    assert "calibration" not in json_of_release(request, replace(again, calibration=None))
    shown = show(world.home.path, again.release)
    assert json_of_show(shown)["calibration"] == stated
    assert any("calibrated" in line for line in text_of_show(shown))


def test_another_map_for_the_same_reference_is_a_conflict(world, tmp_path):
    with pytest.raises(ConflictError, match="strengths chosen by calibration") as raised:
        world.release(tmp_path / "out", strength=STRENGTH)
    assert "--calibrate" in raised.value.hint
    calls, mark = world.calls.stat().st_size, MarkRecord.from_document(world.record.mark_document)
    flat = replace(world.record, mark_document=replace(mark, calibration=None).document())
    asked = {"calibrate": measure("quality")}
    with open_model(world.model) as model:
        subject = Subject(model, survey(model))
        for before, fields, message in (
            (world.record, {"strength": 0.04, **asked}, "another strength"),
            (world.record, asked, "another strength"),
            (flat, {"strength": STRENGTH, **asked}, "without calibration"),
            (replace(world.record, mark_root=None), {"strength": STRENGTH, **asked}, "without a mark"),
        ):
            request = ReleaseRequest(world.home.path, world.model, tmp_path / "out", **fields)
            with pytest.raises(ConflictError, match=message):
                choose_strengths(request, world.home, before, before.release_id, subject, None)
    assert world.calls.stat().st_size == calls
    with pytest.raises(InputError, match="without a mark"):
        world.release(tmp_path / "out", mark=False, **asked)


def calibrated(folder, name, notes=None, told=None):
    with open_model(folder) as model:
        telling = None if told is None else lambda done, total: told.append((done, total))
        return calibrate(Subject(model, survey(model)), STRENGTH, measure(name), notes, telling)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "failed: ValueError: no such layer"),
        ("not_a_number", "gave nan"),
        ("no_number", "gave 'good', which is no number"),
        ("constant", "does not see what a mark costs"),
        ("coarse", "does not see what a mark costs"),
        ("absent", "has no function"),
    ],
)
def test_a_measure_that_cannot_be_used_is_named(world, name, message):
    with pytest.raises(InputError, match=message) as raised:
        calibrated(world.model, name)
    assert name in str(raised.value)


def test_a_calibration_that_was_cut_goes_on(world, tmp_path):
    notes, told = tmp_path / "notes" / "one.jsonl", []
    world.calls.write_text("")
    with pytest.raises(InputError, match="power cut"):
        calibrated(world.model, "fails_once", notes)
    noted = len(notes.read_text().splitlines()) - 1
    assert noted == 4
    notes.write_text(notes.read_text() + '{"trial": "cut in the mid')
    world.calls.write_text("x" * 10)
    found = calibrated(world.model, "fails_once", notes, told)
    asked = world.calls.stat().st_size - 10
    assert found[1].trials == asked + noted
    assert told[-1][0] == told[-1][1]
    # Another measure, or a model that is worth something else now, takes nothing from the notes.
    assert (found[0], replace(found[1], measure="")) == tuple(
        replace(one, measure="") if isinstance(one, Calibration) else one
        for one in calibrated(world.model, "quality", notes)
    )
    assert world.calls.stat().st_size - 10 == asked + found[1].trials


def test_a_stranger_verifies_evidence_and_a_changed_map_breaks_the_root(world, tmp_path):
    file = tmp_path / "case.json"
    world.check(world.shaped, evidence=file)
    request = EvidenceRequest(file, Path("/nowhere"), world.shaped, None, world.home.trust_path)
    found = verify_evidence(request)
    assert (found.holds, found.recipient) == (True, RECIPIENT)
    body, _, _ = read_evidence(file.read_bytes())
    fields = json.loads(body.geometry)
    assert fields["statistic"] == 2
    assert len({one["strength_ppm"] for one in fields["marked"]}) > 1
    fields["statistic"] = 1  # the flat sums of a mark of one strength
    with pytest.raises(DocumentError):
        Geometry.from_document(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
    fields["statistic"] = 2
    fields["marked"][0]["strength_ppm"] += 1
    changed = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    key = world.home.private_key(PHRASE)
    file.write_bytes(write_evidence(replace(body, geometry=changed), key))
    with pytest.raises(KeyMismatchError):
        verify_evidence(request)
