from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.signing.strict_json import as_object, dumps, loads, member
from watermark.errors import DocumentError

REFUSED = {
    "duplicate key": b'{"a":1,"a":1}',
    "duplicate key, nested": b'[{"x":{"a":1,"b":2,"a":3}}]',
    "duplicate key, escaped": b'{"a":1,"\\u0061":2}',
    "NaN": b"[NaN]",
    "Infinity": b"Infinity",
    "minus Infinity": b'{"a":-Infinity}',
    "1e999": b"1e999",
    "-1e999": b"[-1e999]",
    "lone high surrogate": b'"\\ud800"',
    "lone low surrogate": b'["\\udc00x"]',
    "turned surrogates": b'"\\udc00\\ud800"',
    "surrogate as key": b'{"\\uD83D":1}',
    "raw surrogate bytes": b'"\xed\xa0\x80"',
    "UTF-8 mark": b"\xef\xbb\xbf{}",
    "UTF-16 little": '{"a":1}'.encode("utf-16-le"),
    "UTF-16 mark": '{"a":1}'.encode("utf-16"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "overlong": b'"\xc0\xaf"',
    "latin 1": b'"\xe9"',
    "deep list": b"[" * 65 + b"]" * 65,
    "very deep list": b"[" * 100_000 + b"]" * 100_000,
    "very deep, unclosed": b'[{"a":' * 50_000,
    "2^53": b"9007199254740992",
    "-2^53": b"[-9007199254740992]",
    "5000 digits": b"1" * 5000,
    "text after": b"{} {}",
    "comma after": b"[1,]",
    "empty": b"",
    "white space only": b"  \n",
    "single quotes": b"{'a':1}",
    "comment": b"[1]//",
    "leading zero": b"[01]",
    "plus": b"[+1]",
    "bare point": b"[.5]",
    "point only": b"[1.]",
    "hex": b"[0x1]",
    "control in text": b'"a\x01b"',
    "line break in text": b'"a\nb"',
    "bad escape": b'"\\x41"',
    "form feed": b"\x0c[]",
    "no-break space": "\u00a0[]".encode(),
    "nul": b"[]\x00",
    "unclosed": b'{"a":',
    "number key": b"{1:2}",
    "literal": b"True",
    "wide digit": "[\uff11]".encode(),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_readers_disagree_about(data: bytes) -> None:
    with pytest.raises(DocumentError, match="the test"):
        loads(data, what="the test")


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"9007199254740991", 2**53 - 1),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b"[" * 64 + b"]" * 64, json.loads("[" * 64 + "]" * 64)),
        (b' {"a" : [1, 2.5, null, true, "\xc3\xa9"]}\n', {"a": [1, 2.5, None, True, "é"]}),
        (b"-0", 0),
        (b'"\\\\ud800"', "\\ud800"),
    ],
)
def test_reads_what_is_plain_json(data: bytes, value: object) -> None:
    assert loads(data, what="the test") == value


def test_caps_size_before_reading() -> None:
    assert loads(b"[1]", what="x", max_bytes=3) == [1]
    with pytest.raises(DocumentError, match="at most 2"):
        loads(b"[1]", what="x", max_bytes=2)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_reads_back_what_it_writes(value: object) -> None:
    assert loads(dumps(value), what="x") == value


@given(st.binary(max_size=40))
def test_raises_nothing_but_its_own_error(data: bytes) -> None:
    try:
        value = loads(data, what="x")
    except DocumentError:
        return
    assert value == json.loads(data)


def test_members_are_typed() -> None:
    document = as_object({"a": True, "b": 1, "c": "x"}, "x", allowed=("a", "b", "c"))
    assert member(document, "b", int, "x") == 1
    for key, kind in (("a", int), ("b", bool), ("c", list), ("d", str)):
        with pytest.raises(DocumentError):
            member(document, key, kind, "x")
    with pytest.raises(DocumentError, match="unknown key 'c'"):
        as_object(document, "x", allowed=("a", "b"))
    with pytest.raises(DocumentError):
        as_object([], "x")


@pytest.mark.parametrize("value", [float("nan"), "\ud800", object(), {(1, 2): 3}])
def test_writing_refuses_what_is_no_json(value: object) -> None:
    with pytest.raises(DocumentError):
        dumps([value])
