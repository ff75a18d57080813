"""Settings for all tests: speed is measured by the benches, never by a deadline in a test."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("weightmark", deadline=None, derandomize=True)
settings.load_profile("weightmark")
