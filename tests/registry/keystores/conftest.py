"""Services that play AWS on this machine, and the credentials that boto3 wants to see."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.amazon import moto_endpoint, set_credentials
from tests.registry.keystores.fake_kms import FakeKms


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    set_credentials(monkeypatch)


@pytest.fixture
def kms() -> Iterator[FakeKms]:
    with FakeKms() as service:
        yield service


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    with moto_endpoint() as endpoint:
        yield endpoint
