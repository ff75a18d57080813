"""The command refuses to start when one of its packages is somebody else's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

import pytest

import cli
from cli.packages import foreign_package
from tests.cli.command import weightmark_process

SOURCE = Path(cli.__file__).parent.parent
FOREIGN_INIT = "raise RuntimeError('the foreign package was imported')\n"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder as an ordinary installation leaves it: the three packages side by side."""
    for name in ("watermark", "registry", "cli"):
        shutil.copytree(SOURCE / name, tmp_path / "site" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


def finder(*places: Path) -> Callable[[str], ModuleSpec | None]:
    return lambda name: PathFinder.find_spec(name, [str(place) for place in places])


def foreign_watermark(site: Path) -> Path:
    (site / "watermark").mkdir(parents=True, exist_ok=True)
    (site / "watermark/__init__.py").write_text(FOREIGN_INIT)
    (site / "watermark/watermark.py").write_text("")
    return site


def test_our_own_packages_pass(installed: Path) -> None:
    assert foreign_package() is None
    assert foreign_package(finder(installed)) is None


def test_a_package_that_comes_first_is_found(installed: Path, tmp_path: Path) -> None:
    other = foreign_watermark(tmp_path / "other")
    problem = foreign_package(finder(other, installed))
    assert problem is not None
    assert str(other / "watermark") in problem


def test_a_package_installed_over_ours_is_found(installed: Path) -> None:
    foreign_watermark(installed)
    problem = foreign_package(finder(installed))
    assert problem is not None
    assert "installed over 'watermark'" in problem


def test_packages_of_two_installations_are_found(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(installed / "registry", tmp_path / "older/registry")
    problem = foreign_package(finder(tmp_path / "older", installed))
    assert problem is not None
    assert "different places" in problem


def test_a_folder_without_init_and_a_missing_package_are_found(installed: Path, tmp_path: Path) -> None:
    (installed / "watermark/__init__.py").unlink()
    assert foreign_package(finder(installed)) is not None
    shutil.rmtree(installed / "registry")
    assert foreign_package(finder(installed)) is not None


def test_the_command_does_not_start_and_names_the_fix(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(foreign_watermark(tmp_path / "other"))}
    refused = weightmark_process("verify", "model", "--json", environment=environment, cwd=tmp_path)
    assert refused.code == 4
    assert refused.error["code"] == "foreign-package"
    assert "venv" in refused.error["hint"]
    told = weightmark_process("--help", environment=environment, cwd=tmp_path)
    assert told.code == 4
    assert told.out == ""
    assert "pip uninstall watermark" in told.err
