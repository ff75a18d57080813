"""Open a signing key, or a key that wraps secrets, from the text that says where it is kept.

    PATH or file:PATH        a PEM file, as ever                       key_file
    pkcs11:token=T;object=O  a key in a PKCS#11 token (RFC 7512)       pkcs11_token
    awskms:///KEY            a key in AWS KMS, by ARN, id or alias     aws_kms

A reference is no secret: it may stand in argv and in settings, so it never holds a PIN or a passphrase. The modules of
a kind, and what they need, are imported when such a key is used. Knows nothing of what is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from registry.signing.keys import PublicKey
from registry.signing.signer import Signer
from watermark.errors import InputError, KeyStoreError, SignatureError

FILE: Final = "file"
PKCS11: Final = "pkcs11"
AWS_KMS: Final = "awskms"

#: Asked for a passphrase when one is needed, and only then.
PassphraseSource = Callable[[], bytes]
#: Asked for the PIN of the token that it is given the name of.
PinSource = Callable[[str], bytes]

_KINDS = "a path, pkcs11:token=NAME;object=NAME, or awskms:///ARN-or-alias"
_PREFIXES: Final = {"pkcs11:": PKCS11, "awskms:": AWS_KMS, "file:": FILE}


class Wrapping(Protocol):
    """A key that encrypts small secrets and never leaves its store."""

    def wrap(self, secret: bytes, context: Mapping[str, str]) -> bytes:
        """Encrypt a secret; `context` is authenticated, not hidden, and the same is needed to unwrap."""

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Decrypt what `wrap` made; KeyStoreError when the key, the bytes or the context are others."""


@dataclass(frozen=True)
class StoreSigner:
    """A signing key in a store. Every signature is verified with the public key before anybody gets it.

    So neither a store that hashes otherwise, nor an alias that was moved to another key, can put a bad signature into
    a release or a log.
    """

    algorithm: str
    public: PublicKey
    place: str
    ask_store: Callable[[bytes], bytes] = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """Sign the whole message in the store; KeyStoreError when what comes back does not verify."""
        signature = self.ask_store(message)
        try:
            self.public.verify(signature, message)
        except SignatureError as error:
            raise KeyStoreError(
                f"the key {self.place} returned a signature that does not verify with key {self.public.key_id[:16]}",
                hint="another key may answer at this reference by now: name the right one by its id or ARN",
            ) from error
        return signature


def kind_of(reference: str) -> str:
    """The kind of store that a reference names: `file`, `pkcs11` or `awskms`; InputError for others."""
    for prefix, kind in _PREFIXES.items():
        if reference.startswith(prefix):
            return kind
    scheme, found, _ = reference.partition("://")
    if found and scheme.isalnum() and not Path(reference).exists():
        raise InputError(f"{reference!a}: keys in {scheme} are not known here", hint=f"name a key by {_KINDS}")
    if not reference:
        raise InputError("the reference to the key is empty", hint=f"name a key by {_KINDS}")
    return FILE


def file_of(reference: str) -> Path:
    """The path that a reference of the kind `file` names."""
    return Path(reference.removeprefix("file://").removeprefix("file:"))


def place_of(reference: str) -> str:
    """Where a key is, in words that follow "the key": `in PKCS#11 token acme (object release)`. Opens nothing."""
    kind = kind_of(reference)
    if kind == PKCS11:
        from registry.keystores.pkcs11_uri import parse_pkcs11_uri

        return parse_pkcs11_uri(reference).place
    if kind == AWS_KMS:
        from registry.keystores.aws_kms import parse_kms_uri

        return parse_kms_uri(reference).place
    return f"in the file {file_of(reference)}"


def open_signer(
    reference: str,
    *,
    passphrase: PassphraseSource | None = None,
    pin: PinSource | None = None,
    public: PublicKey | None = None,
) -> Signer:
    """Open the signing key that a reference names.

    `public` is what the caller remembers of the key: a store is then not asked for it, and a signature by any other
    key is refused. Raises InputError for a reference or a file that cannot be used, KeyStoreError when the store
    refuses, UnavailableError when it is out of reach.
    """
    kind = kind_of(reference)
    if kind == PKCS11:
        from registry.keystores.pkcs11_token import open_token_signer

        return open_token_signer(reference, pin, public)
    if kind == AWS_KMS:
        from registry.keystores.aws_kms import open_kms_signer

        return open_kms_signer(reference, public)
    from registry.keystores.key_file import open_key_file

    return open_key_file(file_of(reference), passphrase)


def open_wrapping(reference: str, *, pin: PinSource | None = None) -> Wrapping:
    """Open the key that wraps secrets: an AES key in a token, or a symmetric KMS key. Errors as `open_signer`."""
    kind = kind_of(reference)
    if kind == PKCS11:
        from registry.keystores.pkcs11_token import open_token_wrapping

        return open_token_wrapping(reference, pin)
    if kind == AWS_KMS:
        from registry.keystores.aws_kms import open_kms_wrapping

        return open_kms_wrapping(reference)
    raise InputError(
        f"{reference!a} is a file, and a file does not wrap a secret",
        hint="name a key in AWS KMS (awskms:///...) or in a token (pkcs11:...); a passphrase needs no flag",
    )
