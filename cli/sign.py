"""The job of `weightmark sign`: a plain OMS signature over a folder or file. No mark, no registry, no terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cli.also_sign import FurtherSignature, claims_with, open_signers
from cli.reading import USUAL, Reading
from registry.keystores.interface import open_signer
from registry.keystores.key_file import open_key_file
from registry.signing.comparison import default_signature_path
from registry.signing.manifest import CLAIMS_NAME, PROOF_NAME
from registry.signing.oms import sign_model
from registry.signing.signer import Signer
from registry.signing.small_files import replace_file
from watermark.errors import InputError

if TYPE_CHECKING:
    from cli.stamping import Stamper


@dataclass(frozen=True)
class SignRequest:
    """What to sign, with which key: a file, a reference to a key in a store, or the signing key of a home (None).

    `passphrase` opens a key file, or is asked for it when the file is encrypted; `pin` is asked for a token's PIN.
    `signature` is where the bundle goes (default: `model.sig` in the folder, `NAME.sig` beside a file). `certificate`
    and `chain` are PEM files that replace the key hint. `ignore` are root-relative paths, each with its subtree.
    """

    model: Path
    key: Path | str | None
    passphrase: bytes | Callable[[], bytes] | None = field(default=None, repr=False)
    signature: Path | None = None
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    ignore: tuple[str, ...] = ()
    progress: Callable[[int], None] | None = None
    home: Path | None = None
    pin: Callable[[str], bytes] | None = field(default=None, repr=False)
    stamper: Stamper | None = None
    reading: Reading = USUAL
    also_sign: tuple[str, ...] = ()


@dataclass(frozen=True)
class SignResult:
    """Where the signature lies and what it covers. `root` and `key` are hex SHA-256.

    `stated_digests` counts the files that were not read because somebody else had stated their digests.
    """

    signature: Path
    root: str
    key: str
    files: int
    stamps: int = 0
    stated_digests: int = 0
    also_signed: tuple[FurtherSignature, ...] = ()


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
    key = _signer(request)
    also_sign = open_signers(request.also_sign, _phrase(request), request.pin)
    claims_inside = bool(also_sign) and target.parent.resolve() == request.model.resolve()
    certificates = []
    if request.certificate is not None:
        from registry.signing.certificates import read_certificates  # X.509 costs start-up time: only when used

        for path in (request.certificate, *request.chain):
            certificates += read_certificates(path)
    with request.reading.open_cache() as cache:
        signed = sign_model(
            request.model,
            key,
            ignore=(*request.ignore, *((CLAIMS_NAME,) if claims_inside else ())),
            signature_path=target,
            certificates=certificates,
            progress=request.progress,
            stated=request.reading.stated(),
            links_below=request.reading.links_below,
            cache=cache,
        )
    bundle = signed.bundle
    if request.stamper is not None:
        from cli.stamping import stamp_bundle

        bundle = stamp_bundle(bundle, request.stamper)
    claims = b""
    if also_sign:
        claims = claims_with(target, signed.manifest.model_name, signed.root, signed.pae_sha256, also_sign)
    replace_file(target, bundle)
    if also_sign:
        replace_file(target.with_name(CLAIMS_NAME), claims)
    stamps = len(request.stamper.urls) if request.stamper is not None else 0
    resources = signed.manifest.resources
    further = tuple(FurtherSignature(one.public.key_id, one.public.algorithm_name) for one in also_sign)
    stated = sum(bool(resource.stated_by) for resource in resources)
    return SignResult(target, signed.root.hex(), key.public.key_id, len(resources), stamps, stated, further)


def _phrase(request: SignRequest) -> Callable[[], bytes] | None:
    phrase = request.passphrase
    return phrase if phrase is None or callable(phrase) else lambda: phrase


def _signer(request: SignRequest) -> Signer:
    ask = _phrase(request)
    if isinstance(request.key, str):
        return open_signer(request.key, passphrase=ask, pin=request.pin)
    if request.key is not None:
        return open_key_file(request.key, ask)
    from cli.home import OWNER_KEY, Home, home_path

    home = Home.open(home_path(request.home))
    if home.stores.owner_key is not None:
        return home.private_key(b"", request.pin)
    return open_key_file(home.path / OWNER_KEY, ask)
