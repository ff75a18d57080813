"""The job of `weightmark keys make`: a fresh signing key as a file, for whoever signs without a home of his own.

Ed25519 and ML-DSA keys sign beside the owner's key, never in its place: OMS signs models with the curves. Prints
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from registry.signing.keys import OMS_ALGORITHMS, generate, write_new_private_file, write_private_key
from watermark.errors import InputError


@dataclass(frozen=True)
class MadeKey:
    """A new key: its encrypted file, its public half beside it, and what it is good for. `key` is hex SHA-256."""

    private: Path
    public: Path
    key: str
    algorithm: str
    can_sign_models: bool


def make_key(algorithm: str, out: Path, passphrase: Callable[[], bytes]) -> MadeKey:
    """Make a key, write it encrypted to `out`, and its public half as PEM to `out` with `.pub` added.

    Raises InputError when either is there already, and asks for no passphrase then; keys are never overwritten.
    """
    public = out.with_name(out.name + ".pub")
    for place in (out, public):
        if os.path.lexists(place):
            raise InputError(f"{place} exists already", hint="keys are never overwritten; choose another place")
    key = generate(algorithm)
    write_private_key(out, key, passphrase())
    write_new_private_file(public, key.public.pem.encode("ascii"))
    return MadeKey(out, public, key.public.key_id, key.public.algorithm_name, algorithm in OMS_ALGORITHMS)
