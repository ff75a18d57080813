from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.monitor import audit
from registry.store.clock import Clock
from registry.store.embedded import EmbeddedRegistry
from registry.store.files import DATABASE
from tests.registry.example_log import LOG_KEY, ORIGIN, some_entries
from watermark.errors import UnavailableError

START = 1_800_000_000


@dataclass
class TurnableClock:
    wall: float = START
    elapsed: float = 50.0

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.elapsed)


def log_of(folder: Path, entries: list[bytes], clock: Clock) -> EmbeddedRegistry:
    registry = EmbeddedRegistry.create(folder, ORIGIN, LOG_KEY, clock=clock)
    for entry in entries:
        registry.append([entry])
    return registry


def times(folder: Path) -> list[int]:
    with sqlite3.connect(folder / DATABASE) as connection:
        found = [row[0] for row in connection.execute("SELECT appended_at FROM entry ORDER BY log_index")]
    connection.close()
    return found


def test_a_clock_set_back_stops_the_log_until_it_is_right(tmp_path: Path) -> None:
    hands, entries = TurnableClock(), some_entries(4)
    registry = log_of(tmp_path / "log", entries[:1], hands.clock())
    for back in (-3600, -6):
        hands.wall = START + back
        with pytest.raises(UnavailableError, match="before the last entry"):
            registry.append(entries[:2])
        assert registry.size == 1
    hands.wall = START - 3
    registry.append(entries[:2])
    hands.wall = START + 10
    registry.append(entries[:3])
    registry.close()
    assert times(registry.folder) == [START, START, START + 10]
    hands.wall = START - 3600
    with EmbeddedRegistry.open(registry.folder, LOG_KEY, clock=hands.clock()) as reopened:
        assert reopened.append(entries[:3])[2].index == 2
        with pytest.raises(UnavailableError):
            reopened.append(entries)
        assert audit(reopened.folder, [reopened.vkey]).whole


def test_a_frozen_clock_is_no_reason_to_stop(tmp_path: Path) -> None:
    registry = log_of(tmp_path / "log", some_entries(5), TurnableClock().clock())
    registry.close()
    assert times(registry.folder) == [START] * 5


def test_a_leap_is_refused_but_time_passing_is_not(tmp_path: Path) -> None:
    hands, entries = TurnableClock(), some_entries(4)
    registry = log_of(tmp_path / "log", entries[:1], hands.clock())
    hands.wall += 10 * 365 * 86400
    with pytest.raises(UnavailableError, match="leapt"):
        registry.append(entries)
    assert registry.size == 1
    hands.elapsed += 10 * 365 * 86400
    registry.append(entries)
    hands.wall += 23 * 3600
    registry.append(some_entries(5))
    registry.close()
    assert times(registry.folder) == sorted(times(registry.folder))
