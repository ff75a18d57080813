"""Signing keys: the one door to `key_types` (algorithms, keys in memory) and `key_files` (PEM and DER, files)."""

from __future__ import annotations

from registry.signing.key_files import (
    private_key_from_pem,
    public_key_from_der,
    public_key_from_pem,
    read_private_key,
    read_public_key,
    write_new_private_file,
    write_private_key,
)
from registry.signing.key_types import (
    ALGORITHMS,
    ED25519,
    MLDSA44,
    MLDSA65,
    MLDSA87,
    MLDSA_ALGORITHMS,
    OMS_ALGORITHMS,
    P256,
    P384,
    P521,
    PrivateKey,
    PublicKey,
    enrol,
    generate,
    mldsa_from_seed,
    private_key_of,
    public_key_from_raw,
)

__all__ = [
    "ALGORITHMS",
    "ED25519",
    "MLDSA44",
    "MLDSA65",
    "MLDSA87",
    "MLDSA_ALGORITHMS",
    "OMS_ALGORITHMS",
    "P256",
    "P384",
    "P521",
    "PrivateKey",
    "PublicKey",
    "enrol",
    "generate",
    "mldsa_from_seed",
    "private_key_from_pem",
    "private_key_of",
    "public_key_from_der",
    "public_key_from_pem",
    "public_key_from_raw",
    "read_private_key",
    "read_public_key",
    "write_new_private_file",
    "write_private_key",
]
