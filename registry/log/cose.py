"""COSE receipts of log entries (RFC 9942): the proof of an entry for people who speak CBOR, as SCITT does.

A receipt is a COSE_Sign1 over the root of the tree, with the Merkle proof in its unprotected header; the root itself is
left out, so that only who computes it from the entry can verify the signature. Nothing else is signed: where several
places of several trees have paths of one shape, a receipt can be rewritten from one to another of them. It shows that
the entry is in the log; at which index, only together with a checkpoint. The tree is the log's own (RFC 9162
with SHA-256, verifiable data structure 1). Bytes are CBOR in its one deterministic form (RFC 8949 section 4.2), written
and read by `cbor2` with tags, indefinite lengths and repeated keys refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import cbor2
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from registry.log.checkpoint import Checkpoint
from registry.log.merkle import leaf_hash, proven_root
from registry.log.note import Ed25519Key
from registry.signing.keys import ED25519, P256, PublicKey
from watermark.errors import DocumentError, InclusionError, LimitError, SignatureError, UntrustedKeyError

MEDIA_TYPE: Final = "application/scitt-receipt+cose"
MAX_RECEIPT_BYTES = 64 * 1024

# Labels and values by name (RFC 9052 section 3.1, RFC 9053, RFC 9942 section 2).
_SIGN1_TAG: Final = 18
_ALG, _CRIT, _VDS, _VDP, _INCLUSION = 1, 2, 395, 396, -1
_EDDSA, _ES256, _RFC9162_SHA256 = -8, -7, 1
_ALGORITHMS: Final = {_EDDSA: ED25519, _ES256: P256}
_ES256_HALF = 32

_WHAT = "the COSE receipt"
_HINT = "fetch the receipt again from the log, or export it again with `weightmark export --format cose`"


@dataclass(frozen=True)
class VerifiedReceipt:
    """An entry that is below a root which the log signed.

    `index` and `size` are what the receipt states; they are verified only where a checkpoint was compared.
    """

    root: bytes
    index: int
    size: int


def make_cose_receipt(index: int, size: int, entry: bytes, hashes: Sequence[bytes], key: Ed25519Key) -> bytes:
    """Sign a receipt for `entry` at `index` in the log of `size` entries with the log's Ed25519 key.

    The caller answers for the root that the proof leads to: it must be one that the log's checkpoint says, too.
    """
    root = proven_root(index, size, leaf_hash(entry), hashes)
    protected = _encode({_ALG: _EDDSA, _VDS: _RFC9162_SHA256})
    proof = _encode([size, index, list(hashes)])
    signature = key.sign(_signed_bytes(protected, root))
    return _encode(cbor2.CBORTag(_SIGN1_TAG, [protected, {_VDP: {_INCLUSION: [proof]}}, None, signature]))


def verify_cose_receipt(
    receipt: bytes, entry: bytes, key: PublicKey, *, checkpoint: Checkpoint | None = None
) -> VerifiedReceipt:
    """Verify that `entry` is in the log that holds `key`, by a receipt with one inclusion proof.

    With a (verified) checkpoint of the same size its index is verified as well. EdDSA and ES256 are read. Raises
    DocumentError or LimitError for what is no such receipt, UntrustedKeyError for a key of another kind, InclusionError
    for a proof that cannot be or a checkpoint that says something else, SignatureError when the log did not sign the
    root that the entry leads to: then the entry, the proof or the key is another one.
    """
    protected, unprotected, signature = _read_sign1(receipt)
    algorithm = _read_protected(protected)
    if key.algorithm != algorithm:
        raise UntrustedKeyError(f"{_WHAT} is signed with {algorithm}, and the log's key is {key.algorithm}")
    size, index, hashes = _read_proof(unprotected)
    root = proven_root(index, size, leaf_hash(entry), hashes)
    try:
        key.verify(_to_der(signature) if algorithm == P256 else signature, _signed_bytes(protected, root))
    except SignatureError as error:
        raise SignatureError(
            f"{_WHAT} does not belong to this entry, or is not signed by this log", hint=_HINT
        ) from error
    if checkpoint is not None and (checkpoint.size, checkpoint.root) != (size, root):
        raise InclusionError(
            f"{_WHAT} is for a log of {size} entries and its root, the checkpoint for {checkpoint.size} and another",
            hint="compare it with the checkpoint of that size",
        )
    return VerifiedReceipt(root, index, size)


def _signed_bytes(protected: bytes, root: bytes) -> bytes:
    """The Sig_structure of RFC 9052 section 4.4, with the root as the detached payload."""
    return _encode(["Signature1", protected, b"", root])


def _read_sign1(receipt: bytes) -> tuple[bytes, dict[Any, Any], bytes]:
    if len(receipt) > MAX_RECEIPT_BYTES:
        raise LimitError(f"{_WHAT} has {len(receipt)} bytes; at most {MAX_RECEIPT_BYTES} are read")
    tag = bytes([0xC0 + _SIGN1_TAG])  # refused below like every tag: the parts of a COSE_Sign1 have none
    if not receipt.startswith(tag):
        raise DocumentError(f"{_WHAT} is no COSE_Sign1 (tag 18)", hint=_HINT)
    parts = _decode(receipt[1:], _WHAT)
    if not isinstance(parts, list) or len(parts) != 4:
        raise DocumentError(f"{_WHAT} does not have the four parts of a COSE_Sign1", hint=_HINT)
    protected, unprotected, payload, signature = parts
    if not isinstance(protected, bytes) or not isinstance(unprotected, dict) or not isinstance(signature, bytes):
        raise DocumentError(f"a part of {_WHAT} is of another kind than COSE_Sign1 asks for", hint=_HINT)
    if payload is not None:
        raise DocumentError(f"{_WHAT} brings a root of its own, which nobody should believe", hint=_HINT)
    return protected, unprotected, signature


def _read_protected(protected: bytes) -> str:
    """The algorithm, after the header said that the tree is one of ours."""
    header = _decode(protected, f"the protected header of {_WHAT}")
    if not isinstance(header, dict):
        raise DocumentError(f"the protected header of {_WHAT} is no map", hint=_HINT)
    if _CRIT in header:
        raise DocumentError(f"{_WHAT} asks for extensions that are not known here", hint="use a newer weightmark")
    structure, algorithm = header.get(_VDS), header.get(_ALG)
    if type(structure) is not int or structure != _RFC9162_SHA256:
        raise DocumentError(f"{_WHAT} is about another structure than an RFC 9162 tree with SHA-256", hint=_HINT)
    if type(algorithm) is not int or algorithm not in _ALGORITHMS:
        raise DocumentError(f"{_WHAT} is signed in a way that is not read", hint="EdDSA (-8) and ES256 (-7) are")
    return _ALGORITHMS[algorithm]


def _read_proof(unprotected: dict[Any, Any]) -> tuple[int, int, list[bytes]]:
    proofs = unprotected.get(_VDP)
    listed = proofs.get(_INCLUSION) if isinstance(proofs, dict) else None
    if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], bytes):
        raise InclusionError(f"{_WHAT} does not bring exactly one inclusion proof", hint=_HINT)
    proof = _decode(listed[0], f"the proof of {_WHAT}")
    if not isinstance(proof, list) or len(proof) != 3:
        raise DocumentError(f"the proof of {_WHAT} is not size, index and hashes", hint=_HINT)
    size, index, hashes = proof
    numbers = type(size) is int and type(index) is int
    if not numbers or not isinstance(hashes, list) or not all(isinstance(one, bytes) for one in hashes):
        raise DocumentError(f"the proof of {_WHAT} is not size, index and hashes", hint=_HINT)
    return size, index, hashes


def _to_der(signature: bytes) -> bytes:
    """COSE writes r and s side by side (RFC 9053 section 2.1), everyone else in DER."""
    if len(signature) != 2 * _ES256_HALF:
        raise SignatureError("an ES256 signature has 64 bytes")
    halves = signature[:_ES256_HALF], signature[_ES256_HALF:]
    return encode_dss_signature(*(int.from_bytes(half, "big") for half in halves))


def _encode(value: Any) -> bytes:
    return cbor2.dumps(value, canonical=True)


def _decode(data: bytes, what: str) -> Any:
    """One CBOR value in its deterministic form, without tags; DocumentError otherwise."""
    tags: dict[int, Any] = defaultdict(lambda: _refuse_tag)
    try:
        value = cbor2.loads(
            data,
            tag_hook=_refuse_tag,
            semantic_decoders=tags,
            max_depth=8,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        )
        same = _encode(value) == data  # also finds bytes after the value
    except (cbor2.CBORError, ValueError, RecursionError) as error:
        raise DocumentError(f"{what} is not CBOR as it should be: {error}", hint=_HINT) from error
    if not same:
        raise DocumentError(f"{what} is not in the one deterministic form of CBOR", hint=_HINT)
    return value


def _refuse_tag(*_: Any) -> NoReturn:
    raise ValueError("it holds a tag")
