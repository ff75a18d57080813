"""A small AWS KMS: the JSON protocol over HTTP, signing exactly as AWS documents it.

What matters for a signer and what simulators get wrong: DIGEST is signed as it is, RAW is hashed, over 4096 bytes are
refused, Ed25519 is pure and takes RAW only, ML-DSA takes RAW or a mu. It checks no credentials; keys are in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ACCOUNT, REGION = "111122223333", "eu-west-1"
MAKERS: dict[str, Callable[[], Any]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": Ed25519PrivateKey.generate,
    "mldsa44": MLDSA44PrivateKey.generate,
    "mldsa65": MLDSA65PrivateKey.generate,
    "symmetric": lambda: AESGCM(os.urandom(32)),
}
ECDSA = {
    "p256": ("ECDSA_SHA_256", hashes.SHA256()),
    "p384": ("ECDSA_SHA_384", hashes.SHA384()),
    "p521": ("ECDSA_SHA_512", hashes.SHA512()),
}


class Refusal(Exception):
    """An answer with an error code of AWS."""

    def __init__(self, code: str, status: int = 400) -> None:
        super().__init__(code)
        self.code, self.status = code, status


@dataclass
class FakeKms:
    """The service: `keys` by alias, `asked` every request, `trouble` what happens to the next ones instead."""

    keys: dict[str, tuple[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    trouble: list[Refusal | float | None] = field(default_factory=list)
    disabled: set[str] = field(default_factory=set)

    def __enter__(self) -> FakeKms:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def make(self, alias: str, kind: str) -> str:
        """Make a key and return the reference to it."""
        self.keys[alias] = (kind, MAKERS[kind]())
        return self.reference(alias)

    def reference(self, alias: str) -> str:
        return f"awskms:///alias/{alias}?region={REGION}&endpoint={self.endpoint}"

    def requests(self, operation: str) -> list[dict[str, Any]]:
        return [request for name, request in self.asked if name == operation]

    def answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((operation, request))
        if self.trouble:
            trouble = self.trouble.pop(0)
            if isinstance(trouble, Refusal):
                raise trouble
            time.sleep(trouble or 0)
        if operation == "Decrypt":
            return self._decrypt(request)
        alias = request["KeyId"].removeprefix("alias/")
        if alias not in self.keys:
            raise Refusal("NotFoundException")
        if alias in self.disabled:
            raise Refusal("DisabledException")
        kind, key = self.keys[alias]
        arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{alias}"
        if operation == "Encrypt":
            return {"KeyId": arn, "CiphertextBlob": _encrypt(alias, kind, key, request)}
        if kind == "symmetric":
            raise Refusal(
                "UnsupportedOperationException" if operation == "GetPublicKey" else "InvalidKeyUsageException"
            )
        if operation == "GetPublicKey":
            der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return {"KeyId": arn, "PublicKey": _text(der), "KeyUsage": "SIGN_VERIFY", "KeySpec": kind}
        if operation == "Sign":
            message = base64.b64decode(request["Message"])
            signature = _sign(kind, key, message, request.get("MessageType", "RAW"), request["SigningAlgorithm"])
            return {"KeyId": arn, "Signature": _text(signature), "SigningAlgorithm": request["SigningAlgorithm"]}
        raise Refusal("UnknownOperationException")

    def _decrypt(self, request: dict[str, Any]) -> dict[str, Any]:
        alias, _, sealed = base64.b64decode(request["CiphertextBlob"]).partition(b"\x00")
        wanted = request.get("KeyId", "").removeprefix("alias/").encode()
        if wanted and wanted != alias:
            raise Refusal("IncorrectKeyException")
        if alias.decode() not in self.keys:
            raise Refusal("NotFoundException")
        if alias.decode() in self.disabled:
            raise Refusal("DisabledException")
        _, key = self.keys[alias.decode()]
        try:
            plain = key.decrypt(sealed[:12], sealed[12:], _context(request))
        except InvalidTag as error:
            raise Refusal("InvalidCiphertextException") from error
        return {"KeyId": alias.decode(), "Plaintext": _text(plain)}


def _sign(kind: str, key: Any, message: bytes, message_type: str, algorithm: str) -> bytes:
    if len(message) > 4096 or not message:
        raise Refusal("ValidationException")
    if kind in ECDSA:
        name, digest = ECDSA[kind]
        if algorithm != name:
            raise Refusal("InvalidKeyUsageException")
        if message_type == "RAW":
            return bytes(key.sign(message, ec.ECDSA(digest)))
        if message_type != "DIGEST" or len(message) != digest.digest_size:
            raise Refusal("ValidationException")
        return bytes(key.sign(message, ec.ECDSA(Prehashed(digest))))
    if kind == "ed25519":
        if algorithm != "ED25519_SHA_512" or message_type != "RAW":
            raise Refusal("ValidationException")
        return bytes(key.sign(message))
    if algorithm != "ML_DSA_SHAKE_256":
        raise Refusal("InvalidKeyUsageException")
    if message_type == "EXTERNAL_MU":
        if len(message) != 64:
            raise Refusal("ValidationException")
        return bytes(key.sign_mu(message))
    if message_type != "RAW":
        raise Refusal("ValidationException")
    return bytes(key.sign(message))


def _encrypt(alias: str, kind: str, key: Any, request: dict[str, Any]) -> str:
    if kind != "symmetric":
        raise Refusal("InvalidKeyUsageException")
    nonce = os.urandom(12)
    return _text(
        alias.encode() + b"\x00" + nonce + key.encrypt(nonce, base64.b64decode(request["Plaintext"]), _context(request))
    )


def _context(request: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(request.get("EncryptionContext", {}), sort_keys=True).encode()).digest()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _handler(kms: FakeKms) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service, _, operation = self.headers["X-Amz-Target"].partition(".")
            assert service == "TrentService"
            try:
                status, answer = 200, kms.answer(operation, request)
            except Refusal as refusal:
                status, answer = refusal.status, {"__type": refusal.code, "message": f"told: {refusal.code}"}
            body = json.dumps(answer).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # the client gave up waiting, as it should

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
