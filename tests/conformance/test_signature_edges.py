"""Signatures at the edge, of the kinds that Wycheproof knows: encodings of ECDSA, scalars and points of Ed25519.

What is right is worked out here by arithmetic of our own (textbook formulas on integers), never by the code under test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from registry.signing.keys import P256, P384, P521, PrivateKey, PublicKey, generate, public_key_from_raw
from watermark.errors import InputError, SignatureError

MESSAGE = b"what was signed"


def accepts(key: PublicKey, signature: bytes, message: bytes = MESSAGE) -> bool:
    try:
        key.verify(signature, message)
    except SignatureError:
        return False
    return True


# --- ECDSA. Orders of the curves as SEC 2 prints them.

ORDERS = {
    P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    P384: int("F" * 48 + "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16),
    P521: int("1" + "F" * 65 + "A51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409", 16),
}


def length(size: int) -> bytes:
    return bytes([size]) if size < 0x80 else bytes([0x81, size])


def integer(value: int) -> bytes:
    """A DER INTEGER: two's complement in as few bytes as hold it."""
    content = value.to_bytes(
        (value.bit_length() if value >= 0 else (value + 1).bit_length()) // 8 + 1, "big", signed=True
    )
    return b"\x02" + length(len(content)) + content


def sequence(*parts: bytes) -> bytes:
    content = b"".join(parts)
    return b"\x30" + length(len(content)) + content


def raw_integer(content: bytes, tag: int = 2) -> bytes:
    return bytes([tag]) + length(len(content)) + content


def magnitude(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8 or 1, "big")


Form = Callable[[int, int, int], bytes]
#: Other spellings of the right r and s: each is refused, so that one signature has one spelling.
SPELLINGS: dict[str, Form] = {
    "padded r": lambda r, s, n: sequence(raw_integer(b"\x00\x00" + magnitude(r)), integer(s)),
    "padded s": lambda r, s, n: sequence(integer(r), raw_integer(b"\x00\x00" + magnitude(s))),
    "long length of the sequence": lambda r, s, n: long_length(sequence(integer(r), integer(s))),
    "longer length of the sequence": lambda r, s, n: long_length(sequence(integer(r), integer(s)), 4),
    "long length of r": lambda r, s, n: sequence(long_length(integer(r)), integer(s)),
    "long length of s": lambda r, s, n: sequence(integer(r), long_length(integer(s))),
    "indefinite length": lambda r, s, n: b"\x30\x80" + integer(r) + integer(s) + b"\x00\x00",
    "trailing byte": lambda r, s, n: sequence(integer(r), integer(s)) + b"\x00",
    "trailing byte inside": lambda r, s, n: sequence(integer(r), integer(s), b"\x00"),
    "trailing null inside": lambda r, s, n: sequence(integer(r), integer(s), b"\x05\x00"),
    "third integer": lambda r, s, n: sequence(integer(r), integer(s), integer(1)),
    "leading null": lambda r, s, n: sequence(b"\x05\x00", integer(r), integer(s)),
    "nested": lambda r, s, n: sequence(sequence(integer(r), integer(s))),
    "set": lambda r, s, n: b"\x31" + sequence(integer(r), integer(s))[1:],
    "octets for r": lambda r, s, n: sequence(raw_integer(integer(r)[2:], 4), integer(s)),
    "no sign byte": lambda r, s, n: sequence(*(raw_integer(b"\xff" + magnitude(v)) for v in (r, s))),
    "fixed width": lambda r, s, n: b"".join(v.to_bytes((n.bit_length() + 7) // 8, "big") for v in (r, s)),
    "one length too long": lambda r, s, n: grown(sequence(integer(r), integer(s)), 1),
    "one length too short": lambda r, s, n: grown(sequence(integer(r), integer(s)), -1),
    "swapped": lambda r, s, n: sequence(integer(s), integer(r)),
    "cut": lambda r, s, n: sequence(integer(r), integer(s))[:-1],
    "r alone": lambda r, s, n: sequence(integer(r)),
    "empty sequence": lambda r, s, n: sequence(),
    "nothing": lambda r, s, n: b"",
    "text": lambda r, s, n: sequence(integer(r), integer(s)).hex().encode(),
}
#: Other values than r and s, rightly spelled.
VALUES: dict[str, Form] = {
    f"r = {name_r}, s = {name_s}": lambda r, s, n, of_r=of_r, of_s=of_s: sequence(  # type: ignore[misc]
        integer(of_r(r, n)), integer(of_s(s, n))
    )
    for name_r, of_r in (
        ("r", lambda r, n: r),
        ("0", lambda r, n: 0),
        ("1", lambda r, n: 1),
        ("n - 1", lambda r, n: n - 1),
        ("n", lambda r, n: n),
        ("n + 1", lambda r, n: n + 1),
        ("n - r", lambda r, n: n - r),
        ("r + n", lambda r, n: r + n),
        ("r - n", lambda r, n: r - n),
        ("-r", lambda r, n: -r),
        ("r + 2^521", lambda r, n: r + 2**521),
    )
    for name_s, of_s in (
        ("s", lambda s, n: s),
        ("0", lambda s, n: 0),
        ("1", lambda s, n: 1),
        ("n - 1", lambda s, n: n - 1),
        ("n", lambda s, n: n),
        ("n - s", lambda s, n: n - s),
        ("s + n", lambda s, n: s + n),
        ("s - n", lambda s, n: s - n),
        ("-s", lambda s, n: -s),
    )
}
#: The two that verify: ECDSA is malleable, so signature bytes are nobody's identity.
RIGHT = {"r = r, s = s", "r = r, s = n - s"}


def long_length(encoded: bytes, size: int | None = None) -> bytes:
    """The same element with more length bytes than DER allows."""
    header = 3 if encoded[1] == 0x81 else 2
    content = encoded[header:]
    width = size or (2 if encoded[1] == 0x81 else 1)
    return encoded[:1] + bytes([0x80 + width]) + len(content).to_bytes(width, "big") + content


def grown(encoded: bytes, by: int) -> bytes:
    at = 2 if encoded[1] == 0x81 else 1
    return encoded[:at] + bytes([encoded[at] + by]) + encoded[at + 1 :]


@dataclass(frozen=True)
class Signed:
    key: PrivateKey
    r: int
    s: int
    n: int


SIGNED: dict[str, Signed] = {}
for _algorithm, _order in ORDERS.items():
    _key = generate(_algorithm)
    SIGNED[_algorithm] = Signed(_key, *decode_dss_signature(_key.sign(MESSAGE)), _order)


@pytest.mark.parametrize("algorithm", ORDERS)
def test_one_spelling_and_two_values_verify(algorithm: str) -> None:
    one = SIGNED[algorithm]
    right = sequence(integer(one.r), integer(one.s))
    assert right == one.key.sign(MESSAGE)
    taken = {
        name for name, form in {**SPELLINGS, **VALUES}.items() if accepts(one.key.public, form(one.r, one.s, one.n))
    }
    assert taken == RIGHT
    assert len(SPELLINGS) + len(VALUES) > 120
    assert not accepts(one.key.public, right, MESSAGE + b"\x00")


@pytest.mark.parametrize("algorithm", ORDERS)
def test_signatures_of_other_curves_and_keys(algorithm: str) -> None:
    for other, one in SIGNED.items():
        verified = accepts(SIGNED[algorithm].key.public, one.key.sign(MESSAGE))
        assert verified is (other == algorithm)
    assert not accepts(SIGNED[algorithm].key.public, generate(algorithm).sign(MESSAGE))


@pytest.mark.parametrize("algorithm", ORDERS)
def test_the_hash_is_that_of_the_curve(algorithm: str) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    from tests.registry.signing.authority import ec_key

    key = SIGNED[algorithm].key
    right = {P256: hashes.SHA256, P384: hashes.SHA384, P521: hashes.SHA512}[algorithm]
    for kind in (hashes.SHA1, hashes.SHA256, hashes.SHA384, hashes.SHA512, hashes.SHA3_256, hashes.SHA224):
        assert accepts(key.public, ec_key(key).sign(MESSAGE, ec.ECDSA(kind()))) is (kind is right)


# --- Ed25519: the curve -x^2 + y^2 = 1 + d x^2 y^2 over p = 2^255 - 19, by the formulas of RFC 8032 section 5.1

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]
ZERO: Point = (0, 1)


def add(a: Point, b: Point) -> Point:
    (x1, y1), (x2, y2) = a, b
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P
    return x, y


def multiply(scalar: int, point: Point) -> Point:
    result = ZERO
    for bit in bin(scalar)[2:]:
        result = add(result, result)
        if bit == "1":
            result = add(result, point)
    return result


def root_of_square(value: int) -> int | None:
    root = pow(value, (P + 3) // 8, P)
    for candidate in (root, root * pow(2, (P - 1) // 4, P) % P):
        if candidate * candidate % P == value % P:
            return candidate
    return None


def points_of(y: int) -> list[Point]:
    x = root_of_square((y * y - 1) * pow(D * y * y + 1, -1, P))
    return [] if x is None else [(x, y), (-x % P, y)]


def encode(point: Point, *, sign: int | None = None, y_offset: int = 0) -> bytes:
    x, y = point
    return (y + y_offset | (x & 1 if sign is None else sign) << 255).to_bytes(32, "little")


BASE = min(points_of(4 * pow(5, -1, P) % P), key=lambda point: point[0] & 1)


def torsion() -> list[Point]:
    """The eight points whose order divides 8: multiples of L times a point that has a part of order 8."""
    for y in range(2, 100):
        for point in points_of(y):
            eighth = multiply(L, point)
            if multiply(4, eighth) != ZERO:
                return [multiply(times, eighth) for times in range(8)]
    raise AssertionError


TORSION = torsion()


def small_order_encodings() -> set[bytes]:
    """Every 32 bytes that some decoder takes for a point of small order: y as it is or plus p, either sign."""
    return {
        encode(point, sign=sign, y_offset=offset)
        for point in TORSION
        for offset in (0, P)
        if point[1] + offset < 2**255
        for sign in (0, 1)
    }


def test_the_arithmetic_here_is_that_of_the_standard() -> None:
    assert encode(BASE).hex() == "58" + "66" * 31
    assert multiply(L, BASE) == ZERO
    assert len(set(TORSION)) == 8
    seed = bytes(range(32))
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & ~7 & (1 << 254) - 1 | 1 << 254
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    assert encode(multiply(scalar, BASE)) == Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def test_keys_of_small_order_are_not_enrolled() -> None:
    encodings = small_order_encodings()
    assert len(encodings) >= 14
    for encoding in encodings:
        with pytest.raises(InputError):
            public_key_from_raw(encoding)


def test_keys_that_are_spelled_otherwise_or_off_the_curve_are_not_enrolled() -> None:
    for y in range(19):  # y + p still fits in 255 bits: a second spelling of the same point
        for point in points_of(y):
            with pytest.raises(InputError):
                public_key_from_raw(encode(point, y_offset=P))
    off = [y for y in range(2, 60) if not points_of(y)]
    assert len(off) > 10
    for y in off:
        for sign in (0, 1):
            with pytest.raises(InputError):
                public_key_from_raw(encode((0, y), sign=sign))
    for wrong in (b"", bytes(31), bytes(33)):
        with pytest.raises(InputError):
            public_key_from_raw(wrong)


class Signer:
    """Ed25519 by the textbook, so that every part of a signature can be chosen."""

    def __init__(self, seed: int = 1) -> None:
        self.scalar = int.from_bytes(hashlib.sha512(bytes([seed])).digest(), "little") % L
        self.public = encode(multiply(self.scalar, BASE))
        self.key = public_key_from_raw(self.public)

    def challenge(self, r: bytes, message: bytes = MESSAGE) -> int:
        return int.from_bytes(hashlib.sha512(r + self.public + message).digest(), "little") % L

    def sign(self, nonce: int, *, beside: Point = ZERO, s_offset: int = 0) -> bytes:
        r = encode(add(multiply(nonce, BASE), beside))
        s = (nonce + self.challenge(r) * self.scalar) % L + s_offset
        return r + s.to_bytes(32, "little")


def test_ed25519_scalars_have_one_spelling() -> None:
    signer = Signer()
    good = signer.sign(12345)
    assert accepts(signer.key, good)
    assert accepts(signer.key, signer.sign(L - 1))
    multiples = [L * times for times in range(1, 16) if int.from_bytes(good[32:], "little") + L * times < 2**256]
    assert len(multiples) >= 10
    for offset in multiples:
        assert not accepts(signer.key, signer.sign(12345, s_offset=offset))
    for bit in (253, 254, 255):
        spoiled = bytearray(good)
        spoiled[32 + bit // 8] |= 1 << bit % 8
        assert not accepts(signer.key, bytes(spoiled))


def test_ed25519_points_are_taken_as_they_are_written() -> None:
    """No cofactor: a nonce point moved by a point of small order does not verify, however its challenge fits."""
    signer = Signer()
    for point in TORSION[1:]:
        assert not accepts(signer.key, signer.sign(12345, beside=point))
    good = signer.sign(12345)
    for wrong in (
        encode(ZERO) + good[32:],
        good[:32] + bytes(32),
        bytes(64),
        encode(BASE, y_offset=0) + good[32:],
        good[:31] + bytes([good[31] ^ 0x80]) + good[32:],
        good[:63],
        good + b"\x00",
        b"",
        good[32:] + good[:32],
        good.hex().encode(),
    ):
        assert not accepts(signer.key, wrong)
    assert not accepts(Signer(2).key, good)


def test_a_nonce_point_of_small_order_is_the_signers_own_risk() -> None:
    """R of small order with a fitting s is mathematically a signature when R is the neutral point: only the key's
    holder can make it, so nobody is deceived; with any other point of small order it is none."""
    signer = Signer()
    for point in TORSION:
        r = encode(point)
        s = signer.challenge(r) * signer.scalar % L
        assert accepts(signer.key, r + s.to_bytes(32, "little")) is (point == ZERO)
    for offset in (P,):  # the neutral point in its second spelling
        r = encode(ZERO, y_offset=offset)
        s = signer.challenge(r) * signer.scalar % L
        assert not accepts(signer.key, r + s.to_bytes(32, "little"))
