"""The command's contract as others rely on it: exit codes, one JSON document, where text goes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.main import get_command

import cli
from cli.home import Home
from cli.main import build_app
from tests.cli.command import PASSPHRASE, weightmark, weightmark_process


def test_a_new_owner_signs_verifies_and_audits(tmp_path: Path, model: Path) -> None:
    home = tmp_path / "home"
    made = weightmark_process("init", "--owner", "acme", "--json", home=home)
    assert made.code == 0
    assert made.document["owner"] == "acme"
    assert made.document["index"] == 0

    signed = weightmark_process("sign", model, "--json", home=home)
    assert signed.code == 0
    assert signed.document["files"] == 2

    verified = weightmark_process("verify", model, "--public-key", home / "owner.pub", "--json", passphrase=None)
    assert verified.code == 0
    assert verified.document == {
        "verified": True,
        "owner": None,
        "key": made.document["key"],
        "release": None,
        "index": None,
        "signed_at": None,
        "time_source": None,
    }

    audited = weightmark_process("audit", "--json", home=home, passphrase=None)
    assert audited.code == 0
    assert set(audited.document) == {"whole", "size", "root", "entries_checked", "findings"}
    assert audited.document["whole"] is True
    assert audited.document["size"] == audited.document["entries_checked"] == 1


def test_tampered_model_exits_1_with_what_is_wrong_and_what_to_do(made_home: Path, model: Path) -> None:
    assert weightmark("sign", model, home=made_home).code == 0
    with open(model / "config.json", "a") as file:
        file.write(" ")
    refused = weightmark("verify", model, "--public-key", made_home / "owner.pub", "--json")
    assert refused.code == 1
    assert refused.error["code"] == "digest"
    assert "config.json" in refused.error["message"]

    told = weightmark_process("verify", model, "--public-key", made_home / "owner.pub")
    assert told.code == 1
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert "\n  next: " in told.err


def test_signature_without_log_entry_is_not_a_release(made_home: Path, model: Path) -> None:
    assert weightmark("sign", model, home=made_home).code == 0
    refused = weightmark("verify", model, "--json", home=made_home)
    assert refused.code == 1
    assert refused.error["code"] == "inclusion"


def test_nothing_to_verify_against_is_never_exit_0(model: Path, tmp_path: Path) -> None:
    refused = weightmark("verify", model, "--json", home=tmp_path / "none")
    assert refused.code == 2
    assert "--trust" in refused.error["hint"]


def test_damaged_log_exits_1_and_names_the_entry(home: Path) -> None:
    bundle = home / "registry/log/tile/entries/000.p/1"
    data = bytearray(bundle.read_bytes())
    data[40] ^= 1
    bundle.write_bytes(data)
    audited = weightmark("audit", "--json", home=home)
    assert audited.code == 1
    assert audited.document["whole"] is False
    assert audited.document["findings"]
    told = weightmark("audit", home=home)
    assert told.code == 1
    assert told.out.startswith("NOT WHOLE")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "bogus"),
        (["audit", "--bogus"], "--bogus"),
        (["release", "model"], "--out"),
        (["check", "model", "--expect", "perhaps"], "perhaps"),
        (["sign", "model", "--passphrase-fd", "first"], "--passphrase-fd"),
        (["keys"], "command"),
    ],
)
def test_usage_errors_exit_2_in_the_form_that_was_asked_for(arguments: list[str], says: str) -> None:
    refused = weightmark(*arguments, "--json")
    assert refused.code == 2
    assert refused.error["code"] == "usage"
    assert says in refused.error["message"]
    told = weightmark(*arguments)
    assert told.code == 2
    assert told.out == ""
    assert says in told.err


def test_no_command_shows_the_help_and_is_not_success() -> None:
    shown = weightmark()
    assert shown.code == 2
    assert "Commands:" in shown.out


@pytest.mark.parametrize("command", [["list"], ["doctor"], ["show", "ab"], ["keys", "list"], ["audit"], ["sign", "m"]])
def test_missing_home_exits_2_and_says_how_to_make_one(command: list[str], tmp_path: Path) -> None:
    refused = weightmark(*command, "--json", home=tmp_path / "none")
    assert refused.code == 2
    assert "weightmark init" in refused.error["hint"]


def test_home_flag_wins_over_the_environment_before_and_after_the_command(made_home: Path, tmp_path: Path) -> None:
    for arguments in (["--home", made_home, "list", "--json"], ["list", "--home", made_home, "--json"]):
        listed = weightmark(*arguments, home=tmp_path / "none")
        assert listed.code == 0
        assert listed.document == {"owner": "acme", "releases": []}


def test_json_and_quiet_are_taken_before_and_after_the_command(made_home: Path) -> None:
    before, after = weightmark("--json", "list", home=made_home), weightmark("list", "--json", home=made_home)
    assert before.document == after.document
    assert weightmark("keys", "--json", "show", home=made_home).document["owner"] == "acme"
    loud, quiet = weightmark("doctor", home=made_home), weightmark("--quiet", "doctor", home=made_home)
    assert quiet.out == loud.out.split("\n")[0] + "\n"
    assert quiet.err == loud.err == ""


@pytest.mark.parametrize("place", ["flag", "environment"])
def test_registry_service_is_refused_plainly(made_home: Path, place: str) -> None:
    url = "https://registry.example/"
    flags = ["--registry", url] if place == "flag" else []
    environment = {} if place == "flag" else {"WEIGHTMARK_REGISTRY": url}
    refused = weightmark("audit", "--json", *flags, home=made_home, environment=environment)
    assert refused.code == 4
    assert refused.error["code"] == "unavailable"
    assert url in refused.error["message"]


def test_second_init_is_a_conflict_and_touches_nothing(home: Path) -> None:
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    refused = weightmark("init", "--json", home=home, passphrase=None)
    assert refused.code == 1
    assert refused.error["code"] == "conflict"
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_wrong_passphrase_exits_2(made_home: Path, model: Path) -> None:
    refused = weightmark("sign", model, "--json", home=made_home, passphrase="wrong")
    assert refused.code == 2
    assert "passphrase" in refused.error["message"]
    assert not (model / "model.sig").exists()


def test_unwritable_place_exits_4_when_not_ours_to_fix(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    refused = weightmark("init", "--owner", "acme", "--json", home=blocked / "home")
    assert refused.code in (2, 4)
    assert str(blocked) in refused.error["message"]


def test_names_cannot_steer_the_terminal(made_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "evil\x1b[31m\u202e"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    signed = weightmark("sign", folder, home=made_home)
    assert signed.code == 0
    assert "\x1b" not in signed.out
    assert "\u202e" not in signed.out
    assert "evil\\x1b[31m\\u202e" in signed.out
    missing = weightmark("verify", tmp_path / "\x1b[2J", "--public-key", made_home / "owner.pub")
    assert missing.code == 2
    assert "\x1b" not in missing.err


def test_exported_trust_file_is_enough_for_others(made_home: Path, tmp_path: Path) -> None:
    out = tmp_path / "acme.trust"
    assert weightmark("keys", "export", "--out", out, home=made_home, passphrase=None).code == 0
    told = weightmark("keys", "export", home=made_home).out
    assert without_view(told) == without_view(out.read_text())
    assert weightmark("audit", "--trust", out, home=made_home).code == 0
    document = weightmark("keys", "export", "--json", home=made_home).document
    assert without_view(document["trust"]) == without_view(out.read_text())


def without_view(trust: str) -> list[str]:
    """A trust file but for the line that says when it was written."""
    return [line for line in trust.splitlines() if not line.startswith("viewed ")]


def test_audit_since_a_kept_checkpoint(home: Path, tmp_path: Path) -> None:
    kept = Path(shutil.copy(home / "registry/log/checkpoint", tmp_path / "kept"))
    assert weightmark("audit", "--since", kept, home=home).code == 0
    forged = tmp_path / "forged"
    forged.write_bytes(kept.read_bytes().replace(b"\n1\n", b"\n9\n"))
    assert weightmark("audit", "--since", forged, home=home).code == 1


def test_passphrase_change_by_descriptors_leaves_one_that_opens(home: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("another one\nignored\n")
    with open(tmp_path / "new") as file:
        changed = weightmark(
            "keys", "change-passphrase", "--new-passphrase-fd", str(file.fileno()), "--json", home=home
        )
    assert changed.code == 0
    assert json.loads(changed.out)["changed"] == ["owner.key", "secret.json", "log.key"]
    opened = Home.open(home)
    assert opened.private_key(b"another one").public == opened.public_key
    assert weightmark("sign", tmp_path / "new", home=home, passphrase=PASSPHRASE).code == 2


def test_readme_and_messages_name_only_commands_that_exist() -> None:
    """Every `weightmark COMMAND` that a document or a message tells people to run is one."""
    top = get_command(build_app())
    known = {*top.commands, *(f"keys {name}" for name in top.commands["keys"].commands)}
    house = Path(cli.__file__).parent.parent
    texts = [house / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
    for text in [*texts, *house.glob("cli/*.py"), *house.glob("registry/**/*.py"), *house.glob("watermark/**/*.py")]:
        for first, second in re.findall(r"`?weightmark ([a-z]+)(?: ([a-z-]+))?", _commands_in(text)):
            named = f"{first} {second}" if first == "keys" and second else first
            assert named in known, f"{text}: weightmark {named}"


def _commands_in(path: Path) -> str:
    """What stands in backquotes, or after a shell's prompt."""
    found = re.findall(r"`(weightmark [^`]*)`|^\$ (weightmark .*)$", path.read_text(), re.MULTILINE)
    return "\n".join(quoted or typed for quoted, typed in found)


def test_interruption_exits_130_in_the_form_that_was_asked_for(
    made_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.listing.list_releases", interrupted)
    stopped = weightmark("list", "--json", home=made_home)
    assert stopped.code == 130
    assert stopped.error["code"] == "interrupted"


def test_unexpected_errors_exit_4_without_a_traceback(home: Path) -> None:
    (home / "registry/registry.sqlite").write_bytes(b"no database" * 100)
    broken = weightmark_process("list", "--json", home=home)
    assert broken.code == 4
    assert "Traceback" not in broken.err
    debugged = weightmark_process("list", "--json", home=home, environment={"WEIGHTMARK_DEBUG": "1"})
    assert debugged.error == broken.error
