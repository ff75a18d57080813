"""Several processes append to one log: no index twice, no gap, and shared entries once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from registry.monitor import audit
from registry.store.embedded import EmbeddedRegistry
from tests.faults.appending_writer import BATCH
from tests.registry.example_log import LOG_KEY, make_folder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("writers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_thousand_appends(tmp_path: Path, writers: int) -> None:
    folder, each = make_folder(tmp_path / "log", []), 1000 // writers
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.appending_writer", str(folder), f"writer{number}", str(each)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in range(writers)
    ]
    told: dict[str, int] = {}
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0
        for line in output.splitlines():
            entry, index = line.split()
            assert told.setdefault(entry, int(index)) == int(index)
    shared = each // BATCH
    assert len(told) == 1000 + shared
    assert sorted(told.values()) == list(range(1000 + shared))
    with EmbeddedRegistry.open(folder, LOG_KEY) as registry:
        assert list(registry.entries(0, registry.size)) == [
            entry.encode() for entry, _ in sorted(told.items(), key=lambda pair: pair[1])
        ]
        findings = audit(folder, [registry.vkey]).findings
    assert [finding for finding in findings if finding.code != "entry"] == []  # they are not signed entries
