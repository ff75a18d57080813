"""Which time stamping authorities a home asks by itself: `tsa = ["https://HOST/"]` in its settings.toml.

`tsa_allow_http = true` beside it lets plain HTTP addresses be asked, too. Reads settings, asks nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from watermark.errors import DocumentError, InputError


@dataclass(frozen=True)
class TsaSettings:
    """Addresses of the authorities, in the order in which they are asked."""

    urls: tuple[str, ...] = ()
    allow_http: bool = False


NO_TSA = TsaSettings()


def chosen_urls(given: Sequence[str] | None, *, none: bool) -> tuple[str, ...] | None:
    """What the flags ask for: some addresses, none at all, or (None) those of the settings; InputError for both."""
    if given and none:
        raise InputError("--tsa and --no-tsa contradict each other", hint="pass one of them")
    return () if none else tuple(given) if given else None


def tsa_settings_of(settings: Mapping[str, Any]) -> TsaSettings:
    """The authorities that a settings file names; DocumentError for what is not of its form."""
    urls, allow_http = settings.get("tsa", []), settings.get("tsa_allow_http", False)
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise DocumentError("settings.toml: tsa is no list of addresses", hint='write it as tsa = ["https://HOST/"]')
    if not isinstance(allow_http, bool):
        raise DocumentError("settings.toml: tsa_allow_http is neither true nor false", hint="write one of the two")
    return TsaSettings(tuple(urls), allow_http)
