"""Marked victims, one a layout: scrypt costs a second each time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.attacks.marked_victims import Victim
from tests.attacks.victims import state_of


@pytest.fixture(scope="session")
def victim(tmp_path_factory) -> Callable[[str], Victim]:
    """The marked victim of a layout, made when first asked for."""
    made: dict[str, Victim] = {}

    def get(kind: str) -> Victim:
        if kind not in made:
            made[kind] = Victim(tmp_path_factory.mktemp(kind), state_of(kind))
        return made[kind]

    return get
