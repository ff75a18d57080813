"""Ask a time stamping authority for a stamp over the network (RFC 3161 section 3.4, over HTTP).

One POST, no redirect, no proxy, 3 s to connect and 10 s in all, at most 1 MiB of answer. Only the hash of what is
stamped leaves this machine. HTTPS, or HTTP to this very machine: plain HTTP elsewhere must be asked for, although a
stamp proves itself and nobody on the way could forge one, only withhold it. Keeps nothing and never tries twice: every
failure is UnavailableError, and safe to retry.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import closing, suppress
from urllib.parse import SplitResult, urlsplit

from registry.signing.timestamps import StampAuthority, check_answer, make_request, verify_stamp
from watermark.errors import InputError, UnavailableError, UntrustedKeyError, WeightmarkError

CONNECT_SECONDS = 3.0
TOTAL_SECONDS = 10.0
MAX_ANSWER_BYTES = 1 << 20
_QUERY, _REPLY = "application/timestamp-query", "application/timestamp-reply"


def check_url(url: str, *, allow_http: bool = False) -> SplitResult:
    """Refuse an address that is not one of a TSA: https, or http on this machine; no user name, no fragment."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InputError(f"--tsa {url!a} is no URL: {error}") from error
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None or parts.fragment:
        raise InputError(f"--tsa {url!a} is no address of a time stamping authority", hint="give one as https://HOST/")
    if parts.scheme == "http" and not allow_http and not _is_loopback(parts.hostname):
        raise InputError(
            f"--tsa {url!a} would be asked over plain HTTP, where anyone on the way can withhold the answer",
            hint="use its https address, or set `tsa_allow_http = true` in settings.toml of your home",
        )
    return parts


def request_stamp(
    url: str, message: bytes, authorities: Sequence[StampAuthority] = (), *, allow_http: bool = False
) -> bytes:
    """A fresh stamp over `message`: the TimeStampResp in DER, checked to answer this request.

    Where one of `authorities` stands behind it, it is verified whole. Raises UnavailableError when nothing usable comes
    back (it names the address), InputError for an address that may not be asked.
    """
    parts = check_url(url, allow_http=allow_http)
    request = make_request(message)
    response = _post(parts, url, request.der)
    try:
        check_answer(response, request)
        verify_stamp(response, message, authorities, nonce=request.nonce)
    except UntrustedKeyError:
        pass  # a stranger to this machine; whoever verifies may know it
    except WeightmarkError as error:
        raise UnavailableError(f"the TSA at {url}: {error}", hint=error.hint, code=error.code) from error
    return response


def _post(parts: SplitResult, url: str, body: bytes) -> bytes:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with _Deadline(TOTAL_SECONDS) as deadline:
        try:
            connection = _connect(parts, deadline)
            with closing(connection):
                headers = {"Content-Type": _QUERY, "Accept": _REPLY, "Connection": "close"}
                connection.request("POST", path, body, headers)
                with connection.getresponse() as answer:
                    status, moved_to = answer.status, answer.headers["Location"]
                    data = answer.read(MAX_ANSWER_BYTES + 1)
                    left = answer.length  # what the header promised and did not come; None without a promise
        except (OSError, http.client.HTTPException) as error:
            why = "no answer in time" if deadline.passed or isinstance(error, TimeoutError) else _reason(error)
            message = f"the TSA at {url} is out of reach: {why}"
            raise UnavailableError(message, hint=_RETRY, code="tsa-unreachable") from error
    wrong = ""
    if status != http.HTTPStatus.OK:
        wrong = f"answers {status}{f', and points to {moved_to!a}' if moved_to else ''}"
    elif len(data) > MAX_ANSWER_BYTES:
        wrong = f"sends more than {MAX_ANSWER_BYTES} bytes"
    elif left:
        wrong = "sent an answer that is cut off"
    if wrong:
        raise UnavailableError(f"the TSA at {url} {wrong}", hint=_RETRY, code="tsa-answer")
    return data


_RETRY = "nothing was put in place: run the same command again, ask another --tsa URL, or pass --no-tsa"


class _Deadline:
    """Ends a conversation after a time for all of it: a socket's own timeout starts again with each byte."""

    def __init__(self, seconds: float) -> None:
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self.passed = False

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for one in self._sockets:
            one.close()

    def watch(self, connected: socket.socket) -> socket.socket:
        """Let a socket fall under the deadline; whoever waits on it then is woken with an error or an early end."""
        self._sockets.append(connected)
        if self.passed:
            raise TimeoutError
        return connected

    def _end(self) -> None:
        self.passed = True
        for one in self._sockets:
            with suppress(OSError):  # it has ended by itself
                one.shutdown(socket.SHUT_RDWR)


def _connect(parts: SplitResult, deadline: _Deadline) -> http.client.HTTPConnection:
    assert parts.hostname is not None
    secure = parts.scheme == "https"
    port = parts.port or (http.client.HTTPS_PORT if secure else http.client.HTTP_PORT)
    connected = deadline.watch(socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS))
    connected.settimeout(TOTAL_SECONDS)
    if secure:
        context = ssl.create_default_context()
        wrapped = context.wrap_socket(connected, server_hostname=parts.hostname, do_handshake_on_connect=False)
        deadline.watch(wrapped)
        wrapped.do_handshake()
        connected = wrapped
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.sock = connected
    return connection


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify ({error.verify_message})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"what it sends is no HTTP ({type(error).__name__})"
