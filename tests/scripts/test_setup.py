"""The set-up script on machines that lack something, and on one that has everything already."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent.parent
NEEDED = ("cat", "cksum", "dirname", "sh")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What set-up reads, and a `bin` that holds the tools of any POSIX machine but no Python."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("scripts/setup.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(HOUSE / name, tmp_path / name)
    for tool in NEEDED:
        place = shutil.which(tool)
        assert place is not None
        os.symlink(place, tmp_path / "bin" / tool)
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def setup(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "scripts/setup.sh"],
        cwd=checkout,
        env={"PATH": str(checkout / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_python_it_says_what_to_install(checkout: Path) -> None:
    done = setup(checkout)
    assert done.returncode == 1
    assert "no Python 3.11" in done.stderr
    assert "next: install it" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_shim_that_leads_nowhere_is_no_python(checkout: Path) -> None:
    program(checkout / "bin/python3.11", "echo 'pyenv: python3.11: command not found' >&2; exit 127")
    done = setup(checkout)
    assert done.returncode == 1
    assert "no Python 3.11" in done.stderr


def test_python_without_venv_is_named(checkout: Path) -> None:
    program(checkout / "bin/python3.11", 'case "$2" in *version_info*) exit 0 ;; *) exit 1 ;; esac')
    done = setup(checkout)
    assert done.returncode == 1
    assert "no venv or no pip" in done.stderr


def test_failing_pip_is_reported_and_tried_again_the_next_time(checkout: Path) -> None:
    program(checkout / "bin/python3.11", "exit 0")
    program(checkout / ".venv/bin/python", 'case "$*" in *"pip install"*) exit 1 ;; esac')
    for _ in range(2):
        done = setup(checkout)
        assert done.returncode == 1
        assert "network, proxy or package index" in done.stderr
    assert not (checkout / ".venv/weightmark-stamp").exists()


def test_second_run_does_nothing_until_something_changes(checkout: Path) -> None:
    program(checkout / "bin/python3.11", "exit 0")
    program(checkout / ".venv/bin/python", 'case "$*" in *"pip install"*) echo "$*" >>installs ;; esac')
    assert setup(checkout).returncode == 0
    installs = (checkout / "installs").read_text()
    assert "--no-deps" in installs
    again = setup(checkout)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (checkout / "installs").read_text() == installs
    with open(checkout / "constraints.txt", "a") as file:
        file.write("# changed\n")
    assert setup(checkout).returncode == 0
    assert (checkout / "installs").read_text() == 2 * installs


@pytest.mark.parametrize("script", sorted([*HOUSE.glob("scripts/*.sh"), HOUSE / ".ci/run"]), ids=lambda path: path.name)
def test_scripts_parse_and_may_be_run(script: Path) -> None:
    shell = script.read_text().splitlines()[0].split("/")[-1].removeprefix("env ")
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(script, os.X_OK)
