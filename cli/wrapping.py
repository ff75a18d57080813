"""The jobs of `weightmark keys wrap-secret` and `seal-secret`: by what the owner secret is closed in the home.

The secret stays the same, so every mark and every release stays as it is. Prints nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli.home import OWNER_SECRET, Home
from registry.keystores.interface import PinSource, place_of
from registry.keystores.wrapped_secret import wrap_secret
from registry.signing.keys import read_private_key, write_new_private_file
from registry.signing.secret import seal_secret
from watermark.errors import UnavailableError


@dataclass(frozen=True)
class ClosedSecret:
    """How the secret is closed now; `still_needs_passphrase` when key files of the home are sealed by it."""

    place: str
    still_needs_passphrase: bool


def wrap_owner_secret(
    home_folder: Path, reference: str, passphrase: Callable[[], bytes], pin: PinSource | None = None
) -> ClosedSecret:
    """Close the owner secret by a key in a token or a cloud: whoever may use that key needs no passphrase for it.

    Raises InputError for a wrong passphrase, KeyStoreError or UnavailableError when the store cannot do it; the home
    is then as before.
    """
    home = Home.open(home_folder)
    secret = home.owner_secret(home.passphrase(passphrase), pin)
    _put(home, wrap_secret(secret, reference, home.owner, pin))
    return ClosedSecret(f"wrapped by the key {place_of(reference)}", bool(home.key_files))


def seal_owner_secret(home_folder: Path, passphrase: Callable[[], bytes], pin: PinSource | None = None) -> ClosedSecret:
    """Close the owner secret by the passphrase again, which also opens the key files of the home if it has any."""
    home = Home.open(home_folder)
    phrase = passphrase()
    if home.key_files:
        read_private_key(
            home.path / home.key_files[0], phrase
        )  # one passphrase a home: another would not open its keys
    _put(home, seal_secret(home.owner_secret(phrase, pin), phrase))
    return ClosedSecret("sealed by the passphrase", True)


def _put(home: Home, document: bytes) -> None:
    draft = home.path / f".{OWNER_SECRET}.{os.getpid()}.part"
    try:
        write_new_private_file(draft, document)
        os.replace(draft, home.path / OWNER_SECRET)
    except OSError as error:
        raise UnavailableError(f"{home.path} cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
