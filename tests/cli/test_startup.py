"""What a command loads before it works: no torch where no weights are computed with, and nothing but typer for help."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.command import weightmark, weightmark_process

LISTING = (
    "import sys; from cli.main import run; code = run(sys.argv[1:]); "
    "print('LOADED', *sorted(sys.modules), file=sys.stderr); raise SystemExit(code)"
)


def loaded(*arguments: str | Path, home: Path | None = None, code: int = 0) -> set[str]:
    done = weightmark_process(*arguments, home=home, start=(sys.executable, "-c", LISTING))
    assert done.code == code, done.err
    return set(done.err[done.err.index("LOADED") :].split()[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["release", "--help"], ["check", "--help"], ["keys", "--help"]])
def test_help_loads_only_the_command_line_itself(arguments: list[str]) -> None:
    modules = loaded(*arguments)
    assert "typer" in modules
    for heavy in ("torch", "numpy", "scipy", "sqlalchemy", "sqlmodel", "cryptography", "rich", "transformers"):
        assert heavy not in modules
    ours = {name for name in modules if name.split(".")[0] in ("cli", "registry", "watermark")}
    assert {name for name in ours if not name.startswith("cli")} <= {"watermark", "watermark.errors"}


def test_sign_verify_and_audit_never_load_torch(made_home: Path, model: Path) -> None:
    signed = loaded("sign", model, home=made_home)
    verified = loaded("verify", model, "--public-key", made_home / "owner.pub")
    audited = loaded("audit", home=made_home)
    for modules in (signed, verified, audited):
        for heavy in ("torch", "numba", "transformers"):
            assert heavy not in modules
    for modules in (signed, verified):
        assert "sqlalchemy" not in modules
        assert "numpy" not in modules


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    shown = weightmark("--version")
    assert shown.code == 0
    assert shown.out == f"weightmark {version('weightmark')}\n"
