"""The signing keys of a home: the current one, and others beside it that wait, help, or only remember.

    owner.key, owner.pub              the current key (or its reference in settings.toml), which signs releases
    owner-<id>.key, owner-<id>.pub    a further key, or one from before; <id> begins its key id
    owner-<id>.ref                    in place of .key: the reference of a key in a token or a cloud
    secret-<id>.json                  an owner secret from before; <id> begins its commitment

A change of keys is decided by the log. What a crash leaves between the log's word and these files is settled the next
time: every step can be taken again. Knows no log and prints nothing.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cli.home import OWNER_KEY, OWNER_PUBLIC, OWNER_SECRET, SETTINGS, Home
from cli.key_stores import OWNER_KEY_SETTING, open_store_key
from registry.keystores.interface import PinSource
from registry.signing.keys import (
    OMS_ALGORITHMS,
    PrivateKey,
    PublicKey,
    read_private_key,
    read_public_key,
    write_new_private_file,
    write_private_key,
)
from registry.signing.signer import Signer
from registry.signing.small_files import read_small_file, replace_file
from watermark.errors import InputError, UnavailableError

_ID = 16
_BESIDE = re.compile(r"owner-([0-9a-f]{16})\.pub")
_MAX_REFERENCE_BYTES = 4096
_MAX_SETTINGS_BYTES = 64 * 1024


@dataclass(frozen=True)
class HomeKey:
    """One of the home's keys; `reference` says where it is when it is not a file of the home."""

    public: PublicKey
    is_current: bool
    reference: str | None = None

    @property
    def can_sign_models(self) -> bool:
        """Whether OMS knows its algorithm: only such a key can be the current one."""
        return self.public.algorithm in OMS_ALGORITHMS


def home_keys(home: Home) -> tuple[HomeKey, ...]:
    """The current key first, then those beside it."""
    current = HomeKey(home.public_key, True, home.stores.owner_key)
    beside = []
    for path in sorted(home.path.glob("owner-*.pub")):
        if _BESIDE.fullmatch(path.name):
            beside.append(HomeKey(read_public_key(path), False, _reference(path.with_suffix(".ref"))))
    return (current, *(one for one in beside if one.public != current.public))


def unlock(home: Home, key: HomeKey, passphrase: bytes, pin: PinSource | None = None) -> Signer:
    """Open a key of the home; InputError for a wrong passphrase or one whose private half is not here any more."""
    if key.is_current:
        return home.private_key(passphrase, pin)
    if key.reference is not None:
        return open_store_key(key.reference, key.public, pin)
    return read_private_key(_beside(home, key.public.key_id, ".key"), passphrase)


def add_key(home: Home, key: Signer, passphrase: bytes, reference: str | None = None) -> None:
    """Keep a key beside the current one, durably, before the log is asked about it; nothing when it is there."""
    public = _beside(home, key.public.key_id, ".pub")
    if public.exists():
        return
    if reference is not None:
        replace_file(public.with_suffix(".ref"), reference.encode("utf-8"))
    else:
        if not isinstance(key, PrivateKey):
            raise InputError("a key in a store is kept by its reference")
        private = public.with_suffix(".key")
        private.unlink(missing_ok=True)  # of a run that was cut off before its public half: nobody knows it
        write_private_key(private, key, passphrase)
    write_new_private_file(public, key.public.pem.encode("ascii"))


def make_current(home: Home, key: HomeKey) -> Home:
    """Let another key of the home be the one that signs releases, and keep the old one beside it; gives the home anew.

    The public half moves last: as long as it has not, `home_keys` tells the old state and this can be done again.
    """
    old, new = home.public_key.key_id, key.public.key_id
    private, public = _beside(home, new, ".key"), _beside(home, new, ".pub")
    try:
        if not _beside(home, old, ".pub").exists():
            if home.stores.owner_key is not None:
                replace_file(_beside(home, old, ".ref"), home.stores.owner_key.encode("utf-8"))
            else:
                _link(home.path / OWNER_KEY, _beside(home, old, ".key"))
            _link(home.path / OWNER_PUBLIC, _beside(home, old, ".pub"))
        if key.reference is None and private.exists():
            os.replace(private, home.path / OWNER_KEY)
        _write_owner_key_setting(home.path / SETTINGS, key.reference)
        if key.reference is not None:
            (home.path / OWNER_KEY).unlink(missing_ok=True)
        os.replace(public, home.path / OWNER_PUBLIC)
        public.with_suffix(".ref").unlink(missing_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"{home.path}: the new key cannot be put in place: {error.strerror}",
            hint="permit writing there and run the same command again: it goes on where it stopped",
        ) from error
    return Home.open(home.path)


def add_secret(home: Home, document: bytes, commitment: str) -> None:
    """Keep the document of a new owner secret beside the current one, before the log is asked about it."""
    path = secret_beside(home, commitment)
    if not path.exists():
        write_new_private_file(path, document)


def make_secret_current(home: Home, commitment: str, before: str) -> bool:
    """Let a secret that was kept beside become the one that marks; whether there was anything to do."""
    new, old = secret_beside(home, commitment), secret_beside(home, before)
    if not new.exists():
        return False
    try:
        if not old.exists():
            _link(home.path / OWNER_SECRET, old)
        os.replace(new, home.path / OWNER_SECRET)
    except OSError as error:
        raise UnavailableError(f"{home.path}: the new secret cannot be put in place: {error.strerror}") from error
    return True


def secret_beside(home: Home, commitment: str) -> Path:
    """Where an owner secret lies that is not the current one."""
    return home.path / f"secret-{commitment[:_ID]}.json"


def _write_owner_key_setting(path: Path, reference: str | None) -> None:
    """Name the current key's store in the settings, or no store; every other line stays as a person left it."""
    text = read_small_file(path, what="the settings file", max_bytes=_MAX_SETTINGS_BYTES).decode("utf-8")
    lines = [line for line in text.split("\n") if not re.match(rf"\s*{OWNER_KEY_SETTING}\s*=", line)]
    if reference is not None:
        at = next((number for number, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines) - 1)
        lines.insert(at, f"{OWNER_KEY_SETTING} = {json.dumps(reference, ensure_ascii=False)}")
    if "\n".join(lines) != text:
        replace_file(path, "\n".join(lines).encode("utf-8"))


def name_beside(key_id: str) -> str:
    """The name of the file of a key that lies beside the current one."""
    return f"owner-{key_id[:_ID]}.key"


def _link(source: Path, target: Path) -> None:
    """Let a file be known under a second name, too; one that a run before left there is the same file or a part."""
    target.unlink(missing_ok=True)
    os.link(source, target)


def _beside(home: Home, key_id: str, suffix: str) -> Path:
    return home.path / f"owner-{key_id[:_ID]}{suffix}"


def _reference(path: Path) -> str | None:
    if not path.exists():
        return None
    return read_small_file(path, what="the key reference", max_bytes=_MAX_REFERENCE_BYTES).decode("utf-8", "replace")
