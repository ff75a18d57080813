"""An owner's home appears complete or not at all, opens only with its passphrase, and keeps both through a change."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

import cli.home
import cli.key_stores
from cli.home import PENDING, SEALED, Home, home_path
from registry.signing.entry import read_entry
from registry.signing.keys import ED25519
from tests.cli.command import PASSPHRASE
from watermark.errors import ConflictError, DocumentError, InputError, NotAuthorizedError, UnavailableError
from watermark.marks.secret import commit_to_secret

PHRASE = PASSPHRASE.encode()


def test_home_holds_what_it_says(made_home: Path) -> None:
    home = Home.open(made_home)
    assert home.owner == "acme"
    assert home.private_key(PHRASE).public == home.public_key
    assert home.log_key(PHRASE).algorithm == ED25519
    secret = home.owner_secret(PHRASE)
    assert len(secret) == 32
    with home.registry() as registry:
        assert registry.origin == home.origin
        assert home.trust().log_vkeys[0] == registry.vkey
        entry = read_entry(registry.entry(0))
    assert entry.introduced_key() == home.public_key
    assert entry.body["owner"] == "acme"
    assert entry.body["secret_commitment"] == commit_to_secret(secret).hex()
    assert home.trust().owners == {"acme": (home.public_key,)}


def test_nobody_else_may_look_and_no_secret_lies_open(made_home: Path) -> None:
    assert stat.S_IMODE(made_home.stat().st_mode) == 0o700
    secret = Home.open(made_home).owner_secret(PHRASE)
    for path in made_home.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes()
            assert secret.hex().encode() not in path.read_bytes()
            assert PHRASE not in path.read_bytes()
    for name in SEALED:
        assert stat.S_IMODE((made_home / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("method", ["private_key", "log_key", "owner_secret"])
def test_wrong_passphrase_opens_nothing(made_home: Path, method: str) -> None:
    with pytest.raises(InputError, match="passphrase"):
        getattr(Home.open(made_home), method)(b"wrong")


def test_without_the_log_key_the_registry_is_for_reading(made_home: Path) -> None:
    with Home.open(made_home).registry() as registry, pytest.raises(NotAuthorizedError):
        registry.append([b"entry"])


def test_a_home_that_is_there_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConflictError):
        Home.create(home, "acme", PHRASE)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConflictError):
        Home.create(tmp_path / "file", "acme", PHRASE)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir(mode=0o755)
    home = Home.create(place, 'quote"back\\slash', PHRASE, algorithm="p384", origin="log.example/acme")
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert Home.open(place) == home
    assert home.owner == 'quote"back\\slash'
    assert home.origin == "log.example/acme"
    assert home.public_key.algorithm == "p384"


@pytest.mark.parametrize(
    ("owner", "passphrase", "algorithm"),
    [("two words", PHRASE, "p256"), ("", PHRASE, "p256"), ("a#b", PHRASE, "p256"), ("acme", b"", "p256"),
     ("acme", PHRASE, "rsa"), ("acme", PHRASE, ED25519)],
)  # fmt: skip
def test_what_cannot_be_used_leaves_nothing_behind(
    tmp_path: Path, owner: str, passphrase: bytes, algorithm: str
) -> None:
    with pytest.raises(InputError):
        Home.create(tmp_path / "home", owner, passphrase, algorithm=algorithm)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli.key_stores, "seal_secret", full)
    with pytest.raises(UnavailableError, match="No space left"):
        Home.create(tmp_path / "home", "acme", PHRASE)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_homes_say_so(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the home") as refused:
        Home.open(tmp_path / "none")
    assert "weightmark init" in refused.value.hint
    for damage in (b"owner = ", b"\xff", b"owner = 3\norigin = 'x'\n", b"owner = 'acme'\n"):
        (home / "settings.toml").write_bytes(damage)
        with pytest.raises(DocumentError, match=r"settings\.toml"):
            Home.open(home)


def test_home_is_chosen_by_flag_then_environment_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_path() == Path.home() / ".weightmark"
    monkeypatch.setenv("WEIGHTMARK_HOME", "/elsewhere")
    assert home_path() == Path("/elsewhere")
    assert home_path(Path("/flag")) == Path("/flag")


def test_passphrase_change_keeps_keys_and_secret(home: Path) -> None:
    before = Home.open(home)
    secret, log_key = before.owner_secret(PHRASE), before.log_key(PHRASE).public
    before.change_passphrase(PHRASE, b"new")
    after = Home.open(home)
    assert after.owner_secret(b"new") == secret
    assert after.log_key(b"new").public == log_key
    assert after.private_key(b"new").public == after.public_key
    with pytest.raises(InputError):
        after.private_key(PHRASE)
    assert not [path for path in home.iterdir() if PENDING in path.name]


def test_passphrase_change_with_a_wrong_one_changes_nothing(home: Path) -> None:
    files = {name: (home / name).read_bytes() for name in SEALED}
    with pytest.raises(InputError):
        Home.open(home).change_passphrase(b"wrong", b"new")
    assert {name: (home / name).read_bytes() for name in SEALED} == files


@pytest.mark.slow
@pytest.mark.parametrize("moved", [0, 1])
def test_a_crash_in_the_middle_of_a_passphrase_change_is_finished_by_the_next_who_opens(
    made_home: Path, tmp_path: Path, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power fails after `moved` of the three files are in place."""
    home = Path(shutil.copytree(made_home, tmp_path / "home"))
    really_replace, done = os.replace, []

    class PowerFailure(BaseException):
        pass

    def replace_until_the_power_fails(source: Path, target: Path) -> None:
        if len(done) == moved:
            raise PowerFailure
        really_replace(source, target)
        done.append(target)

    monkeypatch.setattr(os, "replace", replace_until_the_power_fails)
    with pytest.raises(PowerFailure):
        Home.open(home).change_passphrase(PHRASE, b"new")
    monkeypatch.setattr(os, "replace", really_replace)
    opened = Home.open(home)
    assert opened.private_key(b"new").public == opened.public_key
    assert opened.log_key(b"new").algorithm == ED25519
    assert len(opened.owner_secret(b"new")) == 32
    assert not (home / PENDING).exists()
