"""RFC 3161 time stamps: what a time stamping authority (TSA) says about when some bytes existed, verified offline.

Makes requests, reads responses and verifies them against authorities that the reader named, never against what a stamp
brings along. A stamp counts at the time it states: its own certificates need to be valid then, not now. The whole
TimeStampResp is kept in DER, as Sigstore bundles hold it. Path building and CMS are `rfc3161-client`'s and OpenSSL's;
what RFC 3161 asks of the signer's certificate, and which refusal is whose fault, is decided here. Knows no network
(see `registry.tsa`) and not what the stamped bytes mean.

A stamp on the bytes of a signature does not bind what was signed: who makes a new ECDSA key can fit it to any message
and to signature bytes that were stamped long before. Where the order of events is judged, only stamps on bytes that
bind the content by hashes count (see `order`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from registry.signing.stamp_authorities import (
    FETCH_AGAIN,
    StampAuthority,
    authority,
    check_purpose,
    check_time,
    find_authority,
    load_certificate,
    read_authorities,
)
from watermark.errors import (
    DigestError,
    DocumentError,
    ExpiredKeyError,
    LimitError,
    SignatureError,
    UnavailableError,
    UntrustedKeyError,
)

__all__ = [
    "MAX_STAMPS",
    "MAX_STAMP_BYTES",
    "NO_STAMPS",
    "StampAuthority",
    "StampRequest",
    "StampsFound",
    "VerifiedStamp",
    "authority",
    "check_answer",
    "judge_stamps",
    "make_request",
    "read_authorities",
    "verify_stamp",
]

if TYPE_CHECKING:
    from cryptography import x509
    from rfc3161_client import TimeStampResponse

MAX_STAMP_BYTES = 64 * 1024
#: More stamps than this on one thing are refused, not read.
MAX_STAMPS = 16
_GRANTED = 0
_HASHES = {
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}


@dataclass(frozen=True)
class StampRequest:
    """A request to send, and what its answer must repeat."""

    der: bytes
    nonce: int
    digest: bytes


@dataclass(frozen=True)
class VerifiedStamp:
    """A stamp that a believed authority made over the very bytes that were given.

    `time` is what it states, `accuracy` how far that may be off, `policy` the authority's policy as a dotted OID.
    """

    time: datetime
    tsa: str
    policy: str
    serial: int
    accuracy: timedelta = timedelta(0)

    @property
    def latest(self) -> datetime:
        """The bytes existed at this time at the latest."""
        return self.time + self.accuracy

    @property
    def source(self) -> str:
        """How results name where the time comes from."""
        return f"rfc3161 {self.tsa}"


@dataclass(frozen=True)
class StampsFound:
    """The verified stamps on some bytes, earliest first, and a word on each that was passed over."""

    verified: tuple[VerifiedStamp, ...] = ()
    notes: tuple[str, ...] = ()


NO_STAMPS = StampsFound()


def make_request(message: bytes) -> StampRequest:
    """A request for a stamp over SHA-256 of `message`, with a fresh nonce and asking for the TSA's certificates."""
    from rfc3161_client import TimestampRequestBuilder
    from rfc3161_client.base import HashAlgorithm

    builder = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256)
    request = builder.nonce(nonce=True).cert_request(cert_request=True).build()
    assert request.nonce is not None
    return StampRequest(request.as_bytes(), request.nonce, hashlib.sha256(message).digest())


def check_answer(response: bytes, request: StampRequest) -> None:
    """Check that a response answers this very request; who signed it is not looked at.

    Raises UnavailableError when the authority refuses, DocumentError or LimitError for what is no response,
    DigestError for one about other bytes, SignatureError for the answer to another request.
    """
    read = _decode(response)
    with _reading():
        status, said = read.status, "; ".join(read.status_string)
    if status != _GRANTED:
        raise UnavailableError(
            f"the time stamping authority refuses (status {status}{f': {said[:200]!a}' if said else ''})",
            hint="ask another authority with --tsa URL, or leave stamps out with --no-tsa",
            code="tsa-refuses",
        )
    with _reading():
        info = read.tst_info
        imprint, algorithm, nonce = info.message_imprint.message, info.message_imprint.hash_algorithm, info.nonce
    if _HASHES.get(algorithm.dotted_string) != "sha256" or imprint != request.digest:
        raise DigestError(
            "the time stamp is over other bytes than the ones that were sent", hint=_TSA_HINT, code="stamp-imprint"
        )
    if nonce != request.nonce:
        raise SignatureError(
            "the time stamp answers another request: its nonce differs", hint=_TSA_HINT, code="stamp-nonce"
        )


def verify_stamp(
    response: bytes, message: bytes, authorities: Sequence[StampAuthority], *, nonce: int | None = None
) -> VerifiedStamp:
    """Verify that one of `authorities` stamped `message`, and return when.

    Raises DocumentError or LimitError for bytes that are no granted response, UntrustedKeyError when no given
    authority stands behind it; and for one that does: DigestError for other bytes, ExpiredKeyError for certificates
    not valid at the stated time, SignatureError for a signer that may not stamp, another nonce, or a signature that
    does not verify.
    """
    read = _decode(response)
    if read.status != _GRANTED:
        raise DocumentError(f"the time stamp was never granted (status {read.status})", code="stamp-form")
    with _reading():
        info, embedded = (
            read.tst_info,
            [load_certificate(der, "a time stamp") for der in sorted(read.signed_data.certificates)],
        )
        signers = [(one.issuer, one.serial_number) for one in read.signed_data.signer_infos]
        imprint = (info.message_imprint.hash_algorithm.dotted_string, info.message_imprint.message)
        stamp_nonce, time, policy, serial = info.nonce, info.gen_time, info.policy.dotted_string, info.serial_number
        accuracy = _accuracy(info.accuracy)
    if len(signers) != 1:
        raise DocumentError(f"the time stamp has {len(signers)} signers; exactly one is read", code="stamp-form")
    by, path = find_authority(signers[0], embedded, authorities)
    name = by.name
    algorithm = _HASHES.get(imprint[0])
    if algorithm is None:
        raise DigestError(
            f"the stamp of {name} uses the hash algorithm {imprint[0]}; SHA-256, SHA-384 and SHA-512 are read",
            hint=FETCH_AGAIN,
            code="stamp-hash",
        )
    if hashlib.new(algorithm, message).digest() != imprint[1]:
        raise DigestError(
            f"the stamp of {name} is over other bytes than these: it was made for something else",
            hint=FETCH_AGAIN,
            code="stamp-imprint",
        )
    if nonce is not None and stamp_nonce != nonce:
        raise SignatureError(
            f"the stamp of {name} answers another request: its nonce differs", hint=_TSA_HINT, code="stamp-nonce"
        )
    for certificate in path:
        check_time(certificate, time, name)
    check_purpose(path[0], name)
    _check_signature(read, by, path[0] if path[0] not in embedded else None, message)
    return VerifiedStamp(time, name, policy, serial, accuracy)


def judge_stamps(
    responses: Sequence[bytes], message: bytes, authorities: Sequence[StampAuthority], *, what: str
) -> StampsFound:
    """Verify every stamp on `message` by a believed authority; those of others are passed over with a word.

    A stamp of a believed authority that does not hold raises as `verify_stamp` does: someone put it there to deceive.
    """
    if not authorities:
        note = f"{what}: {len(responses)} time stamps not looked at, since no authority is trusted"
        return StampsFound((), (note,) if responses else ())
    verified, notes = [], []
    for response in responses:
        try:
            verified.append(verify_stamp(response, message, authorities))
        except UntrustedKeyError as error:
            notes.append(f"{what}: {error}")
        except (DigestError, ExpiredKeyError, SignatureError, DocumentError) as error:
            raise type(error)(f"{what}: {error}", hint=error.hint, code=error.code) from error
    return StampsFound(tuple(sorted(verified, key=lambda stamp: stamp.latest)), tuple(notes))


_TSA_HINT = "this is the authority's fault, or somebody's between you and it: ask another one with --tsa URL"


def _decode(response: bytes) -> TimeStampResponse:
    if len(response) > MAX_STAMP_BYTES:
        raise LimitError(
            f"a time stamp of {len(response)} bytes; at most {MAX_STAMP_BYTES} are read",
            hint="no authority's answer is that long: ask another one, or leave the stamp out",
            code="stamp-size",
        )
    from rfc3161_client import decode_timestamp_response

    with _reading():
        return decode_timestamp_response(response)


@contextmanager
def _reading() -> Iterator[None]:
    """What the parser raises on bytes that are not what they should be, in our words."""
    try:
        yield
    except (ValueError, KeyError) as error:  # KeyError: a name with a tag that no string has
        raise DocumentError(
            f"not a time stamp response in DER (RFC 3161): {error}", hint=FETCH_AGAIN, code="stamp-form"
        ) from error


def _accuracy(stated: object) -> timedelta:
    parts = [getattr(stated, name, None) or 0 for name in ("seconds", "millis", "micros")]
    seconds = min(parts[0], 10**9)  # a lie of centuries stays one, and datetimes can hold it
    return timedelta(seconds=seconds, milliseconds=parts[1], microseconds=parts[2])


def _check_signature(
    read: TimeStampResponse, by: StampAuthority, absent: x509.Certificate | None, message: bytes
) -> None:
    """CMS signature and path, as OpenSSL judges them at the stated time; `absent` is a signer the stamp leaves out."""
    from rfc3161_client import VerificationError, VerifierBuilder

    root = load_certificate(by.root, f"the TSA {by.name}")
    others = [load_certificate(der, f"the TSA {by.name}") for der in by.others]
    builder = VerifierBuilder(roots=[root], intermediates=[one for one in others if one != absent])
    if absent is not None:
        builder = builder.tsa_certificate(absent)
    try:
        builder.build().verify_message(read, message)
    except (VerificationError, ValueError) as error:
        raise SignatureError(
            f"the stamp of {by.name} does not verify: {error}", hint=FETCH_AGAIN, code="stamp-signature"
        ) from error
