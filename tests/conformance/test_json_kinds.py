"""JSON of the kinds that JSONTestSuite knows, in every place where a value may stand: right ones read, wrong refused.

The right answer comes from elsewhere: values are made first and written by a writer of our own, with free white space
and free spelling; wrong texts break the grammar of RFC 8259 by construction. Beyond the grammar, what RFC 7493 warns
of (names twice, numbers that readers differ about, lone surrogates) is refused as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from registry.signing.strict_json import MAX_SAFE_INTEGER, loads
from watermark.errors import DocumentError

PLACES: dict[str, Callable[[bytes], bytes]] = {
    "alone": lambda text: text,
    "in a list": lambda text: b"[" + text + b"]",
    "after a comma": lambda text: b"[0," + text + b"]",
    "before a comma": lambda text: b"[" + text + b",0]",
    "as a member": lambda text: b'{"a":' + text + b"}",
    "second member": lambda text: b'{"a":0,"b":' + text + b"}",
    "deep": lambda text: b'[{"a":[' + text + b"]}]",
    "with white space": lambda text: b" \t\r\n" + text + b" \t\r\n",
}

# fmt: off
WRONG_NUMBERS = (
    "-", "+", "++1", "+1", "--1", "-a", ".1", "-.1", "1.", "-1.", "1.e1", "1e", "1e+", "1eE2", "1E", "1ee2", "0e",
    "0e+", "01", "-01", "00", "-00", "012", "1 000", "1_000", "0x1", "0b1", "0o7", "1.2.3", "1e1.5", "1+2", "1/2",
    "Inf", "Infinity", "-Infinity", "NaN", "nan", "-NaN", "Infinit", "1f", "1L", "1a", ".", "e1", "１",
)
WRONG_WORDS = (
    "tru", "True", "TRUE", "nul", "Null", "None", "fals", "False", "undefined", "trueX", "nulll", "'a'", "a", "$",
    "#", "@", "/", "\\",
)
# fmt: on
WRONG_TEXTS = [
    rb'"',
    rb'"a',
    rb'a"',
    rb'"a""',
    rb'"\"',
    rb'"\a"',
    rb'"\x00"',
    rb'"\u"',
    rb'"\u1"',
    rb'"\u12"',
    rb'"\u123"',
    rb'"\u00zz"',
    rb'"\U00000041"',
    rb'"\u{41}"',
    rb'"\'"',
    rb'"\0"',
    rb'"\ud800"',
    rb'"\udfff"',
    rb'"\ud800\ud800"',
    rb'"\udc00\ud800"',
    rb'"\ud834x\udd1e"',
    rb'"\uD800\u0041"',
    b"`a`",
    "“a”".encode(),
    *(b'"' + bytes([code]) + b'"' for code in range(0x20)),
]
WRONG_UTF8 = [
    b"\x80",  # a continuation alone
    b"\xc0\x80",  # NUL in two bytes
    b"\xc0\xaf",
    b"\xc1\xbf",
    b"\xe0\x80\xaf",
    b"\xe0\x9f\xbf",
    b"\xf0\x80\x80\xaf",
    b"\xed\xa0\x80",  # surrogates as bytes
    b"\xed\xbf\xbf",
    b"\xed\xa0\xb4\xed\xb4\x9e",
    b"\xf4\x90\x80\x80",  # beyond U+10FFFF
    b"\xf5\x80\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xe9",  # Latin 1
    b"\xc3",  # cut
    b"\xe2\x82",
]
WRONG_SHAPES = [
    b"",
    b"[",
    b"]",
    b"{",
    b"}",
    b"[,]",
    b"[1,]",
    b"[,1]",
    b"[1,,2]",
    b"[1 2]",
    b"[1:2]",
    b'["a":1]',
    b"[1}",
    b'{"a":1]',
    b'{"a"}',
    b'{"a":}',
    b'{"a",1}',
    b'{"a" 1}',
    b'{"a"::1}',
    b"{:1}",
    b'{"a":1,}',
    b'{,"a":1}',
    b'{"a":1,,"b":2}',
    b'{"a":1 "b":2}',
    b"{a:1}",
    b"{'a':1}",
    b"{1:1}",
    b"{null:1}",
    b"{[]:1}",
    b"{{}:1}",
    b"[1]]",
    b"{}}",
    b"[]{}",
    b"[]1",
    b"1 2",
    b"(1)",
    b"<1>",
    b"[1] // more",
    b"/* */ [1]",
    b"[1, /* */ 2]",
    b"# x\n[1]",
    b"[1;2]",
    b"[...]",
    b"[1]\x00",
    b"\x00",
    b"[\x0c1]",
    b"[\x0b1]",
    b"[\xc2\xa01]",
    b"[\xe2\x80\xa81]",
    b"[\xe2\x81\xa01]",
    b"\xef\xbb\xbf[]",
    b"[\xef\xbb\xbf]",
    b'{"a":1,"a":1}',
    b'{"a":1,"\\u0061":1}',
    b'{"":1,"":2}',
]
BEYOND = [
    b"1e400",
    b"-1e400",
    b"9007199254740992",
    b"-9007199254740992",
    b"123123e100000",
    b"1" * 400,
    b"-" + b"9" * 30,
]

REFUSED = [
    *(number.encode() for number in WRONG_NUMBERS),
    *(word.encode() for word in WRONG_WORDS),
    *WRONG_TEXTS,
    *(b'"' + wrong + b'"' for wrong in WRONG_UTF8),
    *WRONG_UTF8,
    *WRONG_SHAPES,
    *BEYOND,
]


@pytest.mark.parametrize("place", PLACES)
def test_wrong_texts_are_refused_wherever_they_stand(place: str) -> None:
    taken = []
    for text in REFUSED:
        if text == b"" and place in ("in a list", "deep"):  # nothing between brackets is right
            continue
        try:
            loads(PLACES[place](text), what="it")
        except DocumentError:
            continue
        taken.append(text)
    assert taken == []
    assert len(REFUSED) > 200


def test_utf_16_and_32_are_refused() -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig"):
        for text in ('{"é":[1]}', "[1]", '"é"'):
            with pytest.raises(DocumentError):
                loads(text.encode(encoding), what="it")


# --- right ones, by a writer of our own

SPACES = ["", " ", "\n", "\t\r\n "]


def write(value: object, rng: random.Random) -> str:
    """One of the many spellings of a value."""
    if isinstance(value, dict):
        members = [f"{_space(rng)}{write(name, rng)}{_space(rng)}:{write(one, rng)}" for name, one in value.items()]
        return _around("{" + ",".join(members) + (_space(rng) if not members else "") + "}", rng)
    if isinstance(value, list):
        return _around("[" + ",".join(write(one, rng) for one in value) + "]", rng)
    if isinstance(value, str):
        return _around('"' + "".join(_character(one, rng) for one in value) + '"', rng)
    if isinstance(value, bool) or value is None:
        return _around({True: "true", False: "false", None: "null"}[value], rng)
    return _around(_number(value, rng), rng)


def _space(rng: random.Random) -> str:
    return rng.choice(SPACES)


def _around(text: str, rng: random.Random) -> str:
    return _space(rng) + text + _space(rng)


def _character(one: str, rng: random.Random) -> str:
    short = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    units = one.encode("utf-16-be")
    escaped = "".join(f"\\u{int.from_bytes(units[at : at + 2], 'big'):04x}" for at in range(0, len(units), 2))
    spellings = [escaped, escaped.upper().replace("\\U", "\\u")]
    if one in short:
        spellings.append(short[one])
    if one >= " " and one not in '"\\':
        spellings.append(one)
    return rng.choice(spellings)


def _number(value: object, rng: random.Random) -> str:
    if isinstance(value, int):
        return str(value)
    text = repr(value)
    if "e" in text:
        mantissa, exponent = text.split("e")
        return mantissa + rng.choice("eE") + exponent
    return rng.choice([text, text + "0", text + "e0", text + "E+00"])


def make(rng: random.Random, depth: int) -> object:
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, 1, -1, MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER, rng.randrange(-(10**9), 10**9)])
    if kind == 2:
        return rng.choice(
            [0.5, -1.25, 5e-324, 1.7976931348623157e308, rng.uniform(-1, 1) * 10.0 ** rng.randrange(-40, 40)]
        )
    if kind < 6:
        alphabet = 'a"\\/\b\f\n\r\t\x00\x1f\x7f\u00e9\u2028\ufeff\uffff\U0001f600\U0010ffff'
        return "".join(rng.choice(alphabet) for _ in range(rng.randrange(6)))
    if kind == 6:
        return [make(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {f"{number}{make(rng, 0)}": make(rng, depth - 1) for number in range(rng.randrange(4))}


def test_right_texts_are_read_as_what_they_say() -> None:
    seed = 20261125
    rng = random.Random(seed)
    for number in range(4000):
        value = make(rng, 3)
        text = write(value, rng)
        read = loads(text.encode(), what="it", max_bytes=1 << 24)
        assert same(read, value), f"seed {seed}, number {number}: {text!r}"


def same(read: object, value: object) -> bool:
    """Equal, and of the same kind: 1 is not true, and 1.0 was not written as 1."""
    if isinstance(value, dict):
        return isinstance(read, dict) and read.keys() == value.keys() and all(same(read[k], value[k]) for k in value)
    if isinstance(value, list):
        return isinstance(read, list) and len(read) == len(value) and all(map(same, read, value))
    return type(read) is type(value) and read == value
