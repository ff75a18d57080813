"""A real time stamping authority for tests: fresh certificates, `openssl ts` behind a small HTTP server right here.

`answer` may be replaced to make it misbehave: it gets a request in DER and gives status, headers and body.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from registry.signing.encoding import to_base64
from registry.signing.timestamps import StampAuthority, authority, make_request
from tests.registry.signing.authority import DAY, NOW, Authority, new_root, write_certificates

CONFIG = """\
[tsa]
default_tsa = t
[t]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.3.6.1.4.1.99999.1
digests = sha256, sha384, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
"""
HOUSE = Path(__file__).parent.parent
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class LocalTsa:
    """An authority with its own root; `stamp` answers without the network."""

    name: str
    folder: Path
    root: Authority
    url: str = ""
    asked: list[bytes] = field(default_factory=list)
    answer: Callable[[bytes], Answer] | None = None

    @property
    def trusted(self) -> StampAuthority:
        return authority(self.name, self.root.certificate.public_bytes(Encoding.DER))

    @property
    def line(self) -> str:
        """The line of a trust file that believes it."""
        return f"tsa {self.name} {to_base64(self.root.certificate.public_bytes(Encoding.DER))}"

    @property
    def root_pem(self) -> Path:
        return write_certificates(self.folder / "root.pem", self.root.certificate)

    def stamp(self, message: bytes) -> bytes:
        return self.reply(make_request(message).der)

    def reply(self, request: bytes) -> bytes:
        query, reply = self.folder / "query.tsq", self.folder / "reply.tsr"
        query.write_bytes(request)
        command = [openssl(), "ts", "-reply", "-config", self.folder / "tsa.cnf", "-queryfile", query, "-out", reply]
        subprocess.run(command, check=True, capture_output=True)
        return reply.read_bytes()


def openssl() -> str:
    """The openssl command: the one that scripts/setup.sh found or fetched, else the system's."""
    found = shutil.which(HOUSE / ".venv/openssl/openssl") or shutil.which("openssl")
    assert found, "these tests need the openssl command: run sh scripts/openssl.sh, or apt install openssl"
    return found


def new_tsa(
    folder: Path,
    name: str = "clock",
    *,
    start: datetime = NOW - 10 * DAY,
    end: datetime = NOW + 10 * DAY,
    usage: x509.ExtendedKeyUsage | None = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]),
    critical: bool = True,
    root: Authority | None = None,
) -> LocalTsa:
    """Make an authority whose own certificate is as told; by default it is as RFC 3161 asks."""
    folder.mkdir(parents=True)
    issuer = root or new_root(f"{name} root")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if usage is not None:
        builder = builder.add_extension(usage, critical=critical)
    write_certificates(folder / "tsa.pem", builder.sign(issuer.key, hashes.SHA256()))
    (folder / "tsa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "tsa.cnf").write_text(CONFIG.format(folder=folder))
    (folder / "serial").write_text("01\n")
    return LocalTsa(name, folder, issuer)


@contextmanager
def serving(tsa: LocalTsa, tls: Path | None = None) -> Iterator[LocalTsa]:
    """Serve an authority on a free port of this machine while the block runs; `tls` holds key and certificate."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/timestamp-query"
            tsa.asked.append(request)
            good = {"Content-Type": "application/timestamp-reply"}
            status, headers, body = tsa.answer(request) if tsa.answer else (200, good, tsa.reply(request))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    address = "https://localhost" if tls is not None else "http://127.0.0.1"
    tsa.url = f"{address}:{server.server_port}/"
    try:
        yield tsa
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
