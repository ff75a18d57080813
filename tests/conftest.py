"""Settings for all tests: speed is measured by the benches, never by a deadline in a test."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(scope="session", autouse=True)
def a_digest_cache_of_the_tests_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the cache of the person who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("xdg-cache")))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count every test of the slow rooms as slow."""
    for item in items:
        if item.nodeid.startswith(_SLOW):
            item.add_marker(pytest.mark.slow)
