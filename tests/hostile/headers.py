"""Safetensors files made by hand, byte by byte, to lie in one way each; and random damage to good ones."""

from __future__ import annotations

import json
import random
from typing import Any

from safetensors import SafetensorError, deserialize

from watermark.errors import WeightmarkError
from watermark.model.dtypes import dtype
from watermark.model.safetensors import TensorInfo, build_header, parse_header


def raw_file(header: bytes, data: bytes = b"", *, claimed_length: int | None = None) -> bytes:
    """A file with exactly this header text and data, whose length field may lie."""
    length = len(header) if claimed_length is None else claimed_length
    return length.to_bytes(8, "little") + header + data


def json_file(members: dict[str, Any], data: bytes = b"") -> bytes:
    """A file whose header is this object."""
    return raw_file(json.dumps(members).encode(), data)


def entry(begin: int, end: int, shape: list[Any] | None = None, kind: str = "U8") -> dict[str, Any]:
    """One tensor's member, by default a row of bytes."""
    return {"dtype": kind, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def parse_file(data: bytes) -> tuple[tuple[TensorInfo, ...], dict[str, str], int]:
    """Parse a whole file held in memory."""
    return parse_header(data, len(data), "model.safetensors")


def good_file(seed: int = 7) -> bytes:
    """A small file with a tensor of every kind of member that a header may have."""
    layout = [
        ("layer.0.weight", dtype("F32"), (3, 4)),
        ("layer.0.bias", dtype("BF16"), (4,)),
        ("empty", dtype("F16"), (0, 5)),
        ("scalar", dtype("I64"), ()),
        ("codes", dtype("F4"), (2, 8)),
        ("Gewicht \u00fc \U0001f600", dtype("BOOL"), (3,)),
    ]
    header = build_header(layout, {"format": "pt", "note": 'quotes " and \\ and \u00e9'})
    size = 48 + 8 + 0 + 8 + 8 + 3
    return header + random.Random(seed).randbytes(size)


TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b":", b",", b"\\", b"-", b"0", b"1", b"9", b"e", b".", b" ", b"\n", b"\t", b"\x00",
    b"null", b"true", b"NaN", b"Infinity", b"1e999", b"-0", b"18446744073709551616", b'"dtype"', b'"shape"',
    b'"data_offsets"', b"__metadata__", b'"F32"', b'"F64"', b'"U8"', b"\xef\xbb\xbf", b"\xff", b"\\ud800", b"\\u0041",
    b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},', b",[[[[[[[[", b"[]",
)  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one to four places: mostly in its header, now and then in its length or size."""
    out = bytearray(data)
    header_end = 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(8, max(9, min(header_end, len(out))))
        choice = rng.randrange(9)
        if choice == 0:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif choice == 1:
            out[at:at] = rng.choice(TOKENS)
        elif choice == 2:
            del out[at : at + rng.randint(1, 8)]
        elif choice == 3:
            source = rng.randrange(8, max(9, len(out)))
            out[at:at] = out[source : source + rng.randint(1, 40)]
        elif choice == 4:
            token = rng.choice(TOKENS)
            out[at : at + len(token)] = token
        elif choice == 5:
            out[rng.randrange(8)] = rng.randrange(256)
        elif choice == 6:
            del out[len(out) - rng.randint(1, 16) :]
        elif choice == 7:
            out += rng.randbytes(rng.randint(1, 16))
        else:
            digits = [place for place in range(8, min(header_end, len(out))) if 48 <= out[place] <= 57]
            if digits:
                out[rng.choice(digits)] = rng.randrange(48, 58)
    if rng.random() < 0.7 and len(out) >= 8:
        # A true length, so that most damage is met by the rules behind the first.
        grown = len(out) - len(data)
        out[:8] = max(0, header_end - 8 + grown).to_bytes(8, "little")
    return bytes(out)


def verdict(data: bytes) -> tuple[TensorInfo, ...] | WeightmarkError:
    """What our reader says of a file: its tensors, or the refusal. Anything else that it raises is a bug."""
    try:
        return parse_file(data)[0]
    except WeightmarkError as error:
        return error


def compare(data: bytes) -> str:
    """Hold our reader against the reference reader, and say how they agreed.

    Raises AssertionError when we accept what the reference refuses, or read it differently.
    """
    ours = verdict(data)
    try:
        reference = dict(deserialize(data))
    except SafetensorError:
        assert isinstance(ours, WeightmarkError), "accepted by us, refused by the reference"
        return "refused by both"
    if isinstance(ours, WeightmarkError):
        return "refused by us alone: " + _rule(ours)
    assert {tensor.name for tensor in ours} == reference.keys()
    for tensor in ours:
        assert reference[tensor.name]["dtype"] == tensor.dtype.name
        assert tuple(reference[tensor.name]["shape"]) == tensor.shape
        assert bytes(reference[tensor.name]["data"]) == data[tensor.begin : tensor.begin + tensor.nbytes]
    return "read alike by both"


def _rule(error: WeightmarkError) -> str:
    return next((rule for rule in OUR_OWN_RULES if rule in str(error)), str(error))


# Where we are stricter than the reference on purpose; each is a way to say two things in one header.
OUR_OWN_RULES = (
    "stands twice",
    "must have exactly dtype, shape and data_offsets",
    "text follows the closing brace",
)
