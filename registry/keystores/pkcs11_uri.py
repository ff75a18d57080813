"""`pkcs11:` URIs (RFC 7512): which key in which token, and by which module it is reached.

    pkcs11:token=acme;object=release?module-path=/usr/lib/softhsm/libsofthsm2.so

Read strictly: an attribute that is not understood, or stands twice, is refused, since it was written to narrow the
choice. A PIN in the text (`pin-value`) is refused too: argv and settings are no place for it. Knows no module and no
token.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from watermark.errors import InputError

MODULE_VARIABLE: Final = "WEIGHTMARK_PKCS11_MODULE"
_PATH: Final = ("token", "serial", "manufacturer", "model", "object", "id", "type")
_QUERY: Final = ("module-path", "pin-source")
_FORM: Final = "write pkcs11:token=NAME;object=NAME?module-path=/path/to/module.so"
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")


@dataclass(frozen=True)
class Pkcs11Uri:
    """A parsed reference; what is None was not said. `key_id` is CKA_ID, `label` is CKA_LABEL."""

    token: str | None
    serial: str | None
    manufacturer: str | None
    model: str | None
    label: str | None
    key_id: bytes | None
    module: str | None
    pin_source: str | None

    @property
    def token_name(self) -> str:
        """What to call the token: its label, else its serial number."""
        return self.token or self.serial or "(any)"

    @property
    def place(self) -> str:
        """Where the key is, in words."""
        key = self.label if self.label is not None else f"id {self.key_id.hex()}" if self.key_id is not None else "any"
        return f"in PKCS#11 token {self.token_name} (object {key})"

    @property
    def module_path(self) -> str:
        """The module to load: from the URI, else WEIGHTMARK_PKCS11_MODULE; InputError when neither says it."""
        module = self.module or os.environ.get(MODULE_VARIABLE)
        if not module:
            raise InputError(
                f"no PKCS#11 module is named for the key {self.place}",
                hint=f"add ?module-path=/path/to/module.so to the URI, or set {MODULE_VARIABLE}",
            )
        return module


def parse_pkcs11_uri(text: str) -> Pkcs11Uri:
    """Read a `pkcs11:` URI; InputError naming what is wrong in it, without repeating a PIN that stands there."""
    scheme, _, rest = text.partition(":")
    if scheme != "pkcs11":
        raise InputError("this is no pkcs11: URI", hint=_FORM)
    path, _, query = rest.partition("?")
    fields = _fields(path, ";", _PATH) | _fields(query, "&", _QUERY)
    if fields.get("type", b"private") not in (b"private", b"secret-key"):
        raise InputError("the pkcs11: URI names an object that cannot sign or wrap", hint="leave out type=")
    if "token" not in fields and "serial" not in fields:
        raise InputError("the pkcs11: URI names no token", hint=_FORM)
    if "object" not in fields and "id" not in fields:
        raise InputError("the pkcs11: URI names no key", hint="add object=NAME or id=%01%02")
    words = {name: _text(value, name) for name, value in fields.items() if name != "id"}
    return Pkcs11Uri(
        words.get("token"),
        words.get("serial"),
        words.get("manufacturer"),
        words.get("model"),
        words.get("object"),
        fields.get("id"),
        words.get("module-path"),
        words.get("pin-source"),
    )


def _fields(part: str, separator: str, known: tuple[str, ...]) -> dict[str, bytes]:
    fields: dict[str, bytes] = {}
    for attribute in part.split(separator) if part else ():
        name, equals, value = attribute.partition("=")
        if name == "pin-value":
            raise InputError(
                "a PIN must not stand in the pkcs11: URI: others see it in the list of processes and in settings",
                hint="type it when asked, pass --pin-fd N, set WEIGHTMARK_PIN, or name a file with pin-source=",
            )
        if name not in known or not equals:
            raise InputError(
                f"the pkcs11: URI has the attribute {name[:40]!a}, which is not understood",
                hint=f"known are {', '.join(_PATH)}, and after a question mark {', '.join(_QUERY)}",
            )
        if name in fields:
            raise InputError(f"the pkcs11: URI says {name} twice", hint=_FORM)
        if _BAD_ESCAPE.search(value):
            raise InputError(f"{name} in the pkcs11: URI is not percent-encoded", hint="write a percent sign as %25")
        fields[name] = unquote_to_bytes(value)
    return fields


def _text(value: bytes, name: str) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} in the pkcs11: URI is not UTF-8") from error
    if not text or not text.isprintable():
        raise InputError(f"{name} in the pkcs11: URI is empty or holds control characters", hint=_FORM)
    return text
