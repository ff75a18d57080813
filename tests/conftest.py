"""Settings for all tests: speed is measured by the benches, never by a deadline in a test."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("weightmark", deadline=None, derandomize=True)
settings.load_profile("weightmark")

#: Rooms that `scripts/check.sh` leaves to `scripts/test.sh`: sweeps, hostile files, marks at a second of scrypt each.
_SLOW = (
    "tests/faults/",
    "tests/hostile/",
    "tests/watermark/marks/test_embed.py",
    "tests/watermark/model/test_torchfile.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count every test of the slow rooms as slow."""
    for item in items:
        if item.nodeid.startswith(_SLOW):
            item.add_marker(pytest.mark.slow)
