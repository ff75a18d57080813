"""Small logs for tests: fixed keys, signed entries, a registry filled with them."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.signing.entry import make_entry
from registry.signing.keys import ED25519, P256, PrivateKey, generate
from registry.store.embedded import EmbeddedRegistry

ORIGIN = "registry.example/log1"


def seeded_key(first: int) -> PrivateKey:
    """The Ed25519 key whose seed counts up from `first`."""
    return PrivateKey(ED25519, Ed25519PrivateKey.from_private_bytes(bytes(range(first, first + 32))))


LOG_KEY = seeded_key(0)
WITNESS_KEY = seeded_key(32)


@cache
def owner_key() -> PrivateKey:
    return generate(P256)


@cache
def owner_entry() -> bytes:
    body = {"owner": "ann", "key": owner_key().public.pem, "secret_commitment": "00" * 32}
    return make_entry("owner", body, owner_key())


@cache
def release_entry(number: int) -> bytes:
    return make_entry("release", {"release": f"{number:064x}"}, owner_key())


def some_entries(count: int) -> list[bytes]:
    """An owner entry and then releases, all signed."""
    return [owner_entry(), *(release_entry(number) for number in range(1, count))]


@cache
def _built(entries: tuple[bytes, ...]) -> tempfile.TemporaryDirectory[str]:
    place = tempfile.TemporaryDirectory()
    with EmbeddedRegistry.create(Path(place.name) / "log", ORIGIN, LOG_KEY) as registry:
        for entry in entries:
            registry.append([entry])
    return place


def make_folder(folder: Path, entries: list[bytes]) -> Path:
    """A registry folder with these entries, each appended alone, so that all partial tiles are there."""
    shutil.copytree(Path(_built(tuple(entries)).name) / "log", folder)
    return folder


def make_registry(folder: Path, entries: list[bytes]) -> EmbeddedRegistry:
    """The same, opened for appending."""
    return EmbeddedRegistry.open(make_folder(folder, entries), LOG_KEY)
