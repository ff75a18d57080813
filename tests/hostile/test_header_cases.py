"""Each way in which a safetensors header can lie is refused by its name, before any tensor is read."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from tests.hostile.headers import entry, good_file, json_file, parse_file, raw_file
from watermark.errors import LimitError, ModelFormatError
from watermark.model.safetensors import MAX_HEADER_BYTES, parse_header

ONE = '{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
DATA = b"\x01\x02\x03\x04"


def text_file(text: str, data: bytes = DATA) -> bytes:
    return raw_file(text.encode("utf-8", "surrogatepass"), data)


def one(**changes: object) -> bytes:
    return json_file({"a": entry(0, 4) | changes}, DATA)


CASES: dict[str, bytes] = {
    # the length
    "empty file": b"",
    "seven bytes": b"\x00" * 7,
    "only a length of zero": b"\x00" * 8,
    "length of zero, then data": raw_file(b"", DATA),
    "length beyond the file by one": raw_file(b"{}", claimed_length=3),
    "length of 2^63": raw_file(b"{}", claimed_length=2**63),
    "length of 2^64 - 1": raw_file(b"{}", claimed_length=2**64 - 1),
    "length short by one": raw_file(b'{"a":' + ONE.encode() + b"}", DATA, claimed_length=len(ONE) + 5),
    "length long by one, into the data": raw_file(b"{}", b"\x01", claimed_length=3),
    # the text
    "no brace first": text_file('[{"a":' + ONE + "}]"),
    "leading space": text_file(' {"a":' + ONE + "}"),
    "byte order mark": raw_file(b'\xef\xbb\xbf{"a":' + ONE.encode() + b"}", DATA),
    "UTF-16": raw_file(('{"a":' + ONE + "}").encode("utf-16"), DATA),
    "not UTF-8": raw_file(b'{"\xff":' + ONE.encode() + b"}", DATA),
    "overlong UTF-8": raw_file(b'{"\xc0\xaf":' + ONE.encode() + b"}", DATA),
    "encoded surrogate": raw_file(b'{"\xed\xa0\x80":' + ONE.encode() + b"}", DATA),
    "escaped lone surrogate": text_file('{"\\ud800":' + ONE + "}"),
    "lone surrogate in metadata": text_file('{"__metadata__":{"a":"\\udfff"},"a":' + ONE + "}"),
    "raw control character in a name": text_file('{"a\n":' + ONE + "}"),
    "NUL after the header": text_file('{"a":' + ONE + "}\x00"),
    "newline as padding": text_file('{"a":' + ONE + "}\n"),
    "second object after the first": text_file('{"a":' + ONE + "}{}"),
    "trailing comma": text_file('{"a":' + ONE + ",}"),
    "missing comma": text_file('{"a":' + ONE + '"b":' + ONE + "}"),
    "missing colon": text_file('{"a"' + ONE + "}"),
    "missing brace": text_file('{"a":' + ONE),
    "single quotes": text_file("{'a':" + ONE + "}"),
    "bare name": text_file("{a:" + ONE + "}"),
    "a comment": text_file('{/**/"a":' + ONE + "}"),
    "bad escape": text_file('{"\\x":' + ONE + "}"),
    "deep arrays": text_file('{"a":' + "[" * 100_000 + "}"),
    "deep objects": text_file('{"a":' * 50_000 + "}" * 50_000),
    # names
    "name twice": text_file('{"a":' + ONE + ',"a":' + ONE + "}"),
    "name twice, once escaped": text_file('{"a":' + ONE + ',"\\u0061":' + ONE + "}"),
    "empty tensors of one name": text_file(
        "{" + '"e":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * 2 + '"a":' + ONE + "}"
    ),
    "metadata twice": text_file('{"__metadata__":{},"__metadata__":{},"a":' + ONE + "}"),
    "metadata key twice": text_file('{"__metadata__":{"k":"1","k":"2"},"a":' + ONE + "}"),
    "member twice within a tensor": text_file('{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}'),
    "number as a name": text_file("{1:" + ONE + "}"),
    "null as a name": text_file("{null:" + ONE + "}"),
    # metadata
    "metadata is a text": text_file('{"__metadata__":"x","a":' + ONE + "}"),
    "metadata is null": text_file('{"__metadata__":null,"a":' + ONE + "}"),
    "metadata holds a number": text_file('{"__metadata__":{"k":1},"a":' + ONE + "}"),
    "metadata holds an object": text_file('{"__metadata__":{"k":{}},"a":' + ONE + "}"),
    "metadata holds null": text_file('{"__metadata__":{"k":null},"a":' + ONE + "}"),
    "metadata is a tensor": text_file('{"__metadata__":' + ONE + "}"),
    # the members of a tensor
    "tensor is a list": json_file({"a": [0, 4]}, DATA),
    "tensor is null": json_file({"a": None}, DATA),
    "tensor is a text": json_file({"a": "U8"}, DATA),
    "dtype missing": json_file({"a": {"shape": [4], "data_offsets": [0, 4]}}, DATA),
    "shape missing": json_file({"a": {"dtype": "U8", "data_offsets": [0, 4]}}, DATA),
    "offsets missing": json_file({"a": {"dtype": "U8", "shape": [4]}}, DATA),
    "unknown member": one(strides=[1]),
    "hidden object in a tensor": one(extra={"dtype": "U8"}),
    "dtype unknown": one(dtype="U9"),
    "dtype in lower case": one(dtype="u8"),
    "dtype with a space": one(dtype="U8 "),
    "dtype is a number": one(dtype=8),
    "dtype is null": one(dtype=None),
    "shape is a number": one(shape=4),
    "shape is null": one(shape=None),
    "shape is an object": one(shape={"0": 4}),
    "shape holds a text": one(shape=["4"]),
    "shape holds true": one(shape=[4, True]),
    "shape holds 4.0": one(shape=[4.0]),
    "shape holds 4e0": text_file('{"a":{"dtype":"U8","shape":[4e0],"data_offsets":[0,4]}}'),
    "shape holds -4": one(shape=[-4]),
    "two negative dimensions": one(shape=[-2, -2]),
    "shape holds -0": text_file('{"a":{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}}'),
    "shape holds a leading zero": text_file('{"a":{"dtype":"U8","shape":[04],"data_offsets":[0,4]}}'),
    "shape holds NaN": text_file('{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}}'),
    "shape holds Infinity": text_file('{"a":{"dtype":"U8","shape":[Infinity],"data_offsets":[0,4]}}'),
    "shape holds 1e999": text_file('{"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,4]}}'),
    "shape holds 3,000 digits": text_file('{"a":{"dtype":"U8","shape":[' + "9" * 3000 + '],"data_offsets":[0,4]}}'),
    "shape holds 5,000 digits": text_file('{"a":{"dtype":"U8","shape":[' + "9" * 5000 + '],"data_offsets":[0,4]}}'),
    "65 dimensions": one(shape=[1] * 64 + [4]),
    "product wraps to 4 in 64 bits": one(shape=[2**62 + 1, 4]),
    "product overflows before a zero": json_file({"a": entry(0, 0, [2**62, 2**62, 0])}),
    "zero before a product that overflows": json_file({"a": entry(0, 0, [0, 2**62, 2**62])}),
    "dimension of 2^64": one(shape=[2**64]),
    "shape larger than the bytes": one(shape=[5]),
    "shape smaller than the bytes": one(shape=[3]),
    "wider dtype than the bytes": one(dtype="F32"),
    "half a byte left over": one(dtype="F4", shape=[7]),
    # where the bytes lie
    "offsets of three": one(data_offsets=[0, 2, 4]),
    "offsets of one": one(data_offsets=[4]),
    "offsets reversed": one(data_offsets=[4, 0]),
    "offsets of true": one(data_offsets=[False, 4]),
    "offsets of 0.0": one(data_offsets=[0.0, 4]),
    "offsets negative": one(data_offsets=[-4, 0]),
    "offsets beyond the file": json_file({"a": entry(0, 5)}, DATA),
    "offsets of 2^63": one(data_offsets=[2**63, 2**63 + 4]),
    "hole at the start": json_file({"a": entry(1, 5)}, DATA + b"\x05"),
    "hole between": json_file({"a": entry(0, 2), "b": entry(3, 5)}, DATA + b"\x05"),
    "overlap by one": json_file({"a": entry(0, 3), "b": entry(2, 4)}, DATA),
    "same bytes twice": json_file({"a": entry(0, 4), "b": entry(0, 4)}, DATA),
    "one inside another": json_file({"a": entry(0, 4), "b": entry(1, 2)}, DATA),
    "empty tensor beyond the end": json_file({"a": entry(0, 4), "b": entry(9, 9)}, DATA),
    "empty tensor inside another": json_file({"a": entry(0, 4), "b": entry(2, 2)}, DATA),
    "byte after the last tensor": json_file({"a": entry(0, 4)}, DATA + b"\x05"),
    "byte missing from the last tensor": json_file({"a": entry(0, 4)}, DATA[:3]),
    "data without tensors": raw_file(b"{}", DATA),
    "zip appended": good_file() + b"PK\x05\x06" + bytes(18),
}


def test_the_table_is_as_large_as_promised() -> None:
    assert len(CASES) >= 60
    assert len(set(CASES.values())) == len(CASES)


@pytest.mark.parametrize("data", CASES.values(), ids=CASES.keys())
def test_lying_header_is_refused(data: bytes) -> None:
    with pytest.raises(ModelFormatError) as caught:
        parse_file(data)
    assert "model.safetensors" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


GOOD_CASES: dict[str, tuple[bytes, int]] = {
    "no tensors": (raw_file(b"{}"), 0),
    "no tensors, padded": (raw_file(b"{}      "), 0),
    "metadata only": (json_file({"__metadata__": {"a": "b"}}), 0),
    "white space between tokens": (text_file('{ "a" :\n\t{"dtype" : "U8", "shape":[ 4 ],"data_offsets":[0,4]} }'), 1),
    "members in another order": (text_file('{"a":{"data_offsets":[0,4],"dtype":"U8","shape":[4]}}'), 1),
    "tensors not in the order of their bytes": (json_file({"b": entry(2, 4), "a": entry(0, 2)}, DATA), 2),
    "empty tensors at both ends": (json_file({"z": entry(4, 4), "a": entry(0, 4), "y": entry(0, 0)}, DATA), 3),
    "empty name": (json_file({"": entry(0, 4)}, DATA), 1),
    "64 dimensions": (one(shape=[1] * 63 + [4]), 1),
    "braces and quotes in a name": (json_file({'a{"}]': entry(0, 4)}, DATA), 1),
    "braces in metadata": (json_file({"__metadata__": {"j": '{"k": [1, {}]}'}, "a": entry(0, 4)}, DATA), 1),
    "pair of surrogate escapes": (text_file('{"\\ud83d\\ude00":' + ONE + "}"), 1),
}


@pytest.mark.parametrize(("data", "count"), GOOD_CASES.values(), ids=GOOD_CASES.keys())
def test_unusual_but_right_header_is_read(data: bytes, count: int) -> None:
    tensors, _, end = parse_file(data)
    assert len(tensors) == count
    assert end + sum(tensor.nbytes for tensor in tensors) == len(data)


def test_header_over_the_limit_is_refused_unread() -> None:
    first = (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{"
    with pytest.raises(LimitError, match=str(MAX_HEADER_BYTES)):
        parse_header(first, 10**9, "model.safetensors")


@pytest.mark.parametrize(
    "filling",
    ["[[],[],[]", "{},{},{}", '"a","a",', "0,0,0,0,", "[" * 16, '{"a":' * 4],
    ids=["lists", "objects", "texts", "numbers", "deep lists", "deep objects"],
)
def test_header_of_16_mib_of_rubbish_costs_little_memory(filling: str) -> None:
    text = '{"a":{"dtype":"U8","shape":[' + (filling + ",") * (8 * 1024 * 1024 // (len(filling) + 1))
    data = raw_file(text.encode())
    tracemalloc.start()
    try:
        with pytest.raises(ModelFormatError):
            parse_file(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The text itself, as bytes and as characters; nothing of what it would unfold to.
    assert peak < 3 * len(data)


def test_names_are_printed_escaped() -> None:
    data = json_file({"a\x1b[31m\n": entry(1, 5)}, DATA + b"\x05")
    with pytest.raises(ModelFormatError, match="hole") as caught:
        parse_file(data)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_header_of_many_tensors_is_read() -> None:
    count = 5_000
    members = {f"layer.{number}.weight": entry(number, number + 1) for number in range(count)}
    tensors = parse_file(json_file(members, bytes(count)))[0]
    assert [tensor.name for tensor in tensors] == list(members)


def test_json_text_agrees_with_json_module() -> None:
    names = ["plain", "tab\t", 'quote"', "back\\slash", "\u20ac", "\U0001f600", "del\x7f", "/slash"]
    for ensure_ascii in (True, False):
        text = json.dumps({name: entry(at, at + 1) for at, name in enumerate(names)}, ensure_ascii=ensure_ascii)
        assert [tensor.name for tensor in parse_file(raw_file(text.encode(), bytes(len(names))))[0]] == names
