"""One marked model for the whole folder: scrypt costs a second each time."""

from __future__ import annotations

import pytest

from tests.watermark.marks.models import MarkedModel, mark_model, random_weights, write_model


@pytest.fixture(scope="session")
def marked(tmp_path_factory) -> MarkedModel:
    """A 332,000-weight model marked for two recipients at 3 %."""
    folder = tmp_path_factory.mktemp("marked")
    reference = write_model(folder / "reference", random_weights())
    return mark_model(reference, folder / "copies", ("Globex", "Initech"))
