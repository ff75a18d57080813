"""A short run of the kill campaign; the long one is `python scripts/fault_kill.py --kills 1000`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/fault_kill.py"


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_kill_9() -> None:
    ran = subprocess.run([sys.executable, str(SCRIPT), "--kills", "30"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(ran.stdout)
    assert result["kills"] == 30
    assert result["acknowledged"] > 0
    assert (result["lost"], result["findings"]) == (0, [])
    assert result["slowest_restart_s"] < 5
