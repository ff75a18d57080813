from __future__ import annotations

import pytest

from registry.keystores.pkcs11_uri import MODULE_VARIABLE, parse_pkcs11_uri
from watermark.errors import InputError

GOOD = "pkcs11:token=acme;object=release"


def test_every_part_is_read_and_percent_decoded() -> None:
    uri = parse_pkcs11_uri(
        "pkcs11:token=The%20Token;serial=4711;manufacturer=Acme;model=X%3B1;object=r%C3%A9lease;id=%01%AB;type=private"
        "?module-path=/usr/lib/p11.so&pin-source=file:/run/pin"
    )
    assert (uri.token, uri.serial, uri.manufacturer, uri.model) == ("The Token", "4711", "Acme", "X;1")
    assert (uri.label, uri.key_id) == ("rélease", b"\x01\xab")
    assert (uri.module_path, uri.pin_source) == ("/usr/lib/p11.so", "file:/run/pin")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pkcs11:object=release", "names no token"),
        ("pkcs11:token=acme", "names no key"),
        ("pkcs11:", "names no token"),
        (f"{GOOD};object=other", "says object twice"),
        (f"{GOOD};slot-id=3", "slot-id"),
        (f"{GOOD};colour=red", "colour"),
        (f"{GOOD};object", "object"),
        (f"{GOOD};type=public", "cannot sign"),
        (f"{GOOD};type=cert", "cannot sign"),
        (f"{GOOD}?module-name=softhsm", "module-name"),
        ("pkcs11:token=ac%me;object=release", "percent-encoded"),
        ("pkcs11:token=ac%ff;object=release", "not UTF-8"),
        ("pkcs11:token=;object=release", "empty"),
        ("pkcs11:token=a%1b%5b;object=release", "control"),
        ("awskms:///alias/a", "no pkcs11"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_pkcs11_uri(text)


def test_pin_in_the_text_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="PIN must not stand") as raised:
        parse_pkcs11_uri(f"{GOOD}?pin-value=canary-pin")
    assert "canary-pin" not in f"{raised.value} {raised.value.hint}"
    assert "--pin-fd" in str(raised.value.hint)


def test_module_comes_from_the_uri_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MODULE_VARIABLE, raising=False)
    with pytest.raises(InputError, match="no PKCS#11 module is named"):
        _ = parse_pkcs11_uri(GOOD).module_path
    monkeypatch.setenv(MODULE_VARIABLE, "/from/environment.so")
    assert parse_pkcs11_uri(GOOD).module_path == "/from/environment.so"
    assert parse_pkcs11_uri(f"{GOOD}?module-path=/from/uri.so").module_path == "/from/uri.so"
