from __future__ import annotations

import random

import pytest

from registry.signing.canonical import canonical
from registry.signing.strict_json import loads
from watermark.errors import DocumentError


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


# RFC 8785 appendix B, and section 3.2.3 for the order of keys.
NUMBERS = {
    0x0000000000000000: "0",
    0x8000000000000000: "0",
    0x0000000000000001: "5e-324",
    0x8000000000000001: "-5e-324",
    0x7FEFFFFFFFFFFFFF: "1.7976931348623157e+308",
    0x4340000000000000: "9007199254740992",
    0x4430000000000000: "295147905179352830000",
    0x44B52D02C7E14AF5: "9.999999999999997e+22",
    0x44B52D02C7E14AF6: "1e+23",
    0x444B1AE4D6E2EF50: "1e+21",
    0x3EB0C6F7A0B5ED8D: "0.000001",
    0x41B3DE4355555555: "333333333.3333333",
    0xBECBF647612F3696: "-0.0000033333333333333333",
}


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_numbers_as_in_the_standard(bits: int, text: str) -> None:
    import struct

    value = struct.unpack(">d", bits.to_bytes(8, "big"))[0]
    assert canonical(value) == text.encode()


def test_keys_sort_by_utf16_code_units() -> None:
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\u00f6": 7}
    assert canonical(value) == '{"\\r":2,"1":4,"\x80":6,"ö":7,"€":1,"\U0001f600":5,"\ufb33":3}'.encode()


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**53, "\ud800", {"\udc00": 1}, {1: 2}, b"x", object(), nested(100_000)]
)
def test_refuses_what_has_no_canonical_form(value: object) -> None:
    with pytest.raises(DocumentError):
        canonical(value)


def test_round_trips_random_values() -> None:
    seed = 20261124
    rng = random.Random(seed)
    for _ in range(10_000):
        value = random_value(rng, 3)
        data = canonical(value)
        assert loads(data, what="x") == value, f"seed {seed}"
        assert canonical(loads(data, what="x")) == data, f"seed {seed}"


def random_value(rng: random.Random, depth: int) -> object:
    kind = rng.randrange(7 if depth else 5)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.randrange(-(2**53) + 1, 2**53)
    if kind == 2:
        return rng.uniform(-1, 1) * 10.0 ** rng.randrange(
            -30, 15
        )  # beyond, whole numbers would read as unsafe integers
    if kind in (3, 4):
        return "".join(
            chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))) for _ in range(rng.randrange(5))
        )
    if kind == 5:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {str(rng.random()): random_value(rng, depth - 1) for _ in range(rng.randrange(4))}
