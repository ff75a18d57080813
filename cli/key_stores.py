"""Where an owner's keys are, when they are not all files of the home: read from settings, and asked for when used.

    owner_key = "pkcs11:token=acme;object=release?module-path=/usr/lib/softhsm/libsofthsm2.so"
    log_key = "awskms:///alias/acme-log?region=eu-west-1"

The owner secret needs no line: `secret.json` says itself whether a passphrase or a key in a store opens it. Knows no
model and no registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from registry.keystores.interface import FILE, PinSource, kind_of, open_signer, open_wrapping, place_of
from registry.keystores.wrapped_secret import wrap_secret
from registry.signing.keys import ED25519, P256, P384, P521, PublicKey, generate
from registry.signing.secret import seal_secret
from registry.signing.signer import Signer
from watermark.errors import DocumentError, InputError

OWNER_KEY_SETTING: Final = "owner_key"
LOG_KEY_SETTING: Final = "log_key"


@dataclass(frozen=True)
class KeyStores:
    """References to keys outside the home; None for what lies in the home under its passphrase. `pin` asks for PINs."""

    owner_key: str | None = None
    log_key: str | None = None
    secret: str | None = None
    pin: PinSource | None = field(default=None, repr=False)

    @property
    def needs_passphrase(self) -> bool:
        """Whether anything of a home with these keys is sealed by a passphrase."""
        return None in (self.owner_key, self.log_key, self.secret)

    @property
    def settings(self) -> dict[str, str]:
        """The lines of settings.toml that remember these references."""
        lines = {OWNER_KEY_SETTING: self.owner_key, LOG_KEY_SETTING: self.log_key}
        return {name: reference for name, reference in lines.items() if reference is not None}


NO_STORES: Final = KeyStores()


def check_stores(stores: KeyStores) -> KeyStores:
    """Refuse references that a home cannot use, before anybody is asked for anything; returns them."""
    for reference in (stores.owner_key, stores.log_key):
        if reference is not None and kind_of(reference) == FILE:
            raise InputError(
                f"{reference!a} is a key file, and a home keeps its own",
                hint="name a key in a token (pkcs11:...) or in AWS KMS (awskms:///...), or leave the flag out",
            )
        if reference is not None:
            place_of(reference)
    if stores.secret is not None:
        open_wrapping(stores.secret, pin=stores.pin)
    return stores


def new_owner_signer(stores: KeyStores, algorithm: str) -> Signer:
    """The signing key of a new home: the one in the store, or a fresh one; InputError for what OMS cannot use."""
    if stores.owner_key is None:
        return generate(algorithm)
    signer = open_signer(stores.owner_key, pin=stores.pin)
    if signer.algorithm not in (P256, P384, P521):
        raise InputError(
            f"the key {place_of(stores.owner_key)} is {signer.algorithm}: OMS signs models with ECDSA",
            hint="make one on P-256, P-384 or P-521 there",
        )
    return signer


def new_log_signer(stores: KeyStores) -> Signer:
    """The log key of a new home: the one in the store, or a fresh one; InputError for anything but Ed25519."""
    if stores.log_key is None:
        return generate(ED25519)
    signer = open_signer(stores.log_key, pin=stores.pin)
    if signer.algorithm != ED25519:
        raise InputError(
            f"the key {place_of(stores.log_key)} is {signer.algorithm}: checkpoints are signed with Ed25519",
            hint="make an Ed25519 key there (KMS: ECC_NIST_EDWARDS25519), or leave --log-key out",
        )
    return signer


def close_secret(secret: bytes, owner: str, passphrase: bytes, stores: KeyStores) -> bytes:
    """The document `secret.json`: wrapped by a key in a store where one is named, else sealed by the passphrase."""
    if stores.secret is None:
        return seal_secret(secret, passphrase)
    return wrap_secret(secret, stores.secret, owner, stores.pin)


def open_store_key(reference: str, public: PublicKey | None, pin: PinSource | None) -> Signer:
    """Open a key that the settings name; asks for a PIN as passphrases are asked for, when no other way is given."""
    from cli.passphrase import read_pin

    return open_signer(reference, pin=pin or read_pin, public=public)


def stores_of(settings: Mapping[str, Any]) -> KeyStores:
    """The references in settings that were read; DocumentError when one is not text."""
    for name in (OWNER_KEY_SETTING, LOG_KEY_SETTING):
        if name in settings and not isinstance(settings[name], str):
            raise DocumentError(f"{name} in the settings is no text", hint="restore settings.toml from a backup")
    return KeyStores(settings.get(OWNER_KEY_SETTING), settings.get(LOG_KEY_SETTING))
