"""The job of `weightmark sign`: a plain OMS signature over a folder or file. No mark, no registry, no terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from registry.signing.comparison import default_signature_path
from registry.signing.keys import read_private_key
from registry.signing.manifest import PROOF_NAME
from registry.signing.oms import sign_model
from registry.signing.small_files import replace_file
from watermark.errors import InputError


@dataclass(frozen=True)
class SignRequest:
    """What to sign, with which key file.

    `signature` is where the bundle goes (default: `model.sig` in the folder, `NAME.sig` beside a file). `certificate`
    and `chain` are PEM files that replace the key hint. `ignore` are root-relative paths, each with its subtree.
    """

    model: Path
    key: Path
    passphrase: bytes | None = None
    signature: Path | None = None
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    ignore: tuple[str, ...] = ()
    progress: Callable[[int], None] | None = None


@dataclass(frozen=True)
class SignResult:
    """Where the signature lies and what it covers. `root` and `key` are hex SHA-256."""

    signature: Path
    root: str
    key: str
    files: int


def sign(request: SignRequest) -> SignResult:
    """Sign every file of a model and put the bundle in place in one step.

    Never replaces the signature inside a release: its log proof would no longer fit.
    """
    if request.chain and request.certificate is None:
        raise InputError("a chain was given without the signer's certificate", hint="pass it with --cert")
    target = request.signature or default_signature_path(request.model)
    if target == default_signature_path(request.model) and (request.model / PROOF_NAME).exists():
        raise InputError(
            f"{request.model} is a release: a new signature would break its log proof",
            hint="write the signature elsewhere with --signature, or sign a copy without the release's side files",
        )
    key = read_private_key(request.key, request.passphrase)
    certificates = []
    if request.certificate is not None:
        from registry.signing.certificates import read_certificates  # X.509 costs start-up time: only when used

        for path in (request.certificate, *request.chain):
            certificates += read_certificates(path)
    signed = sign_model(
        request.model,
        key,
        ignore=request.ignore,
        signature_path=target,
        certificates=certificates,
        progress=request.progress,
    )
    replace_file(target, signed.bundle)
    return SignResult(target, signed.root.hex(), key.public.key_id, len(signed.manifest.resources))
