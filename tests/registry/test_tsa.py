"""Asking an authority over the network: what comes back is a stamp, or UnavailableError that is safe to retry."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from registry import tsa as network
from registry.signing.timestamps import verify_stamp
from registry.tsa import MAX_ANSWER_BYTES, check_url, request_stamp
from tests.registry.signing.authority import new_root, write_certificates
from tests.stamping_authority import LocalTsa, new_tsa, serving
from watermark.errors import InputError, UnavailableError

MESSAGE = b"what is stamped"


@pytest.fixture
def tsa(tmp_path: Path) -> Iterator[LocalTsa]:
    with serving(new_tsa(tmp_path / "tsa")) as running:
        yield running


def unavailable(tsa: LocalTsa, *trusted: LocalTsa) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        request_stamp(tsa.url, MESSAGE, [one.trusted for one in trusted])
    assert tsa.url in str(caught.value)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    return caught.value


def test_a_fresh_stamp_comes_back(tsa: LocalTsa) -> None:
    stamp = request_stamp(tsa.url, MESSAGE, [tsa.trusted])
    assert verify_stamp(stamp, MESSAGE, [tsa.trusted]).tsa == "clock"
    assert request_stamp(tsa.url, MESSAGE) != stamp
    assert MESSAGE not in b"".join(tsa.asked)


def test_down(tsa: LocalTsa, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        tsa.url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        assert unavailable(tsa).code == "tsa-unreachable"
    tsa.url = "http://127.0.0.1:1/"
    assert "refused" in str(unavailable(tsa))


def test_answers_that_are_no_stamp(tsa: LocalTsa) -> None:
    good = tsa.reply
    answers = {
        "server error": (500, {}, b"oops"),
        "not found": (404, {}, b""),
        "redirect": (302, {"Location": "http://127.0.0.1:1/elsewhere"}, b""),
        "empty": (200, {}, b""),
        "a page": (200, {"Content-Type": "text/html"}, b"<html>"),
        "too big": (200, {}, bytes(MAX_ANSWER_BYTES + 1)),
        "no number": (200, {"Content-Length": "many"}, b"x"),
    }
    for name, answer in answers.items():
        tsa.answer = lambda _, answer=answer: answer  # type: ignore[misc]
        assert unavailable(tsa, tsa), name
    tsa.answer = lambda request: (200, {"Content-Length": str(len(good(request)) + 9)}, good(request))
    assert "cut off" in str(unavailable(tsa))
    tsa.answer = lambda request: (200, {}, good(request)[:-20])
    assert unavailable(tsa).code == "stamp-form"
    assert len(tsa.asked) == len(answers) + 2  # nothing is tried twice, and no redirect is followed


def test_stamps_for_something_else(tsa: LocalTsa, tmp_path: Path) -> None:
    replayed = tsa.stamp(MESSAGE)
    tsa.answer = lambda _: (200, {}, replayed)
    assert unavailable(tsa).code == "stamp-nonce"
    other = tsa.stamp(b"other bytes")
    tsa.answer = lambda _: (200, {}, other)
    assert unavailable(tsa).code == "stamp-imprint"


def test_a_known_authority_that_signs_wrongly(tsa: LocalTsa) -> None:
    def spoiled(request: bytes) -> tuple[int, dict[str, str], bytes]:
        stamp = tsa.reply(request)
        return 200, {}, stamp[:-1] + bytes([stamp[-1] ^ 1])

    tsa.answer = spoiled
    assert unavailable(tsa, tsa).code == "stamp-signature"


def test_whoever_sends_byte_by_byte_is_left_after_the_time_for_all(
    tsa: LocalTsa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "TOTAL_SECONDS", 0.6)
    stop = threading.Event()

    def dribble() -> None:
        while not stop.is_set():
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.recv(65536)
                while not stop.wait(0.05):
                    try:
                        client.sendall(b"H")
                    except OSError:
                        break

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        thread = threading.Thread(target=dribble)
        thread.start()
        tsa.url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        try:
            assert "no answer in time" in str(unavailable(tsa))
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://tsa.example/",
        "tsa.example",
        "https://",
        "https://user:secret@tsa.example/",
        "https://tsa.example/#part",
        "https://tsa.example:port/",
        "http://tsa.example/",
        "http://10.0.0.1/",
        "http://localhost.example/",
        "file:///etc/passwd",
    ],
)
def test_addresses_that_are_not_asked(url: str) -> None:
    with pytest.raises(InputError):
        request_stamp(url, MESSAGE)


def test_addresses_that_may_be_asked() -> None:
    for url in ("https://tsa.example/tsr?x=1", "http://127.0.0.1:80/", "http://[::1]/", "http://localhost/"):
        check_url(url)
    check_url("http://tsa.example/", allow_http=True)


def test_https_needs_a_certificate_that_the_machine_trusts(
    tsa: LocalTsa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, key = new_root(), ec.generate_private_key(ec.SECP256R1())
    name = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = root.issue("localhost", key.public_key(), extra=name)
    chain = write_certificates(tmp_path / "chain.pem", certificate)
    chain.write_bytes(chain.read_bytes() + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    trusted = write_certificates(tmp_path / "trusted.pem", root.certificate)
    with serving(tsa, tls=chain):
        assert tsa.url.startswith("https://localhost:")
        assert "certificate does not verify" in str(unavailable(tsa))
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        assert request_stamp(tsa.url, MESSAGE, [tsa.trusted])
