"""`rehearse`: what it reports is what `check` says, and a run that was cut short goes on."""

import math

import numpy as np
import pytest

from cli.rehearse import RehearseRequest, rehearse
from cli.rehearse_sweep import chosen, sweep
from cli.report_rehearse import exit_code_of_rehearsal, json_of_rehearsal, text_of_rehearsal, write_rehearsal_page
from tests.cli.command import weightmark
from tests.watermark.marks.models import write_model
from watermark.errors import DocumentError, InputError

MEASURE = """
from pathlib import Path
from watermark.model.torch_state import load_state

def quality(folder):
    with open("calls", "a") as file:
        file.write("x")
    state = load_state(Path(folder))
    assert (Path(folder) / "config.json").exists()
    return 2.0 - sum(float((w == 0).float().mean()) for w in state.values()) / len(state)

def erase(state):
    import torch
    return {name: torch.randn_like(w) * w.std() for name, w in state.items()}

def halve(state):
    return {name: w[: len(w) // 2].clone() for name, w in state.items()}

def nothing(folder):
    return "good"
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    draw = np.random.default_rng(11)
    weights = {f"layer.{n}": draw.normal(0, 0.05, (400, 500)).astype(np.float32) for n in range(3)}
    folder = write_model(tmp_path / "model", weights)
    (folder / "config.json").write_text("{}")
    (tmp_path / f"measures_{tmp_path.name}.py").write_text(MEASURE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def measure(tmp_path, name):
    return f"python:measures_{tmp_path.name}:{name}"


def test_a_rehearsal_shows_where_the_mark_ends(model, tmp_path):
    request = RehearseRequest(
        model,
        tmp_path / "work",
        quality=measure(tmp_path, "quality"),
        attacks=(measure(tmp_path, "erase"),),
        families=("noise", "prune, smallest", "rename and re-shard", f"measures_{tmp_path.name}:erase"),
    )
    told = []
    result = rehearse(request, lambda done, total, following: told.append((done, total, following)))
    by_name = {point.key: point for point in result.points}
    untouched, erased = by_name["untouched"], by_name[f"measures_{tmp_path.name}:erase"]
    assert untouched.verdict == "ours"
    assert untouched.recipient
    assert untouched.utility == 1.0
    assert untouched.bits > by_name["noise 10 %"].bits > by_name["noise 80 %"].bits
    assert by_name["rename and re-shard"].bits > 0.95 * untouched.bits
    assert by_name["prune, smallest 90 %"].utility == pytest.approx(1 - 0.9 / 2, abs=0.01)
    assert erased.verdict != "ours"
    assert erased.bits < 16
    assert told[0] == (0, len(result.points), "untouched")
    assert told[-1][:2] == (len(result.points), len(result.points))
    # The attack that erases all keeps the "quality" of this measure: the rehearsal must say so, with exit code 1.
    assert exit_code_of_rehearsal(result) == 1
    assert text_of_rehearsal(result)[0].startswith("ERASED")
    assert json_of_rehearsal(result)["weakest_useful"] == erased.key
    write_rehearsal_page(tmp_path / "page.html", result, model)
    page = (tmp_path / "page.html").read_text()
    assert "ERASED" in page
    assert "<svg" in page


def test_a_rehearsal_goes_on_where_it_was_cut(model, tmp_path):
    request = RehearseRequest(
        model, tmp_path / "work", quality=measure(tmp_path, "quality"), families=("prune, random",)
    )
    first = rehearse(request)
    calls = len((tmp_path / "calls").read_text())
    assert rehearse(request) == first
    assert len((tmp_path / "calls").read_text()) == calls
    notes = tmp_path / "work" / "points.jsonl"
    whole = notes.read_text()
    notes.write_text(whole[:-20])  # as a kill in the middle of a line leaves it
    assert rehearse(request) == first
    assert len((tmp_path / "calls").read_text()) == calls + 1
    assert notes.read_text() == whole


def test_another_rehearsal_in_the_same_folder_is_refused(model, tmp_path):
    request = RehearseRequest(model, tmp_path / "work", families=("prune, 2 of 4",))
    rehearse(request)
    with pytest.raises(InputError, match="another kind"):
        rehearse(RehearseRequest(model, tmp_path / "work", strength=0.05))
    (tmp_path / "work" / "points.jsonl").write_text("{}\n")
    with pytest.raises(DocumentError, match="not a rehearsal's"):
        rehearse(request)
    with pytest.raises(InputError, match="not empty"):
        rehearse(RehearseRequest(model, model))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quality": "measures:quality"}, "names no function"),
        ({"quality": "python:no_such_module_here:f"}, "cannot be imported"),
        ({"quality": "python:math:no_such"}, "has no function"),
        ({"families": ("no such family",)}, "no family of attacks"),
    ],
)
def test_what_cannot_be_used_is_named(model, tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        rehearse(RehearseRequest(model, tmp_path / "work", **changed))


def test_an_attack_that_changes_shapes_has_no_distance(model, tmp_path):
    halve = measure(tmp_path, "halve")
    result = rehearse(RehearseRequest(model, tmp_path / "work", attacks=(halve,), families=(halve[7:],)))
    found = json_of_rehearsal(result)["points"][-1]
    assert (found["quality"], found["utility"], found["verdict"]) == (None, None, "ours")
    write_rehearsal_page(tmp_path / "report.html", result, model)
    assert "halve" in (tmp_path / "report.html").read_text("utf-8")


def test_a_measure_that_gives_no_number_is_refused_before_any_attack(model, tmp_path):
    with pytest.raises(InputError, match="no number"):
        rehearse(RehearseRequest(model, tmp_path / "work", quality=measure(tmp_path, "nothing")))
    assert not (tmp_path / "work" / "points.jsonl").exists()


def test_every_point_has_a_name_of_its_own():
    keys = [point.key for point in sweep({}, {})]
    assert len(keys) == len(set(keys))
    assert [point.key for point in chosen(sweep(None, {}), ("noise",))][:2] == ["untouched", "noise 1 %"]


def test_the_command_answers_in_json(model, tmp_path):
    done = weightmark("rehearse", model, "--work", tmp_path / "w", "--family", "prune, 2 of 4", "--json")
    document = done.document
    assert [point["family"] for point in document["points"]] == ["untouched", "prune, 2 of 4"]
    assert document["measure"] == "distance in weights"
    assert all(math.isfinite(point["utility"]) for point in document["points"])
