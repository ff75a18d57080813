"""Sigstore's trusted root: the certificate authorities, logs and time stamping authorities that a reader believes.

One JSON document (`sigstore_trustroot.proto`, media types v0.1 and v0.2), which the public instances hand out over TUF
and which a private instance writes itself. Whoever passes it vouches for it: this module reads and never fetches. Keys
of a kind that we do not verify with (RSA) are kept by name only, so that a refusal can say so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from registry.signing.encoding import from_base64
from registry.signing.keys import ED25519, P256, P384, P521, PublicKey, public_key_from_der
from registry.signing.small_files import read_small_file
from registry.signing.strict_json import MIB, as_object, loads, member
from registry.sigstore.entries import read_key_id
from watermark.errors import DocumentError, LimitError

if TYPE_CHECKING:
    from cryptography import x509

MEDIA_TYPES: Final = (
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
)
MAX_ROOT_BYTES = 4 * MIB
_MAX_ITEMS = 256
_WHAT = "the trusted root"

_ALGORITHMS: Final = {
    "PKIX_ECDSA_P256_SHA_256": P256,
    "PKIX_ECDSA_P384_SHA_384": P384,
    "PKIX_ECDSA_P521_SHA_512": P521,
    "PKIX_ED25519": ED25519,
}
_SECTIONS = ("certificateAuthorities", "tlogs", "ctlogs", "timestampAuthorities")
_LOG_KEYS = ("baseUrl", "hashAlgorithm", "publicKey", "logId", "checkpointKeyId", "operator")
_AUTHORITY_KEYS = ("subject", "uri", "certChain", "validFor", "operator")
# RFC 3339 as protobuf writes it: UTC, at most nanoseconds.
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?Z")


@dataclass(frozen=True)
class Validity:
    """From when to when something is believed, both ends included; no `end` means still."""

    start: datetime
    end: datetime | None = None

    def covers(self, time: datetime) -> bool:
        """Whether `time` (with time zone) lies within."""
        return self.start <= time and (self.end is None or time <= self.end)

    def __str__(self) -> str:
        """The days, for messages."""
        return f"from {self.start:%F}" + (f" to {self.end:%F}" if self.end else " on")


@dataclass(frozen=True)
class TrustedLog:
    """A log: `log_id` is what bundles call it; `key` is None for a kind of key that we do not verify with."""

    url: str
    log_id: bytes
    key_details: str
    key: PublicKey | None
    valid: Validity


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its chain, issuing certificate first and root last, and when it was in use."""

    url: str
    chain: tuple[x509.Certificate, ...]
    valid: Validity

    @property
    def root(self) -> x509.Certificate:
        """The certificate that everything must lead to."""
        return self.chain[-1]


@dataclass(frozen=True)
class TrustedRoot:
    """Whom a reader believes in one Sigstore instance."""

    authorities: tuple[Authority, ...]
    logs: tuple[TrustedLog, ...]
    certificate_logs: tuple[TrustedLog, ...]
    stamp_authorities: tuple[Authority, ...]


def parse_trusted_root(data: bytes) -> TrustedRoot:
    """Read a trusted root strictly; DocumentError for anything that is not exactly in its form.

    There must be an authority and a log: with less nothing could ever be verified.
    """
    fields = as_object(loads(data, what=_WHAT, max_bytes=MAX_ROOT_BYTES), _WHAT, allowed=("mediaType", *_SECTIONS))
    media_type = member(fields, "mediaType", str, _WHAT)
    if media_type not in MEDIA_TYPES:
        raise DocumentError(
            f"{_WHAT} is of the media type {media_type!a}",
            hint="pass the trusted_root.json of the Sigstore instance, not its signing or client configuration",
        )
    root = TrustedRoot(
        authorities=tuple(_read_authority(one, what) for one, what in _items(fields, "certificateAuthorities")),
        logs=_read_logs(fields, "tlogs"),
        certificate_logs=_read_logs(fields, "ctlogs"),
        stamp_authorities=tuple(_read_authority(one, what) for one, what in _items(fields, "timestampAuthorities")),
    )
    if not root.authorities or not root.logs:
        raise DocumentError(f"{_WHAT} names no {'log' if root.authorities else 'certificate authority'}")
    return root


def read_trusted_root(path: Path) -> TrustedRoot:
    """Read the trusted root in a file; InputError when it cannot be read, DocumentError naming what is wrong."""
    return parse_trusted_root(read_small_file(path, what=_WHAT, max_bytes=MAX_ROOT_BYTES))


def _items(fields: dict[str, Any], section: str) -> list[tuple[Any, str]]:
    listed = member(fields, section, list, _WHAT) if section in fields else []
    if len(listed) > _MAX_ITEMS:
        raise LimitError(f"{_WHAT} has {len(listed)} {section}; at most {_MAX_ITEMS} are read")
    return [(one, f"{section}[{number}] of {_WHAT}") for number, one in enumerate(listed)]


def _read_logs(fields: dict[str, Any], section: str) -> tuple[TrustedLog, ...]:
    logs = tuple(_read_log(one, what) for one, what in _items(fields, section))
    if len({log.log_id for log in logs}) != len(logs):
        raise DocumentError(f"{_WHAT} names two {section} by the same log id")
    return logs


def _read_log(value: Any, what: str) -> TrustedLog:
    fields = as_object(value, what, allowed=_LOG_KEYS)
    if member(fields, "hashAlgorithm", str, what) != "SHA2_256":
        raise DocumentError(f"{what} hashes its tree with {fields['hashAlgorithm']!a}; only SHA2_256 is read")
    key = as_object(member(fields, "publicKey", dict, what), what, allowed=("rawBytes", "keyDetails", "validFor"))
    details = member(key, "keyDetails", str, what)
    return TrustedLog(
        url=_text(fields, "baseUrl", what),
        log_id=read_key_id(member(fields, "logId", dict, what), what),
        key_details=details,
        key=_read_key(key, details, what),
        valid=_read_validity(key, what),
    )


def _read_key(key: dict[str, Any], details: str, what: str) -> PublicKey | None:
    raw = from_base64(member(key, "rawBytes", str, what), what=f"the key of {what}")
    if details not in _ALGORITHMS:
        return None
    read = public_key_from_der(raw, what=f"the key of {what}")
    if read.algorithm != _ALGORITHMS[details]:
        raise DocumentError(f"the key of {what} is of the kind {read.algorithm}, not {details}")
    return read


def _read_authority(value: Any, what: str) -> Authority:
    fields = as_object(value, what, allowed=_AUTHORITY_KEYS)
    chain = as_object(member(fields, "certChain", dict, what), what, allowed=("certificates",))
    listed = member(chain, "certificates", list, what)
    if not 1 <= len(listed) <= 16:
        raise DocumentError(f"{what} has {len(listed)} certificates; 1 to 16 are read")
    return Authority(
        _text(fields, "uri", what), tuple(_certificate(one, what) for one in listed), _read_validity(fields, what)
    )


def _certificate(value: Any, what: str) -> x509.Certificate:
    from registry.signing.certificates import load_certificate  # X.509 costs start-up time: only when used

    fields = as_object(value, what, allowed=("rawBytes",))
    return load_certificate(
        from_base64(member(fields, "rawBytes", str, what), what=what), what=f"a certificate of {what}"
    )


def _text(fields: dict[str, Any], key: str, what: str) -> str:
    return member(fields, key, str, what) if key in fields else ""


def _read_validity(fields: dict[str, Any], what: str) -> Validity:
    period = as_object(member(fields, "validFor", dict, what), what, allowed=("start", "end"))
    end = _read_time(member(period, "end", str, what), what) if period.get("end") is not None else None
    return Validity(_read_time(member(period, "start", str, what), what), end)


def _read_time(text: str, what: str) -> datetime:
    found = _TIME.fullmatch(text)
    if found is None:
        raise DocumentError(f"{text[:40]!a} in {what} is not a time in UTC, as in 2026-01-31T00:00:00Z")
    microseconds = int((found[2] or "").ljust(6, "0")[:6])
    try:
        return datetime.strptime(found[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC, microsecond=microseconds)
    except ValueError as error:
        raise DocumentError(f"{text!a} in {what} is no such time") from error
