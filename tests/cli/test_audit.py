from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli.audit import AuditRequest, audit
from tests.registry.example_log import make_folder, make_registry, some_entries
from watermark.errors import InputError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with make_registry(tmp_path / "registry", some_entries(3)) as registry:
        (tmp_path / "trust.txt").write_text(f"log {registry.vkey}\nquorum none\n")
        (tmp_path / "seen").write_bytes(registry.checkpoint())
    return tmp_path


def test_a_whole_registry(home: Path) -> None:
    result = audit(AuditRequest(home))
    assert (result.whole, result.size, result.entries_checked) == (True, 3, 3)
    assert audit(AuditRequest(home, since=home / "seen")).whole


def test_a_registry_behind_the_checkpoint_seen(home: Path, tmp_path: Path) -> None:
    older = make_folder(tmp_path / "older", some_entries(2))
    result = audit(AuditRequest(home, since=home / "seen", registry=older))
    assert [finding.code for finding in result.findings] == ["rollback"]


def test_an_empty_checkpoint_file_is_not_taken_for_none(home: Path) -> None:
    (home / "seen").write_bytes(b"")
    assert not audit(AuditRequest(home, since=home / "seen")).whole


def test_nothing_to_audit_or_nobody_to_trust(home: Path) -> None:
    with pytest.raises(InputError, match="no registry"):
        audit(AuditRequest(home, registry=home / "nowhere"))
    with pytest.raises(InputError, match="cannot be read"):
        audit(AuditRequest(home, since=home / "nothing"))
    (home / "trust.txt").write_text("quorum none\n")
    with pytest.raises(InputError, match="names no log"):
        audit(AuditRequest(home))
    (home / "trust.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match="UTF-8"):
        audit(AuditRequest(home))
    (home / "trust.txt").unlink()
    with pytest.raises(InputError, match="trust file"):
        audit(AuditRequest(home))


def test_an_audit_never_loads_torch() -> None:
    program = "import sys, cli.audit; sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    subprocess.run([sys.executable, "-c", program], check=True)
