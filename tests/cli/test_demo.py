"""The demo tells its story with real commands, and says so when one of them does not end as it should."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.demo import DemoRequest, DemoResult, Played, demo
from cli.demo_progress import training_steps
from cli.report_demo import json_of_demo, showing, text_of_demo
from tests.cli.command import weightmark_process
from watermark.errors import InputError


def result(*codes: tuple[int, int], folder: Path | None = None) -> DemoResult:
    played = tuple(Played(f"weightmark step-{number}", *code, 1.0) for number, code in enumerate(codes))
    return DemoResult(played, 61.4, folder)


@contextmanager
def unseen(_label: str, _total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _steps: None


@pytest.mark.slow
def test_whole_story_ends_as_told_and_leaves_nothing_outside_its_folder(tmp_path: Path) -> None:
    told: list[str] = []
    folder = tmp_path / "story"
    played = demo(DemoRequest(folder, stolen_steps=2, innocent_steps=1), told.append, unseen)
    assert played.as_told, [one for one in played.played if one.exit_code != one.expected]
    story = "\n".join(told)
    for command in ("init", "release", "verify", "check stolen", "evidence", "check innocent", "check random", "audit"):
        assert f" {command}" in story
    assert "the copy given to globex" in story
    assert "the copy given to initech" in story
    assert story.count("NOT SHOWN") == 2
    assert "NOT WHOLE" in story
    assert json.loads((folder / "case.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["story"]
    # What is kept can be asked again.
    again = weightmark_process("audit", "--json", home=folder / "owner", passphrase=None)
    assert again.document["whole"] is True


def test_folder_with_something_in_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(InputError, match="is there already"):
        demo(DemoRequest(tmp_path), print, unseen)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_end_names_each_command_that_went_wrong() -> None:
    headline, *body = text_of_demo(result((0, 0), (3, 0), (1, 1)))
    assert headline == "FAILED    1 of 3 commands did not end as they should"
    assert body[0] == "  exit 3, not 0: weightmark step-1"
    assert not result((3, 0)).as_told


def test_good_end_says_how_long_and_what_next(tmp_path: Path) -> None:
    headline, *body = text_of_demo(result((0, 0), (1, 1), folder=tmp_path))
    assert headline == "DONE      all 2 commands ended as they should, in 61 s"
    assert str(tmp_path) in body[0]
    assert body[-1].startswith("  next: ")


def test_document_has_every_command() -> None:
    document = json_of_demo(result((0, 0), (1, 0)))
    assert document["as_told"] is False
    assert document["folder"] is None
    assert document["commands"][1] == {
        "command": "weightmark step-1",
        "exit_code": 1,
        "expected": 0,
        "seconds": 1.0,
    }


@pytest.mark.parametrize(
    ("quiet", "to_stderr", "out", "err"),
    [(False, False, "told\n", ""), (False, True, "", "told\n"), (True, True, "", "")],
)
def test_story_goes_where_it_is_wanted(
    quiet: bool, to_stderr: bool, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    showing(quiet=quiet, to_stderr=to_stderr)("told")
    assert tuple(capsys.readouterr()) == (out, err)


def test_training_is_told_of_at_first_and_every_tenth_step(capsys: pytest.CaptureFixture[str]) -> None:
    with training_steps("training", 25) as progress:
        for _ in range(25):
            progress(1)
    told = capsys.readouterr()
    assert told.out == ""
    assert [int(line.split()[2]) for line in told.err.splitlines()] == [1, 10, 20, 25]


def test_quiet_training_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with training_steps("training", 3, quiet=True) as progress:
        progress(3)
    assert capsys.readouterr().err == ""
