"""The job behind `sign-model` and `verify-model`: what the OMS conformance suite asks of an implementation.

The suite runs one command with its own flags and looks at the exit status only. It names ignored paths by where they
lie on the disk; a signature holds them relative to the model's root. Its keys are plain files that anybody may read, as
no key of worth would be, so they are read without the look at their mode that `sign` takes. Signatures in the old form
of model-signing 0.2 are accepted here, as the suite wants it, and its rule that a signer's certificate is made for code
signing is enforced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.sign import SignResult
from cli.verify import VerifyRequest, VerifyResult, verify
from registry.signing.bundle import CertificateMaterial, read_bundle
from registry.signing.keys import private_key_from_pem
from registry.signing.oms import sign_model
from registry.signing.small_files import read_small_file, replace_file
from registry.signing.strict_json import MAX_BUNDLE_BYTES
from watermark.errors import InputError

KEY, CERTIFICATE = "key", "certificate"
_MAX_KEY_BYTES = 64 * 1024


@dataclass(frozen=True)
class SignOrder:
    """What the suite wants signed: `ignore_paths` as they lie on the disk."""

    method: str
    model: Path
    bundle: Path
    private_key: Path | None = None
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    ignore_paths: tuple[str, ...] = ()
    passphrase: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class VerifyOrder:
    """What the suite wants verified: `chain` are the certificates to believe."""

    method: str
    model: Path
    bundle: Path
    public_key: Path | None = None
    chain: tuple[Path, ...] = ()
    ignore_paths: tuple[str, ...] = ()
    ignore_unsigned_files: bool = False


def sign_for_suite(order: SignOrder) -> SignResult:
    """Sign a model as the suite asks and write the bundle; InputError for what is missing or is not served."""
    _check_method(order.method)
    if order.private_key is None:
        raise InputError("no private key was given", hint="pass it with --private-key")
    pem = read_small_file(order.private_key, what="the private key", max_bytes=_MAX_KEY_BYTES)
    passphrase = order.passphrase() if order.passphrase is not None and b"ENCRYPTED" in pem else None
    key = private_key_from_pem(pem, passphrase, what=str(order.private_key))
    certificates = []
    if order.method == CERTIFICATE:
        if order.certificate is None:
            raise InputError("no signing certificate was given", hint="pass it with --signing-cert")
        from registry.signing.certificates import read_certificates  # X.509 costs start-up time: only when used

        for path in (order.certificate, *order.chain):
            certificates += read_certificates(path)
    signed = sign_model(
        order.model,
        key,
        ignore=below_root(order.model, order.ignore_paths),
        signature_path=order.bundle,
        certificates=certificates,
    )
    replace_file(order.bundle, signed.bundle)
    return SignResult(order.bundle, signed.root.hex(), key.public.key_id, len(signed.manifest.resources))


def verify_for_suite(order: VerifyOrder) -> VerifyResult:
    """Verify a model as the suite asks; raises whatever `verify` raises, and for a certificate not made for code."""
    _check_method(order.method)
    if order.method == KEY and order.public_key is None:
        raise InputError("no public key was given", hint="pass it with --public-key")
    if order.method == CERTIFICATE and not order.chain:
        raise InputError("no certificate to believe was given", hint="pass it with --cert-chain")
    request = VerifyRequest(
        model=order.model,
        signature=order.bundle,
        public_key=order.public_key if order.method == KEY else None,
        roots=order.chain if order.method == CERTIFICATE else (),
        ignore=below_root(order.model, order.ignore_paths),
        ignore_unsigned_files=order.ignore_unsigned_files,
        allow_legacy=True,
    )
    if order.method == CERTIFICATE:
        _check_code_signing(order)
    return verify(request)


def below_root(model: Path, paths: Sequence[str]) -> tuple[str, ...]:
    """The ignored paths relative to the model's root; those elsewhere on the disk leave nothing of it out.

    Relative paths count from the root. The root itself is refused: a signature over nothing.
    """
    roots = (os.path.abspath(model), os.path.realpath(model))
    inside = []
    for path in paths:
        absolute = os.path.normpath(path if os.path.isabs(path) else os.path.join(roots[0], path))
        if absolute in roots:
            raise InputError(f"cannot ignore {path!r}: that is the whole model", hint="ignore a part of the model")
        for root in roots:
            if absolute.startswith(root.rstrip("/") + "/"):
                inside.append(os.path.relpath(absolute, root))
                break
    return tuple(dict.fromkeys(inside))


def _check_method(method: str) -> None:
    if method not in (KEY, CERTIFICATE):
        raise InputError(
            f"the method {method!a} is not served", hint="use --method key or --method certificate; both work offline"
        )


def _check_code_signing(order: VerifyOrder) -> None:
    from registry.signing.certificates import check_code_signing, read_certificates

    bundle = read_bundle(read_small_file(order.bundle, what="the model signature", max_bytes=MAX_BUNDLE_BYTES))
    if isinstance(bundle.material, CertificateMaterial):  # another kind is refused by `verify`, in its turn
        roots = [certificate for path in order.chain for certificate in read_certificates(path)]
        check_code_signing(bundle.material.chain, roots)
