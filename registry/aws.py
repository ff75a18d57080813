"""Ask AWS: one way to make a boto3 client with limits, and one place where its errors become ours.

boto3 is imported when a client is made: it costs half a second. Credentials come from where boto3 looks for them
(environment, profile, instance role), never from a reference or a flag. Knows nothing of keys or models.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from watermark.errors import InputError, KeyStoreError, UnavailableError, WeightmarkError

CONNECT_SECONDS: Final = 3
READ_SECONDS: Final = 10
TRIES: Final = 3

_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "NotAuthorized", "403", "Forbidden"})
_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_PASSING: Final = frozenset(
    {
        "DependencyTimeoutException",
        "InternalError",
        "KMSInternalException",
        "KeyUnavailableException",
        "ServiceUnavailable",
        "SlowDown",
        "ThrottlingException",
        "Throttling",
    }
)
_TOLD: Final = {
    "NotFoundException": ("does not exist in this account and region", "check the reference, and its region"),
    "NoSuchBucket": ("is in a bucket that does not exist", "check the bucket's name and region"),
    "NoSuchKey": ("is not there", "check the reference"),
    "404": ("is not there", "check the reference"),
    "DisabledException": ("is disabled", "let its administrator enable it"),
    "KMSInvalidStateException": ("is in a state in which it cannot be used", "see whether it awaits deletion"),
    "InvalidKeyUsageException": (
        "is made for another use",
        "sign with a SIGN_VERIFY key; wrap secrets with a symmetric ENCRYPT_DECRYPT key",
    ),
    "UnsupportedOperationException": ("is made for another use", "name a key of the right kind"),
    "InvalidCiphertextException": (
        "does not open the wrapped secret: the bytes or their context were changed",
        "restore secret.json from a backup",
    ),
    "IncorrectKeyException": ("is not the key that wrapped the secret", "name the key that wrapped it"),
}


def check_endpoint(url: str) -> str:
    """Refuse an endpoint that is not https, or plain http to this machine: secrets and model weights pass through."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment or not parts.hostname:
        raise InputError(f"{url[:80]!a} is no endpoint", hint="write it as https://HOST[:PORT]")
    if parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname)):
        return url
    raise InputError(f"the endpoint {url[:80]!a} is not encrypted", hint="use https://")


def make_client(service: str, *, region: str | None, endpoint: str | None) -> Any:
    """A boto3 client: 3 s to connect, 10 s to answer, three tries with back-off; use it in `translated_aws_errors`."""
    from botocore.config import Config

    limits = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": TRIES, "mode": "standard"},
        region_name=region,
    )
    return open_session().client(service, endpoint_url=endpoint, config=limits)


@functools.cache
def open_session() -> Any:
    """The boto3 session of this process: it reads service models and credentials once, which takes half a second."""
    import boto3

    return boto3.Session()


@contextmanager
def translated_aws_errors(what: str, permission: str, refusal: type[WeightmarkError] = KeyStoreError) -> Iterator[None]:
    """Translate what boto3 raises: out of reach is UnavailableError, a refusal is `refusal`.

    `what` names what was asked for ("the key in AWS KMS (alias/acme)"), `permission` what the caller must be allowed.
    """
    from botocore import exceptions as said

    try:
        yield
    except said.ClientError as error:
        raise _refused(error, what, permission, refusal) from error
    except (said.NoCredentialsError, said.PartialCredentialsError, said.CredentialRetrievalError) as error:
        raise refusal(
            f"AWS was not asked for {what}: there are no credentials",
            hint="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role is given",
        ) from error
    except said.NoRegionError as error:
        raise InputError(f"no AWS region is named for {what}", hint="add ?region=, or set AWS_REGION") from error
    except (said.HTTPClientError, said.ConnectionError) as error:
        raise UnavailableError(
            f"{what}: AWS did not answer in {TRIES} tries ({type(error).__name__}); nothing was done",
            hint="check network and endpoint, and run the same command again",
        ) from error
    except said.BotoCoreError as error:
        raise refusal(f"{what}: {error}", hint="check the reference, the profile and the region") from error


def error_code(error: Exception) -> str:
    """The code in an answer of AWS, as `PreconditionFailed`; empty for other errors."""
    answer = getattr(error, "response", {})
    return str(answer.get("Error", {}).get("Code", "")).rpartition("#")[2]


def _refused(error: Exception, what: str, permission: str, refusal: type[WeightmarkError]) -> WeightmarkError:
    code = error_code(error)
    status = int(getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _DENIED:
        return refusal(
            f"AWS does not let you use {what}", hint=f"ask its administrator for {permission}, in its policy or yours"
        )
    if code in _CREDENTIALS:
        return refusal(
            f"AWS does not accept your credentials for {what} ({code})",
            hint="sign in again, or check AWS_PROFILE and the clock of this machine",
        )
    if code in _TOLD:
        fact, hint = _TOLD[code]
        return refusal(f"{what} {fact}", hint=hint)
    if code in _PASSING or status >= 500:
        return UnavailableError(
            f"{what}: AWS had a failure of its own in {TRIES} tries ({code or status}); nothing was done",
            hint="run the same command again later",
        )
    return refusal(f"{what}: AWS refused ({code or status})", hint="see the message of AWS with `aws --debug`")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
