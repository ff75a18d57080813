"""Passphrases come from a descriptor, the environment or a person; never from argv."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.main import get_command

from cli.home import Home
from cli.main import build_app
from cli.passphrase import read_new_passphrase, read_passphrase
from tests.cli.command import PASSPHRASE, weightmark, weightmark_process
from tests.cli.terminal import at_terminal
from watermark.errors import InputError


def descriptor_with(data: bytes) -> int:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


@pytest.mark.parametrize(
    ("data", "passphrase"),
    [
        (b"pw", b"pw"),
        (b"pw\n", b"pw"),
        (b"pw\r\n", b"pw"),
        (b"two words\nnext line\n", b"two words"),
        (b" \xff \n", b" \xff "),
    ],
)
def test_descriptor_gives_its_first_line(data: bytes, passphrase: bytes) -> None:
    assert read_passphrase(descriptor_with(data)) == passphrase


def test_descriptor_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTMARK_PASSPHRASE", "from the environment")
    assert read_passphrase(descriptor_with(b"from the descriptor\n")) == b"from the descriptor"
    assert read_passphrase(None) == b"from the environment"


def test_new_passphrase_has_a_variable_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTMARK_PASSPHRASE", "old")
    monkeypatch.setenv("WEIGHTMARK_NEW_PASSPHRASE", "new")
    assert read_new_passphrase(None) == b"new"


@pytest.mark.parametrize("data", [b"", b"\n", b"x" * 70_000])
def test_empty_and_endless_ones_are_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="descriptor"):
        read_passphrase(descriptor_with(data[:60_000]) if len(data) < 60_000 else _file_with(data))


def _file_with(data: bytes) -> int:
    memory = os.memfd_create("passphrase")
    os.write(memory, data)
    os.lseek(memory, 0, os.SEEK_SET)
    return memory


def test_closed_descriptor_is_refused_by_name(made_home: Path, model: Path) -> None:
    refused = weightmark("sign", model, "--passphrase-fd", "77", "--json", home=made_home, passphrase=None)
    assert refused.code == 2
    assert "77" in refused.error["message"]


def test_descriptor_zero_is_stdin(made_home: Path, model: Path) -> None:
    reader = descriptor_with(PASSPHRASE.encode() + b"\n")
    assert (
        weightmark_process("sign", model, "--passphrase-fd", "0", home=made_home, passphrase=None, stdin=reader).code
        == 0
    )


def test_without_terminal_the_three_ways_are_named(made_home: Path, model: Path) -> None:
    refused = weightmark("sign", model, "--json", home=made_home, passphrase=None)
    assert refused.code == 2
    for way in ("terminal", "--passphrase-fd", "WEIGHTMARK_PASSPHRASE"):
        assert way in refused.error["hint"]


def test_person_types_a_new_passphrase_twice_and_sees_none_of_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    arguments = ["-m", "cli.main", "--home", str(home), "init", "--owner", "acme"]
    differing = at_terminal(arguments, typed=["hush one", "hush two"])
    assert differing.code == 2
    assert "differ" in differing.out
    assert not home.exists()
    made = at_terminal(arguments, typed=["hush one", "hush one"])
    assert made.code == 0
    assert "hush" not in made.out
    assert Home.open(home).private_key(b"hush one").public == Home.open(home).public_key


def test_no_command_takes_a_passphrase_as_an_argument() -> None:
    taking = set()
    waiting = [get_command(build_app())]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        for parameter in command.params:
            if "passphrase" in parameter.name or "password" in parameter.name:
                taking.add(parameter.name)
    assert taking == {"passphrase_fd", "new_passphrase_fd", "backup_passphrase_fd"}
