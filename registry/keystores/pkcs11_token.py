"""Keys in PKCS#11 tokens (OASIS PKCS#11 v2.40 and v3.0), by python-pkcs11: smart cards, HSMs, SoftHSM.

Signs with ECDSA on the three curves of OMS (CKM_ECDSA over the digest, raw r||s turned into DER) and with Ed25519
(CKM_EDDSA over the message); wraps secrets with an AES key (CKM_AES_GCM). A session lives for one operation: a token
that is pulled out and put back goes on working, and nothing stays logged in. Errors of the module are translated here
and nowhere else. Knows nothing of what is signed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from registry.keystores.interface import PinSource, StoreSigner
from registry.keystores.pkcs11_uri import Pkcs11Uri, parse_pkcs11_uri
from registry.signing.canonical import canonical
from registry.signing.keys import ED25519, P256, P384, P521, PublicKey, enrol, public_key_from_raw
from registry.signing.small_files import read_small_file
from watermark.errors import InputError, KeyStoreError, UnavailableError, WeightmarkError

if TYPE_CHECKING:
    import pkcs11

_CURVES: Final[Mapping[bytes, ec.EllipticCurve]] = {  # CKA_EC_PARAMS: a named curve's object identifier in DER
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
    bytes.fromhex("06052b81040023"): ec.SECP521R1(),
}
_ED25519: Final = (bytes.fromhex("130c656477617264733235353139"), bytes.fromhex("06032b6570"))
_HASHES: Final = {P256: hashlib.sha256, P384: hashlib.sha384, P521: hashlib.sha512}
_NONCE_BYTES, _TAG_BITS = 12, 128
_MAX_PIN_BYTES = 256
# C_Login and C_Logout speak for the whole process, not for one session.
_ONE_AT_A_TIME = threading.Lock()


def open_token_signer(reference: str, pin: PinSource | None, public: PublicKey | None) -> StoreSigner:
    """Open the private key that a `pkcs11:` URI names; the token is asked for its public half unless that is given.

    Raises InputError for the URI or an unsupported key, KeyStoreError when the token refuses (wrong PIN, no such
    key), UnavailableError when there is no such token.
    """
    uri = parse_pkcs11_uri(reference)
    _require_library()
    open_session = _sessions(uri, pin)
    if public is None:
        with open_session() as session:
            public = _public_key(session, uri)
    algorithm = public.algorithm
    if algorithm != ED25519 and algorithm not in _HASHES:
        raise InputError(f"the key {uri.place} is {algorithm}, which tokens do not sign here")

    def sign(message: bytes) -> bytes:
        from pkcs11 import Mechanism, ObjectClass

        with open_session() as session:
            key = _find(session, uri, ObjectClass.PRIVATE_KEY)
            if algorithm == ED25519:
                return bytes(key.sign(message, mechanism=Mechanism.EDDSA))
            raw = bytes(key.sign(_HASHES[algorithm](message).digest(), mechanism=Mechanism.ECDSA))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    return StoreSigner(algorithm, public, uri.place, sign)


class TokenWrapping:
    """An AES key in a token that encrypts small secrets: a nonce of 12 bytes, then AES-GCM with a tag of 16."""

    def __init__(self, uri: Pkcs11Uri, pin: PinSource | None) -> None:
        """Use `open_token_wrapping`."""
        self._uri = uri
        self._open_session = _sessions(uri, pin)

    def wrap(self, secret: bytes, context: Mapping[str, str]) -> bytes:
        """Encrypt a secret under the token's key, bound to the context."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._run("encrypt", nonce, secret, context)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Decrypt what `wrap` made; KeyStoreError when key, bytes or context are others."""
        return self._run("decrypt", wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)

    def _run(self, operation: str, nonce: bytes, data: bytes, context: Mapping[str, str]) -> bytes:
        from pkcs11 import GCMParams, Mechanism, ObjectClass

        with self._open_session() as session:
            key = _find(session, self._uri, ObjectClass.SECRET_KEY)
            parameters = GCMParams(nonce, canonical(dict(context)), _TAG_BITS)
            try:
                return bytes(getattr(key, operation)(data, mechanism=Mechanism.AES_GCM, mechanism_param=parameters))
            except _not_authentic() as error:
                if operation == "encrypt":
                    raise
                raise KeyStoreError(
                    f"the key {self._uri.place} does not open the secret: another key wrapped it, or it was changed",
                    hint="restore secret.json from a backup, or name the key that wrapped it",
                ) from error


def open_token_wrapping(reference: str, pin: PinSource | None) -> TokenWrapping:
    """Open the AES key that a `pkcs11:` URI names. Errors as `open_token_signer`, when it is used."""
    uri = parse_pkcs11_uri(reference)
    _require_library()
    return TokenWrapping(uri, pin)


def _require_library() -> None:
    """python-pkcs11 is an extra: most owners have no token."""
    if find_spec("pkcs11") is None:
        raise KeyStoreError(
            "keys in PKCS#11 tokens need the package python-pkcs11, which is not installed",
            hint="pip install python-pkcs11, or weightmark with its extra: pip install 'weightmark[pkcs11]'",
        )


def _not_authentic() -> tuple[type[Exception], ...]:
    """What modules say when a tag of AES-GCM is wrong: the standard has a code for it, SoftHSM 2.6 another."""
    from pkcs11 import exceptions as said

    return said.EncryptedDataInvalid, said.EncryptedDataLenRange, said.FunctionFailed, said.GeneralError


def _sessions(uri: Pkcs11Uri, ask: PinSource | None) -> Callable[[], Any]:
    """A way to open sessions that asks for the PIN once, the first time."""
    known: list[str] = []

    def pin_for(token: pkcs11.Token) -> str:
        if not known:
            known.append(_pin(uri, ask, token))
        return known[0]

    @contextmanager
    def open_session() -> Iterator[pkcs11.Session]:
        with _ONE_AT_A_TIME, _translated(uri):
            token = _token(uri)
            try:
                session = _login(token, pin_for)
            except BaseException:
                known.clear()  # a wrong PIN is asked for again, never sent a second time
                raise
            with session:
                yield session

    return open_session


def _login(token: pkcs11.Token, pin_for: Callable[[pkcs11.Token], str]) -> pkcs11.Session:
    from pkcs11 import PROTECTED_AUTH, TokenFlag
    from pkcs11.exceptions import UserAlreadyLoggedIn

    if not token.flags & TokenFlag.LOGIN_REQUIRED:
        return token.open()
    by_keypad = token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH
    try:
        return token.open(user_pin=PROTECTED_AUTH if by_keypad else pin_for(token))
    except UserAlreadyLoggedIn:  # by other code in this process: the token is open, and stays so
        return token.open()


def _token(uri: Pkcs11Uri) -> pkcs11.Token:
    """The one token that fits the URI."""
    import pkcs11

    module = uri.module_path
    if not Path(module).is_file():
        raise InputError(f"the PKCS#11 module {module} is not there", hint="name the vendor's .so with module-path=")
    found = [token for token in pkcs11.lib(module).get_tokens() if _fits(token, uri)]
    if not found:
        raise UnavailableError(
            f"there is no PKCS#11 token {uri.token_name} in {module}",
            hint="put the token in, or see its exact name with the vendor's tool, or pkcs11-tool --list-slots",
        )
    if len(found) > 1:
        raise InputError(f"{len(found)} tokens are named {uri.token_name}", hint="add serial= to the URI")
    return found[0]


def _fits(token: pkcs11.Token, uri: Pkcs11Uri) -> bool:
    serial = token.serial.decode("ascii", "replace") if isinstance(token.serial, bytes) else str(token.serial)
    pairs = (
        (uri.token, token.label),
        (uri.serial, serial),
        (uri.manufacturer, token.manufacturer_id),
        (uri.model, token.model),
    )
    return all(wanted is None or wanted == (there or "").rstrip(" \x00") for wanted, there in pairs)


def _pin(uri: Pkcs11Uri, ask: PinSource | None, token: pkcs11.Token) -> str:
    if uri.pin_source is not None:
        path = Path(uri.pin_source.removeprefix("file://").removeprefix("file:"))
        pin = read_small_file(path, what="the PIN", max_bytes=_MAX_PIN_BYTES).split(b"\n", 1)[0].rstrip(b"\r")
        if path.stat().st_mode & 0o077:
            raise InputError(f"others may read the PIN in {path}", hint=f"chmod 600 {path}")
    elif ask is None:
        raise KeyStoreError(f"PKCS#11 token {token.label} asks for a PIN, and there is none to give")
    else:
        pin = ask(f"PKCS#11 token {token.label}")
    try:
        return pin.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("the PIN is not UTF-8 text") from error


def _find(session: pkcs11.Session, uri: Pkcs11Uri, kind: pkcs11.ObjectClass) -> Any:
    """The one object of this class that the URI names."""
    from pkcs11 import Attribute

    wanted: dict[Attribute, Any] = {Attribute.CLASS: kind}
    if uri.label is not None:
        wanted[Attribute.LABEL] = uri.label
    if uri.key_id is not None:
        wanted[Attribute.ID] = uri.key_id
    found = list(session.get_objects(wanted))
    what = kind.name.lower().replace("_", " ")
    if not found:
        raise KeyStoreError(f"there is no {what} {uri.place}", hint="check object= and id= of the pkcs11: URI")
    if len(found) > 1:
        raise InputError(f"{len(found)} objects are the {what} {uri.place}", hint="name one with id=")
    return found[0]


def _public_key(session: pkcs11.Session, uri: Pkcs11Uri) -> PublicKey:
    """The public half, from the public key object that stands beside the private key."""
    from pkcs11 import Attribute, ObjectClass
    from pkcs11.exceptions import AttributeTypeInvalid

    _find(session, uri, ObjectClass.PRIVATE_KEY)
    found = _find(session, uri, ObjectClass.PUBLIC_KEY)
    what = f"the key {uri.place}"
    try:
        parameters, point = bytes(found[Attribute.EC_PARAMS]), _point(bytes(found[Attribute.EC_POINT]))
    except (KeyError, TypeError, AttributeTypeInvalid) as error:
        raise InputError(f"{what} is no elliptic curve key", hint="use one on P-256, P-384 or P-521") from error
    if parameters in _ED25519:
        return public_key_from_raw(point)
    curve = _CURVES.get(parameters)
    if curve is None:
        raise InputError(f"{what} is on a curve that is not supported", hint="use P-256, P-384, P-521 or Ed25519")
    try:
        return enrol(ec.EllipticCurvePublicKey.from_encoded_point(curve, point), what=what)
    except ValueError as error:
        raise KeyStoreError(f"{what} has a public point that is not on its curve") from error


def _point(value: bytes) -> bytes:
    """CKA_EC_POINT is the DER of an OCTET STRING; some modules leave the wrapping out (PKCS#11 v2.40 section 2.3.3)."""
    for header in (2, 3):  # lengths below 128 have one byte, those of P-521 two
        if value[:1] == b"\x04" and len(value) > header:
            size = value[1] if header == 2 else value[2] if value[1] == 0x81 else -1
            if size == len(value) - header:
                return value[header:]
    return value


@contextmanager
def _translated(uri: Pkcs11Uri) -> Iterator[None]:
    """Translate what the module says, once, into what happened and what to do next."""
    from pkcs11 import exceptions as said

    try:
        yield
    except WeightmarkError:
        raise
    except (said.PinIncorrect, said.PinInvalid, said.PinLenRange) as error:
        raise KeyStoreError(
            f"the PIN of PKCS#11 token {uri.token_name} is wrong",
            hint="check it before you try again: tokens lock after a few wrong ones",
        ) from error
    except (said.PinLocked, said.PinExpired, said.UserPinNotInitialized) as error:
        raise KeyStoreError(
            f"PKCS#11 token {uri.token_name} is locked ({type(error).__name__})",
            hint="unlock it with its security officer's PIN, by the vendor's tool",
        ) from error
    except (said.TokenNotPresent, said.DeviceRemoved, said.DeviceError, said.TokenNotRecognised) as error:
        raise UnavailableError(
            f"PKCS#11 token {uri.token_name} is gone ({type(error).__name__}); nothing was signed",
            hint="put the token back and run the same command again",
        ) from error
    except (said.MechanismInvalid, said.KeyTypeInconsistent, said.FunctionNotSupported) as error:
        raise KeyStoreError(
            f"PKCS#11 token {uri.token_name} cannot do this with the key {uri.place} ({type(error).__name__})",
            hint="use a key and a token that know CKM_ECDSA, CKM_EDDSA, or for secrets CKM_AES_GCM",
        ) from error
    except said.PKCS11Error as error:
        raise KeyStoreError(
            f"PKCS#11 token {uri.token_name} refused: {type(error).__name__} {error}".rstrip(),
            hint="see the vendor's documentation for this code, and docs/keys.md for what is asked of a token",
        ) from error
