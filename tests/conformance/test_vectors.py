"""Vectors of the standards: RFC 8032 7.1, RFC 6979 A.2.5 to 7, FIPS 204, RFC 6962 2.1.3, RFC 8785 appendix B.

Long lists come from the package cryptography-vectors; short ones stand here as the standard prints them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey, MLDSA65PublicKey, MLDSA87PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography_vectors import open_vector_file

from registry.log.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from registry.log.tiles import TileHashes
from registry.signing.canonical import canonical
from registry.signing.keys import ED25519, P256, P384, P521, PrivateKey, mldsa_from_seed, public_key_from_raw
from registry.signing.strict_json import loads
from watermark.errors import DocumentError, SignatureError

# --- RFC 8032, Ed25519

RFC_8032_7_1 = {  # message length in bytes: secret key, public key
    0: (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    ),
    1: (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    ),
    2: (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
    ),
    1023: (
        "f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5",
        "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
    ),
}


def ed25519_vectors() -> list[tuple[bytes, bytes, bytes, bytes]]:
    """Seed, public key, message, signature: the list by the authors of Ed25519, from which RFC 8032 took its own."""
    with open_vector_file("asymmetric/Ed25519/sign.input", "r") as file:
        lines = [line.strip().split(":") for line in file if line.strip()]
    fields = [[bytes.fromhex(one) for one in line[:4]] for line in lines]
    return [(secret[:32], public, message, signed[:64]) for secret, public, message, signed in fields]


def test_rfc_8032_ed25519() -> None:
    vectors = ed25519_vectors()
    assert len(vectors) == 1024
    by_secret = {secret.hex(): (public.hex(), len(message)) for secret, public, message, _ in vectors}
    for length, (secret, public) in RFC_8032_7_1.items():
        assert by_secret[secret] == (public, length)
    for secret, public, message, signature in vectors:
        key = PrivateKey(ED25519, Ed25519PrivateKey.from_private_bytes(secret))
        assert key.public.raw == public
        assert key.sign(message) == signature
        trusted = public_key_from_raw(public)
        trusted.verify(signature, message)
        with pytest.raises(SignatureError):
            trusted.verify(signature, message + b"\x00")


# --- RFC 6979, deterministic ECDSA: r and s as A.2.5 to A.2.7 print them, for the hash that OMS uses on the curve

RFC_6979 = {
    P256: (
        ec.SECP256R1(),
        "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721",
        {
            "sample": (
                "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
                "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
            ),
            "test": (
                "F1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367",
                "019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083",
            ),
        },
    ),
    P384: (
        ec.SECP384R1(),
        "6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D896D5724E4C70A825F872C9EA60D2EDF5",
        {
            "sample": (
                "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46",
                "99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8",
            ),
            "test": (
                "8203B63D3C853E8D77227FB377BCF7B7B772E97892A80F36AB775D509D7A5FEB0542A7F0812998DA8F1DD3CA3CF023DB",
                "DDD0760448D42D8A43AF45AF836FCE4DE8BE06B485E9B61B827C2F13173923E06A739F040649A667BF3B828246BAA5A5",
            ),
        },
    ),
    P521: (
        ec.SECP521R1(),
        "0FAD06DAA62BA3B25D2FB40133DA757205DE67F5BB0018FEE8C86E1B68C7E75CAA896EB32F1F47C70855836A6D16FCC1466F6D8FBEC67DB89"
        "EC0C08B0E996B83538",
        {
            "sample": (
                "0C328FAFCBD79DD77850370C46325D987CB525569FB63C5D3BC53950E6D4C5F174E25A1EE9017B5D450606ADD152B534931D7D4E8"
                "455CC91F9B15BF05EC36E377FA",
                "0617CCE7CF5064806C467F678D3B4080D6F1CC50AF26CA209417308281B68AF282623EAA63E5B5C0723D8B8C37FF0777B1A20F8CC"
                "B1DCCC43997F1EE0E44DA4A67A",
            ),
            "test": (
                "13E99020ABF5CEE7525D16B69B229652AB6BDF2AFFCAEF38773B4B7D08725F10CDB93482FDCC54EDCEE91ECA4166B2A7C6265EF0C"
                "E2BD7051B7CEF945BABD47EE6D",
                "1FBD0013C674AA79CB39849527916CE301C66EA7CE8B80682786AD60F98F7E78A19CA69EFF5C57400E3B3A0AD66CE0978214D13BA"
                "F4E9AC60752F7B155E2DE4DCE3",
            ),
        },
    ),
}


@pytest.mark.parametrize("algorithm", RFC_6979)
def test_rfc_6979_deterministic_ecdsa(algorithm: str) -> None:
    curve, private_value, signatures = RFC_6979[algorithm]
    key = PrivateKey(algorithm, ec.derive_private_key(int(private_value, 16), curve))
    for message, (r, s) in signatures.items():
        expected = encode_dss_signature(int(r, 16), int(s, 16))
        assert key.sign(message.encode()) == expected
        key.public.verify(expected, message.encode())
        with pytest.raises(SignatureError):
            key.public.verify(expected, message.encode() + b"x")


# --- FIPS 204, ML-DSA

ML_DSA = {"mldsa44": MLDSA44PublicKey, "mldsa65": MLDSA65PublicKey, "mldsa87": MLDSA87PublicKey}


def known_answers(algorithm: str) -> Iterator[dict[str, bytes]]:
    fields: dict[str, bytes] = {}
    name = f"asymmetric/MLDSA/kat_MLDSA_{algorithm[-2:]}_det_pure.rsp"
    with open_vector_file(name, "r") as file:
        for line in file:
            key, _, value = line.strip().partition(" = ")
            if key == "count" and fields:
                yield fields
                fields = {}
            elif key and key not in ("count", "mlen", "smlen"):
                fields[key] = bytes.fromhex(value)
    yield fields


@pytest.mark.parametrize("algorithm", ML_DSA)
def test_fips_204_known_answers(algorithm: str) -> None:
    """Keys grow as in the standard; its signatures hold in their context, and nowhere else: ours is empty."""
    answers = list(known_answers(algorithm))
    assert len(answers) == 100
    for answer in answers:
        assert mldsa_from_seed(algorithm, answer["xi"]).public.raw == answer["pk"]
    for answer in answers[:20]:
        signature = answer["sm"][: len(answer["sm"]) - len(answer["msg"])]
        independent = ML_DSA[algorithm].from_public_bytes(answer["pk"])
        independent.verify(signature, answer["msg"], answer["ctx"])
        with pytest.raises(SignatureError):
            public_key_from_raw(answer["pk"], algorithm).verify(signature, answer["msg"])
        own = mldsa_from_seed(algorithm, answer["xi"]).sign(answer["msg"])
        independent.verify(own, answer["msg"])
        public_key_from_raw(answer["pk"], algorithm).verify(own, answer["msg"])
        with pytest.raises(InvalidSignature):
            independent.verify(own, answer["msg"], answer["ctx"])


# --- RFC 6962, section 2.1.3: the tree of seven leaves, its nodes named as the picture there names them

DATA = [b"", b"\x00", b"\x10", b"\x20\x21", b"\x30\x31", b"@ABC", b"PQRSTUVW"]


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


A, B, C, D, E, F, J = (hashlib.sha256(b"\x00" + data).digest() for data in DATA)
G, H, I = node(A, B), node(C, D), node(E, F)  # noqa: E741  the standard's names
K, L = node(G, H), node(I, J)
HASH = node(K, L)
LEAVES = TileHashes(lambda level, start, stop: [leaf_hash(data) for data in DATA[start:stop]] if level == 0 else [])


def test_rfc_6962_root_and_leaves() -> None:
    leaves = [leaf_hash(data) for data in DATA]
    assert leaves == [A, B, C, D, E, F, J]
    assert root_of(leaves) == HASH
    assert root_of([]) == hashlib.sha256(b"").digest()
    assert [root_of(leaves[:size]) for size in (1, 2, 3, 4, 6)] == [A, G, node(G, C), K, node(K, I)]


@pytest.mark.parametrize(("index", "path"), [(0, (B, H, L)), (3, (C, G, L)), (4, (F, J, K)), (6, (I, K))])
def test_rfc_6962_audit_paths(index: int, path: tuple[bytes, ...]) -> None:
    assert inclusion_proof(index, 7, LEAVES) == path
    verify_inclusion(index, 7, leaf_hash(DATA[index]), path, HASH)


@pytest.mark.parametrize(
    ("size", "root", "proof"), [(3, node(G, C), (C, D, G, L)), (4, K, (L,)), (6, node(K, I), (I, J, K))]
)
def test_rfc_6962_consistency(size: int, root: bytes, proof: tuple[bytes, ...]) -> None:
    assert consistency_proof(size, 7, LEAVES) == proof
    verify_consistency(size, 7, proof, root, HASH)


# --- RFC 8785, appendix B: every number of the table

RFC_8785_B = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "7fffffffffffffff": None,
    "7ff0000000000000": None,
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize(("bits", "text"), RFC_8785_B.items())
def test_rfc_8785_numbers(bits: str, text: str | None) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    if text is None:
        with pytest.raises(DocumentError):
            canonical(value)
    else:
        assert canonical(value) == text.encode()
        assert float(text) == value


def test_rfc_8785_sections_3_2_2_and_3_2_3() -> None:
    document = (
        rb'{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001], "string":'
        rb' "\u20ac$\u000F\u000aA'
        rb"'"
        rb'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}'
    )
    value = loads(document, what="the example")
    assert value == json.loads(document)
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(value) == expected.encode()
