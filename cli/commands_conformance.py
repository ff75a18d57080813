"""Two hidden commands that the OMS conformance suite runs: `sign-model` and `verify-model`, with the suite's flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.answer import Answer
from cli.options import Options

NAMES = ("sign-model", "verify-model")
_LISTS = ("--cert-chain", "--ignore-paths")

Method = Annotated[str, typer.Option("--method", metavar="key|certificate", help="How it is signed.")]
ModelPath = Annotated[Path, typer.Option("--model-path", metavar="P", help="The model: a folder or a file.")]
CertChain = Annotated[
    list[Path] | None, typer.Option("--cert-chain", metavar="PEM...", help="Certificates up to the root.")
]
IgnorePaths = Annotated[
    list[str] | None, typer.Option("--ignore-paths", metavar="ABS...", help="Paths on the disk to leave out.")
]


def spread_lists(arguments: Sequence[str]) -> list[str]:
    """Repeat a flag before each of several values after it, for the suite's two commands; others stay as they are.

    `--cert-chain a.pem b.pem` becomes `--cert-chain a.pem --cert-chain b.pem`.
    """
    if not any(name in arguments for name in NAMES):
        return list(arguments)
    spread: list[str] = []
    flag, values = None, 0
    for one in arguments:
        if one.startswith("--"):
            flag, values = (one if one in _LISTS else None), 0
        elif flag is not None:
            values += 1
            if values > 1:
                spread.append(flag)
        spread.append(one)
    return spread


def sign_model(
    options: Options,
    method: Method,
    model_path: ModelPath,
    output_bundle: Annotated[Path, typer.Option("--output-bundle", metavar="F", help="Where the bundle goes.")],
    private_key: Annotated[
        Path | None, typer.Option("--private-key", metavar="PEM", help="The private key, as a file.")
    ] = None,
    signing_cert: Annotated[
        Path | None, typer.Option("--signing-cert", metavar="PEM", help="The signer's certificate.")
    ] = None,
    cert_chain: CertChain = None,
    ignore_paths: IgnorePaths = None,
) -> Answer:
    """Sign a model as the OMS conformance suite asks."""
    from cli.conformance import SignOrder, sign_for_suite
    from cli.report_models import json_of_sign, text_of_sign

    result = sign_for_suite(
        SignOrder(
            method=method,
            model=model_path,
            bundle=output_bundle,
            private_key=private_key,
            certificate=signing_cert,
            chain=tuple(cert_chain or ()),
            ignore_paths=tuple(ignore_paths or ()),
            passphrase=options.passphrase(),
        )
    )
    head, *body = text_of_sign(result)
    return Answer(json_of_sign(result), head, tuple(body))


def verify_model(
    options: Options,
    method: Method,
    model_path: ModelPath,
    bundle: Annotated[Path, typer.Option("--bundle", metavar="F", help="The bundle to verify.")],
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="PEM", help="The signer's public key.")
    ] = None,
    cert_chain: CertChain = None,
    ignore_paths: IgnorePaths = None,
    ignore_unsigned_files: Annotated[
        bool, typer.Option("--ignore-unsigned-files", help="Accept files that the signature does not name.")
    ] = False,
) -> Answer:
    """Verify a model as the OMS conformance suite asks."""
    from cli.conformance import VerifyOrder, verify_for_suite
    from cli.report_models import json_of_verify

    order = VerifyOrder(
        method=method,
        model=model_path,
        bundle=bundle,
        public_key=public_key,
        chain=tuple(cert_chain or ()),
        ignore_paths=tuple(ignore_paths or ()),
        ignore_unsigned_files=ignore_unsigned_files,
    )
    result = verify_for_suite(order)
    return Answer(json_of_verify(result), f"VERIFIED   {result.files} files, signed by {result.signed_by}")
