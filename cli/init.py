"""The job of `weightmark init`: make an owner's home. Reads no model and prints nothing."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli.home import Home
from cli.key_stores import NO_STORES, KeyStores
from registry.signing.keys import P256
from registry.signing.trust import check_owner_name
from watermark.errors import ConflictError, InputError


@dataclass(frozen=True)
class InitRequest:
    """Where the home goes and whose it is. Without `owner` it is the name of the user who runs this.

    `origin` is the public name of the log for ever; without one it is made from the owner's name. `stores` names keys
    that exist in tokens or in a cloud: they are used there, and the home only remembers where they are.
    """

    home: Path
    owner: str | None = None
    algorithm: str = P256
    origin: str | None = None
    stores: KeyStores = NO_STORES


@dataclass(frozen=True)
class InitResult:
    """The home that was made. `key` is the hex SHA-256 of the public key; `index` is where the log introduces it."""

    home: Path
    owner: str
    key: str
    origin: str
    index: int
    trust: Path


def init(request: InitRequest, passphrase: Callable[[], bytes]) -> InitResult:
    """Make keys, owner secret, trust file and registry, and log the commitment to the secret.

    Raises ConflictError when there is a home already: it is never touched, and no passphrase is asked for. Where every
    key is in a store and the secret wrapped by one, none is asked for either.
    """
    if request.home.exists() and (not request.home.is_dir() or any(request.home.iterdir())):
        raise ConflictError(
            f"{request.home} is there already", hint="use it, or name another with --home or WEIGHTMARK_HOME"
        )
    owner = check_owner_name(request.owner or _user_name())
    phrase = passphrase() if request.stores.needs_passphrase else b""
    home = Home.create(
        request.home, owner, phrase, algorithm=request.algorithm, origin=request.origin, stores=request.stores
    )
    return InitResult(home.path, home.owner, home.public_key.key_id, home.origin, 0, home.trust_path)


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:  # no such user in the system's tables: a bare container
        raise InputError("this system does not say who you are", hint="name the owner with --owner NAME") from error
