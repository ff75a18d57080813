"""The commands about models: flags turned into the request of a job, and its result into an answer."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.answer import Answer
from cli.options import Options

Ignored = Annotated[
    list[str] | None, typer.Option("--ignore", metavar="PATH", help="Leave out this path of the model and all below.")
]
LinksBelow = Annotated[
    Path | None,
    typer.Option(
        "--allow-links-below",
        metavar="DIR",
        help="Take links to files below DIR for those files, as in a Hugging Face cache.",
    ),
]


TsaUrls = Annotated[
    list[str] | None,
    typer.Option("--tsa", metavar="URL", help="Have this authority stamp the time; else those of your settings."),
]
NoTsa = Annotated[bool, typer.Option("--no-tsa", help="Ask no time stamping authority.")]
TsaRoots = Annotated[
    list[Path] | None,
    typer.Option("--tsa-root", metavar="PEM", help="Believe time stamps up to these root certificates."),
]


AlsoSign = Annotated[
    list[str] | None,
    typer.Option("--also-sign", metavar="REF", help="This key signs too (Ed25519, ML-DSA, a second person's)."),
]


Calibrate = Annotated[
    str | None,
    typer.Option(
        "--calibrate",
        metavar="python:MODULE:FUNCTION",
        help="Shape the mark by your measure: called with a model folder, a number, higher for better, that moves with "
        "every small change (minus a mean loss; not an accuracy). Some 70 calls.",
    ),
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
    calibrate: Calibrate = None,
    keep_reference: Annotated[
        str | None,
        typer.Option(
            "--keep-reference", metavar="DIR", help="Put a copy of the unmarked model there; s3://BUCKET/PREFIX too."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    tsa: TsaUrls = None,
    no_tsa: NoTsa = False,
    links_below: LinksBelow = None,
    training_manifest: Annotated[
        Path | None,
        typer.Option("--training-manifest", metavar="FILE", help="What the model was made from: docs/documents.md."),
    ] = None,
    no_documents: Annotated[
        bool, typer.Option("--no-documents", help="Write no provenance, bill of materials and documentation.")
    ] = False,
    also_sign: AlsoSign = None,
) -> Answer:
    """Mark, sign and register a model; DIR is then ready to ship."""
    from cli.reference_places import place_from
    from cli.release import ReleaseRequest
    from cli.release import release as release_model
    from cli.report_models import json_of_release, text_of_release
    from cli.tsa_settings import chosen_urls

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
        keep_reference=place_from(keep_reference),
        dry_run=dry_run,
        tsa=chosen_urls(tsa, none=no_tsa),
        links_below=links_below,
        pin=options.pin(),
        documents=not no_documents,
        training_manifest=training_manifest,
        also_sign=tuple(also_sign or ()),
        calibrate=calibrate,
    )

    def tell(done: int, total: int) -> None:
        if not options.quiet and sys.stderr.isatty() and done * 10 // total > (done - 1) * 10 // total:
            print(f"calibration: {done} of {total} trials", file=sys.stderr, flush=True)

    with options.progress("Releasing") as progress:
        result = release_model(request, options.passphrase(), progress, tell)
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
    sigstore_trusted_root: Annotated[
        Path | None,
        typer.Option("--sigstore-trusted-root", metavar="FILE", help="Verify a keyless signature with this root."),
    ] = None,
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="WHO", help="Who must have signed keyless, letter for letter.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="URL", help="Who must have vouched for that name.")
    ] = None,
    tsa_root: TsaRoots = None,
    ignore: Ignored = None,
    ignore_unsigned_files: Annotated[
        bool, typer.Option("--ignore-unsigned-files", help="Accept files that the signature does not name.")
    ] = False,
    allow_legacy: Annotated[
        bool, typer.Option("--allow-legacy", help="Accept what model-signing 0.2 wrote, too.")
    ] = False,
    links_below: LinksBelow = None,
    also_public_key: Annotated[
        list[Path] | None,
        typer.Option("--also-public-key", metavar="PEM", help="Demand a second signature by this key."),
    ] = None,
    lineage: Annotated[
        bool, typer.Option("--lineage", help="Also follow the declared parents through the registry in your home.")
    ] = False,
    use_digest_cache: Annotated[
        bool, typer.Option("--use-digest-cache", help="Read only files that changed since this machine hashed them.")
    ] = False,
    max_view_age: Annotated[
        float, typer.Option("--max-view-age", metavar="DAYS", help="Refuse a trust file that is older.")
    ] = 30.0,
    warn_view_age: Annotated[
        float, typer.Option("--warn-view-age", metavar="DAYS", help="Warn of a trust file that is older.")
    ] = 7.0,
) -> Answer:
    """Is this exactly what its owner released? Works offline and needs no secret."""
    from cli.home import TRUST
    from cli.keyless import sigstore_trust
    from cli.reading import Reading
    from cli.report_models import json_of_verify, text_of_verify
    from cli.standing import StandingRules
    from cli.verify import VerifyRequest
    from cli.verify import verify as verify_model

    sigstore = sigstore_trust(sigstore_trusted_root, identity, issuer)
    alone = public_key is not None or bool(root) or sigstore is not None
    if trust is None and not alone and (options.home / TRUST).is_file():
        trust = options.home / TRUST
    with options.progress("Verifying") as progress:
        request = VerifyRequest(
            model=model,
            trust=trust,
            signature=signature,
            public_key=public_key,
            roots=tuple(root or ()),
            tsa_roots=tuple(tsa_root or ()),
            ignore=tuple(ignore or ()),
            ignore_unsigned_files=ignore_unsigned_files,
            allow_legacy=allow_legacy,
            progress=progress,
            reading=Reading(links_below, _cache_path() if use_digest_cache else None),
            sigstore=sigstore,
            also_public_keys=tuple(also_public_key or ()),
            lineage=options.home if lineage else None,
            rules=StandingRules(max_view_age, warn_view_age),
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
        str | None,
        typer.Option(
            "--key", metavar="REF", help="A PEM file, pkcs11:... or awskms:///...; else the key of your home."
        ),
    ] = None,
    cert: Annotated[
        Path | None, typer.Option("--cert", metavar="PEM", help="The signer's certificate, in place of a key hint.")
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option("--chain", metavar="PEM", help="Certificates between the signer's and the root."),
    ] = None,
    tsa: TsaUrls = None,
    no_tsa: NoTsa = False,
    ignore: Ignored = None,
    links_below: LinksBelow = None,
    known_digests: Annotated[
        list[Path] | None,
        typer.Option(
            "--known-digests",
            metavar="PATH",
            help="A SHA256SUMS list, or a folder of Git LFS pointers: sign what it states, unread, and say so.",
        ),
    ] = None,
    no_digest_cache: Annotated[
        bool, typer.Option("--no-digest-cache", help="Read every file, also those hashed before and unchanged.")
    ] = False,
    also_sign: AlsoSign = None,
) -> Answer:
    """Put a plain OMS signature on a model: no mark, no registry."""
    from cli.reading import Reading
    from cli.report_models import json_of_sign, text_of_sign
    from cli.sign import SignRequest
    from cli.sign import sign as sign_model
    from cli.stamping import stamper_for_signing
    from cli.tsa_settings import chosen_urls

    with options.progress("Signing") as progress:
        request = SignRequest(
            model=model,
            key=key,
            passphrase=options.passphrase(),
            home=options.home,
            pin=options.pin(),
            signature=signature,
            certificate=cert,
            chain=tuple(chain or ()),
            stamper=stamper_for_signing(options.home, chosen_urls(tsa, none=no_tsa)),
            also_sign=tuple(also_sign or ()),
            ignore=tuple(ignore or ()),
            progress=progress,
            reading=Reading(links_below, None if no_digest_cache else _cache_path(), tuple(known_digests or ())),
        )
        result = sign_model(request)
    head, *body = text_of_sign(result)
    return Answer(json_of_sign(result), head, tuple(body))


def _cache_path() -> Path:
    from registry.signing.digest_cache import default_cache_path

    return default_cache_path()


def check(
    options: Options,
    suspect: Annotated[str, typer.Argument(metavar="SUSPECT", help="The model in question: a folder or a file.")],
    release: Annotated[
        list[str] | None, typer.Option("--release", metavar="ID", help="Look for these releases only; fewer cost less.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="DIR", help="Where the unmarked reference is now; s3://BUCKET/PREFIX too."),
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
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write the answer as a page to look at.")
    ] = None,
    links_below: LinksBelow = None,
    tsa: TsaUrls = None,
    no_tsa: NoTsa = False,
) -> Answer:
    """Is this model ours, whose copy is it, and how sure is that?"""
    from cli.check import CheckRequest
    from cli.check import check as check_suspect
    from cli.reference_places import place_from
    from cli.report_verdicts import exit_code_of_check, json_of_check, text_of_check
    from cli.tsa_settings import chosen_urls

    request = CheckRequest(
        home=options.home,
        suspect=suspect,
        releases=tuple(release or ()),
        reference=place_from(reference),
        suspect_date=suspect_date,
        suspect_source=suspect_source,
        case=case,
        challenge=challenge,
        evidence=evidence,
        expect=expect.value if expect else None,
        tsa=chosen_urls(tsa, none=no_tsa),
        links_below=links_below,
        pin=options.pin(),
    )
    with options.progress("Checking") as progress:
        result = check_suspect(request, options.passphrase(), progress)
    if report is not None:
        from cli.report_page import write_check_page

        write_check_page(report, request, result)
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
    suspect_date: Annotated[
        str | None,
        typer.Option("--suspect-date", metavar="DATE", help="A date of the suspect earlier than the file's, if shown."),
    ] = None,
    tsa_root: TsaRoots = None,
    trust: Annotated[
        Path | None, typer.Option("--trust", metavar="FILE", help="The owner's trust file; else that of your home.")
    ] = None,
) -> Answer:
    """Verify an evidence file as a third party: signatures, log order, recomputed log2 p."""
    from cli.evidence import EvidenceRequest, verify_evidence
    from cli.report_verdicts import exit_code_of_evidence, json_of_evidence, text_of_evidence

    request = EvidenceRequest(
        file=file,
        suspect=suspect,
        reference=reference,
        trust=trust,
        home=options.home,
        suspect_date=suspect_date,
        tsa_roots=tuple(tsa_root or ()),
    )
    with options.progress("Verifying") as progress:
        result = verify_evidence(request, progress)
    head, *body = text_of_evidence(request, result)
    return Answer(json_of_evidence(result), head, tuple(body), exit_code_of_evidence(result))
