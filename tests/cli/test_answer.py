"""How answers and progress look: escaped, in columns, one document, nothing where nobody looks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.answer import Answer, counted, emit, escaped, table
from cli.report_verdicts import exit_code_of_check
from tests.cli.command import clean_environment
from tests.cli.terminal import at_terminal

WORK = (
    "import sys, time\n"
    "from cli.progress import progress_bar\n"
    "with progress_bar('Working', quiet='quiet' in sys.argv) as progress:\n"
    "    for _ in range(8):\n"
    "        if progress: progress(1 << 20)\n"
    "        time.sleep(0.05)\n"
    "print('done')\n"
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – text", "plain – text"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\tc\x7f", "a\\nb\\tc\\x7f"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("bytes \udcff", "bytes \\udcff"),
    ],
)
def test_what_would_steer_a_terminal_is_spelled_out(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_tables_align_and_leave_no_trailing_space() -> None:
    assert table([("a", 1, "x"), ("bbb", 1000, "")], right=(1,)) == ("  a       1  x", "  bbb  1000")
    assert table([]) == ()


def test_numbers_of_things() -> None:
    assert [counted(count, "copy") for count in (0, 1, 2000)] == ["0 copies", "1 copy", "2,000 copies"]
    assert counted(3, "release") == "3 releases"


def test_one_document_in_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    emit(Answer({"name": "\x1b\u202e\udcff"}, "head", ("body",)), as_json=True, quiet=False)
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == {"name": "\x1b\u202e\udcff"}


def test_a_reader_who_leaves_early_is_no_error() -> None:
    code = (
        "from cli.answer import Answer, emit; emit(Answer({}, 'x' * 300000), as_json=False, quiet=False); print('more')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    complaints = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert complaints == b""


@pytest.mark.parametrize(
    ("verdict", "alone", "ours", "not_ours"),
    [
        ("ours", 0, 0, 1),
        ("related", 1, 1, 0),
        ("shared-ancestor", 1, 1, 0),
        ("not-shown", 1, 1, 0),
        ("no-power", 3, 3, 3),
    ],
)
def test_exit_codes_of_check(verdict: str, alone: int, ours: int, not_ours: int) -> None:
    assert exit_code_of_check(verdict, None) == alone
    assert exit_code_of_check(verdict, "ours") == ours
    assert exit_code_of_check(verdict, "not-ours") == not_ours


def test_progress_shows_on_a_terminal_and_nowhere_else(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK)
    assert "Working" in at_terminal([str(script)]).out
    assert at_terminal([str(script), "quiet"]).out == "done\r\n"
    piped = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, env=clean_environment()
    )
    assert (piped.stdout, piped.stderr) == ("done\n", "")


def test_no_color_is_honoured(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK)
    assert "\x1b[3" in at_terminal([str(script)]).out
    plain = at_terminal([str(script)], environment={"NO_COLOR": "1"}).out
    assert "Working" in plain
    assert not any(f"\x1b[3{digit}" in plain for digit in range(8))
    assert "\x1b[38" not in plain
