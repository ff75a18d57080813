"""Whose certificate is it? Short-lived certificates of a Sigstore CA (Fulcio), judged at the proven time of signing.

The certificate holds a name (an e-mail address, a workflow's URI) and the issuer that vouched for it; it is valid for
minutes, so that only the time of signing can be asked about. Path building is `certificates`'; which authority was in
use when, and what Fulcio's profile asks of a certificate (code signing, exactly one meaning of the issuer), is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from registry.signing.certificates import find_path
from registry.signing.refusals import CERTIFICATE_USAGE, Refusal
from registry.sigstore.trusted_root import Authority
from watermark.errors import AuthorityError, ExpiredKeyError, IdentityError, IssuerError, UntrustedKeyError

# https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
ISSUER: Final = ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
ISSUER_V1: Final = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
OTHER_NAME: Final = ObjectIdentifier("1.3.6.1.4.1.57264.1.7")

CERTIFICATE_TIME: Final = Refusal(
    "certificate-not-valid-then",
    ExpiredKeyError,
    "the signer must sign while the certificate is valid: ask to sign again",
)
AUTHORITY_NOT_IN_USE: Final = Refusal(
    "authority-not-in-use",
    ExpiredKeyError,
    "pass a current trusted_root.json; if it says the same, do not use the model",
)


@dataclass(frozen=True)
class Identity:
    """Who signed: a name, and the issuer (OpenID Connect provider) that vouched for it."""

    name: str
    issuer: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.name} (by {self.issuer})"


def verify_path(
    leaf: x509.Certificate, authorities: Sequence[Authority], times: Sequence[datetime]
) -> x509.Certificate:
    """The issuer of `leaf`, after a path to one trusted authority held at each of `times`, when it was in use.

    Raises ExpiredKeyError for a time outside the certificate's or the authority's own, AuthorityError when no
    authority stands behind it, SignatureError when it is not made for signing code.
    """
    first, last = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    for time in times:
        if not first <= time <= last:
            raise CERTIFICATE_TIME(
                f"signed at {time:%FT%TZ}, when the certificate was not valid ({first:%FT%TZ} to {last:%FT%TZ})"
            )
    _check_profile(leaf)
    issuers = [_find_issuer(leaf, authorities, time) for time in times]  # at every one of them, not just the first
    return issuers[0]


def verify_identity(leaf: x509.Certificate, name: str, issuer: str) -> Identity:
    """Check that the certificate is for exactly this name, vouched for by exactly this issuer, and return both.

    Raises IdentityError or IssuerError. Nothing is matched by pattern, letter case or part.
    """
    issuers = _issuers(leaf)
    if issuers != {issuer}:
        found = ", ".join(sorted(ascii(one) for one in issuers)) or "nobody"
        raise IssuerError(f"the signer's name was vouched for by {found}, not by {issuer!a}")
    names = _names(leaf)
    if name not in names:
        found = ", ".join(sorted(ascii(one) for one in names)) or "nobody"
        raise IdentityError(f"signed by {found}, not by {name!a}")
    return Identity(name, issuer)


def _find_issuer(leaf: x509.Certificate, authorities: Sequence[Authority], time: datetime) -> x509.Certificate:
    known, reason = None, ""
    for authority in authorities:
        try:
            path = find_path(leaf, authority.chain[:-1], [authority.root], time)
        except UntrustedKeyError as error:
            reason = str(error)
            continue
        if authority.valid.covers(time):
            return path[1]
        known = authority
    if known is not None:
        raise AUTHORITY_NOT_IN_USE(
            f"signed at {time:%FT%TZ}, when the authority {known.url!a} was not in use (it is trusted {known.valid})"
        )
    raise AuthorityError(f"no certificate authority of the trusted root issued the certificate: {reason}")


def _check_profile(leaf: x509.Certificate) -> None:
    """Fulcio's profile: an end certificate for signatures, and for code signing."""
    try:
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is not None and constraints.ca:
        raise CERTIFICATE_USAGE("the signer's certificate is that of an authority")
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise CERTIFICATE_USAGE("the signer's certificate does not say what it is made for") from error
    if not usage.digital_signature or ExtendedKeyUsageOID.CODE_SIGNING not in extended:
        raise CERTIFICATE_USAGE("the signer's certificate is not made for signing code")


def _issuers(leaf: x509.Certificate) -> set[str]:
    """What the certificate says of the issuer, in the present form (DER text) and the old one (bare bytes)."""
    found = set()
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.UnrecognizedExtension):
            if extension.oid == ISSUER:
                found.add(_der_text(extension.value.value, "issuer"))
            elif extension.oid == ISSUER_V1:
                found.add(_plain_text(extension.value.value, "issuer"))
    return found


def _names(leaf: x509.Certificate) -> set[str]:
    try:
        subject = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    names = {*subject.get_values_for_type(x509.RFC822Name)}
    names |= {*subject.get_values_for_type(x509.UniformResourceIdentifier)}
    for other in subject.get_values_for_type(x509.OtherName):
        if other.type_id == OTHER_NAME:
            names.add(_der_text(other.value, "name"))
    return names


def _der_text(data: bytes, what: str) -> str:
    try:
        return asn1.decode_der(str, data)
    except ValueError as error:
        raise AuthorityError(f"the certificate's {what} is not a text in DER") from error


def _plain_text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AuthorityError(f"the certificate's {what} is not UTF-8") from error
