"""The commands about models: flags turned into the request of a job, and its result into an answer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.answer import Answer
from cli.options import Options

Ignored = Annotated[
    list[str] | None, typer.Option("--ignore", metavar="PATH", help="Leave out this path of the model and all below.")
]


class Expected(StrEnum):
    """What a gate expects."""

    OURS = "ours"
    NOT_OURS = "not-ours"


def release(
    options: Options,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The unmarked model: a folder or a weight file.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the finished copy goes; must not exist.")],
    name: Annotated[str | None, typer.Option("--name", help="The model's name; else the folder's.")] = None,
    version: Annotated[str | None, typer.Option("--version", metavar="V", help="The model's version.")] = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="RECIPIENT", help="Who gets a copy; several each get their own in DIR/<copy id>."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL_OR_RELEASE", help="The public model that this one derives from."),
    ] = None,
    no_mark: Annotated[bool, typer.Option("--no-mark", help="Sign and register only.")] = False,
    strength: Annotated[
        float | None, typer.Option("--strength", metavar="X", help="Mark strength, in row deviations; else chosen.")
    ] = None,
    keep_reference: Annotated[
        Path | None, typer.Option("--keep-reference", metavar="DIR", help="Put a copy of the unmarked model there.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
) -> Answer:
    """Mark, sign and register a model; DIR is then ready to ship."""
    from cli.release import ReleaseRequest
    from cli.release import release as release_model
    from cli.report_models import json_of_release, text_of_release

    request = ReleaseRequest(
        home=options.home,
        model=model,
        out=out,
        name=name,
        version=version,
        recipients=tuple(to or ()),
        base=base,
        mark=not no_mark,
        strength=strength,
        keep_reference=keep_reference,
        dry_run=dry_run,
    )
    with options.progress("Releasing") as progress:
        result = release_model(request, options.passphrase(), progress)
    head, *body = text_of_release(request, result)
    return Answer(json_of_release(request, result), head, tuple(body))


def verify(
    options: Options,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder or a file with its signature.")],
    trust: Annotated[
        Path | None, typer.Option("--trust", metavar="FILE", help="The owner's trust file; else that of your home.")
    ] = None,
    signature: Annotated[
        Path | None, typer.Option("--signature", metavar="FILE", help="The signature; else model.sig in the folder.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="PEM", help="Verify the signature alone, with this key.")
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option("--root", metavar="PEM", help="Verify the signature alone, up to these root certificates."),
    ] = None,
    ignore: Ignored = None,
    ignore_unsigned_files: Annotated[
        bool, typer.Option("--ignore-unsigned-files", help="Accept files that the signature does not name.")
    ] = False,
    allow_legacy: Annotated[
        bool, typer.Option("--allow-legacy", help="Accept what model-signing 0.2 wrote, too.")
    ] = False,
) -> Answer:
    """Is this exactly what its owner released? Works offline and needs no secret."""
    from cli.home import TRUST
    from cli.report_models import json_of_verify, text_of_verify
    from cli.verify import VerifyRequest
    from cli.verify import verify as verify_model

    if trust is None and public_key is None and not root and (options.home / TRUST).is_file():
        trust = options.home / TRUST
    with options.progress("Verifying") as progress:
        request = VerifyRequest(
            model=model,
            trust=trust,
            signature=signature,
            public_key=public_key,
            roots=tuple(root or ()),
            ignore=tuple(ignore or ()),
            ignore_unsigned_files=ignore_unsigned_files,
            allow_legacy=allow_legacy,
            progress=progress,
        )
        result = verify_model(request)
    head, *body = text_of_verify(request, result)
    return Answer(json_of_verify(result), head, tuple(body))


def sign(
    options: Options,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder or a file.")],
    signature: Annotated[
        Path | None, typer.Option("--signature", metavar="FILE", help="Where it goes; else model.sig in the folder.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="PEM", help="The private key; else that of your home.")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option("--cert", metavar="PEM", help="The signer's certificate, in place of a key hint.")
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option("--chain", metavar="PEM", help="Certificates between the signer's and the root."),
    ] = None,
    ignore: Ignored = None,
) -> Answer:
    """Put a plain OMS signature on a model: no mark, no registry."""
    from cli.home import OWNER_KEY, Home
    from cli.keys import is_encrypted_pem
    from cli.report_models import json_of_sign, text_of_sign
    from cli.sign import SignRequest
    from cli.sign import sign as sign_model

    private_key = key or Home.open(options.home).path / OWNER_KEY
    passphrase = options.passphrase()() if is_encrypted_pem(private_key) else None
    with options.progress("Signing") as progress:
        request = SignRequest(
            model=model,
            key=private_key,
            passphrase=passphrase,
            signature=signature,
            certificate=cert,
            chain=tuple(chain or ()),
            ignore=tuple(ignore or ()),
            progress=progress,
        )
        result = sign_model(request)
    head, *body = text_of_sign(result)
    return Answer(json_of_sign(result), head, tuple(body))


def check(
    options: Options,
    suspect: Annotated[str, typer.Argument(metavar="SUSPECT", help="The model in question: a folder or a file.")],
    release: Annotated[
        list[str] | None, typer.Option("--release", metavar="ID", help="Look for these releases only; fewer cost less.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="DIR", help="Where the unmarked reference is now.")
    ] = None,
    suspect_date: Annotated[
        str | None, typer.Option("--suspect-date", metavar="DATE", help="When the suspect was published.")
    ] = None,
    suspect_source: Annotated[
        str | None, typer.Option("--suspect-source", metavar="TEXT", help="Where the suspect was taken from.")
    ] = None,
    case: Annotated[
        str | None,
        typer.Option(
            "--case", metavar="INDEX", help="`new` logs a case and waits for a challenge; else its log index."
        ),
    ] = None,
    challenge: Annotated[
        str | None, typer.Option("--challenge", metavar="HEX", help="What the other side drew for that case.")
    ] = None,
    expect: Annotated[
        Expected | None, typer.Option("--expect", help="Make a gate of it: exit 0 as expected, 1 otherwise.")
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", metavar="FILE", help="Write what a third party can check.")
    ] = None,
) -> Answer:
    """Is this model ours, whose copy is it, and how sure is that?"""
    from cli.check import CheckRequest
    from cli.check import check as check_suspect
    from cli.report_verdicts import exit_code_of_check, json_of_check, text_of_check

    request = CheckRequest(
        home=options.home,
        suspect=suspect,
        releases=tuple(release or ()),
        reference=reference,
        suspect_date=suspect_date,
        suspect_source=suspect_source,
        case=case,
        challenge=challenge,
        evidence=evidence,
        expect=expect.value if expect else None,
    )
    with options.progress("Checking") as progress:
        result = check_suspect(request, options.passphrase(), progress)
    head, *body = text_of_check(request, result)
    return Answer(json_of_check(result), head, tuple(body), exit_code_of_check(result.verdict, request.expect))


def evidence(
    options: Options,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An evidence file that `check --evidence` wrote.")],
    suspect: Annotated[
        Path | None, typer.Option("--suspect", metavar="MODEL", help="The model that it speaks of.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="DIR", help="The unmarked reference, if it was shown to you.")
    ] = None,
    trust: Annotated[
        Path | None, typer.Option("--trust", metavar="FILE", help="The owner's trust file; else that of your home.")
    ] = None,
) -> Answer:
    """Verify an evidence file as a third party: signatures, log order, recomputed log2 p."""
    from cli.evidence import EvidenceRequest, verify_evidence
    from cli.report_verdicts import exit_code_of_evidence, json_of_evidence, text_of_evidence

    request = EvidenceRequest(file=file, suspect=suspect, reference=reference, trust=trust, home=options.home)
    with options.progress("Verifying") as progress:
        result = verify_evidence(request, progress)
    head, *body = text_of_evidence(request, result)
    return Answer(json_of_evidence(result), head, tuple(body), exit_code_of_evidence(result))
