"""Which 32 bytes may be enrolled as an Ed25519 public key (RFC 8032 section 5.1.3).

OpenSSL verifies with non-canonical and small-order keys too, and with such a key one signature fits many messages. So a
key is looked at once, when it comes in. Only points are judged here; no signature and no file.
"""

from __future__ import annotations

from watermark.errors import InputError

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_SIGN_BIT = 1 << 255

# y of the points of order 8: a root of d*y^4 + 2*y^2 - 1 = 0 (doubling such a point must give y = 0), and its negative.
_Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


def check_ed25519_point(raw: bytes) -> None:
    """Refuse 32 bytes that are not a sound Ed25519 public key.

    Raises InputError for another length, a non-canonical encoding (y >= 2^255 - 19, or x = 0 with the sign bit), a
    point off the curve, and the 8 points of small order in any encoding.
    """
    if len(raw) != 32:
        raise InputError(f"an Ed25519 public key has 32 bytes, this one {len(raw)}")
    encoded = int.from_bytes(raw, "little")
    y, sign = encoded & ~_SIGN_BIT, encoded & _SIGN_BIT
    if y % _P in SMALL_ORDER_Y:
        raise InputError("the Ed25519 public key is a point of small order", hint=_HINT)
    if y >= _P:
        raise InputError("the Ed25519 public key is not in canonical form", hint=_HINT)
    x_squared = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if pow(x_squared, (_P - 1) // 2, _P) != 1:
        raise InputError("the Ed25519 public key is not a point of the curve", hint=_HINT)
    assert not (x_squared == 0 and sign), "x = 0 only at y = 1 and y = -1, both of small order"


_HINT = "no honest key generator makes such a key; ask its owner for another one"
