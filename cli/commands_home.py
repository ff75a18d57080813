"""The commands about an owner's home: flags turned into the request of a job, and its result into an answer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.answer import Answer
from cli.options import Options


class Algorithm(StrEnum):
    """Curves on which an owner's key can lie: those of OMS."""

    P256 = "p256"
    P384 = "p384"
    P521 = "p521"


def init(
    options: Options,
    owner: Annotated[str | None, typer.Option("--owner", metavar="NAME", help="Your name; else the user's.")] = None,
    algorithm: Annotated[Algorithm, typer.Option("--algorithm", help="The curve of the signing key.")] = Algorithm.P256,
    origin: Annotated[
        str | None, typer.Option("--origin", metavar="NAME", help="The public name of your log, for ever.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="REF", help="Sign with this key (pkcs11: or awskms:), which stays where it is."),
    ] = None,
    log_key: Annotated[
        str | None, typer.Option("--log-key", metavar="REF", help="Sign the log with this Ed25519 key, likewise.")
    ] = None,
    secret_kms: Annotated[
        str | None,
        typer.Option("--secret-kms", metavar="REF", help="Wrap the owner secret by this key, not by the passphrase."),
    ] = None,
) -> Answer:
    """Make your home: signing key, owner secret, trust file and registry."""
    from cli.init import InitRequest
    from cli.init import init as make_home
    from cli.key_stores import KeyStores
    from cli.report_home import json_of_init, text_of_init

    stores = KeyStores(key, log_key, secret_kms, options.pin())
    request = InitRequest(options.home, owner, algorithm.value, origin, stores)
    result = make_home(request, options.passphrase(confirm=True, what="new passphrase"))
    head, *body = text_of_init(result)
    return Answer(json_of_init(result), head, tuple(body))


def audit(
    options: Options,
    since: Annotated[
        Path | None,
        typer.Option("--since", metavar="CHECKPOINT_FILE", help="A checkpoint that you kept from before."),
    ] = None,
    trust: Annotated[
        Path | None, typer.Option("--trust", metavar="FILE", help="Whose log it is; else the trust file of the home.")
    ] = None,
) -> Answer:
    """Is the registry whole and honest?"""
    from cli.audit import AuditRequest
    from cli.audit import audit as audit_registry
    from cli.home import TRUST
    from cli.report_verdicts import json_of_audit, text_of_audit

    with options.progress("Auditing") as progress:
        request = AuditRequest(options.home, since, trust or options.home / TRUST, progress=progress)
        result = audit_registry(request)
    head, *body = text_of_audit(result, since=since is not None)
    return Answer(json_of_audit(result), head, tuple(body), 0 if result.whole else 1)


def list_releases(options: Options) -> Answer:
    """List your releases and their copies."""
    from cli.listing import list_releases as read_listing
    from cli.report_home import json_of_listing, text_of_listing

    listing = read_listing(options.home)
    head, *body = text_of_listing(listing)
    return Answer(json_of_listing(listing), head, tuple(body))


def show(
    options: Options,
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="A release or copy; the beginning of its id will do.")
    ],
) -> Answer:
    """Show one release or copy."""
    from cli.report_home import json_of_show, text_of_show
    from cli.show import show as show_release

    release = show_release(options.home, identifier)
    head, *body = text_of_show(release)
    return Answer(json_of_show(release), head, tuple(body))


def doctor(
    options: Options,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every reference and compare its digest.")] = False,
) -> Answer:
    """Look after your home: keys, permissions, registry, references, disk."""
    from cli.doctor import DoctorRequest
    from cli.doctor import doctor as examine
    from cli.report_home import json_of_diagnosis, text_of_diagnosis

    with options.progress("Reading references") as progress:
        diagnosis = examine(DoctorRequest(options.home, deep), progress)
    head, *body = text_of_diagnosis(diagnosis, deep=deep)
    return Answer(json_of_diagnosis(diagnosis), head, tuple(body), 0 if diagnosis.well else 1)


def keys_list(options: Options) -> Answer:
    """List the key files of your home, and whether each is encrypted and closed to others."""
    from cli.keys import list_keys
    from cli.report_home import json_of_keys, text_of_keys

    keys = list_keys(options.home)
    head, *body = text_of_keys(keys)
    return Answer(json_of_keys(keys), head, tuple(body), 1 if any(key.problem for key in keys) else 0)


def keys_show(options: Options) -> Answer:
    """Show your public key and the verifier key of your log."""
    from cli.keys import show_key
    from cli.report_home import json_of_owner_key, text_of_owner_key

    key = show_key(options.home)
    head, *body = text_of_owner_key(key)
    return Answer(json_of_owner_key(key), head, tuple(body))


def keys_export(
    options: Options,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there; else to stdout.")] = None,
) -> Answer:
    """Export the trust file that others need to verify what you release."""
    from cli.keys import export_trust
    from cli.report_home import json_of_trust, text_of_trust

    exported = export_trust(options.home, out)
    head, *body = text_of_trust(exported)
    return Answer(json_of_trust(exported), head, tuple(body))


def keys_change_passphrase(
    options: Options,
    new_passphrase_fd: Annotated[
        int | None,
        typer.Option("--new-passphrase-fd", metavar="N", help="Read the new passphrase from this descriptor."),
    ] = None,
) -> Answer:
    """Seal keys and secret under a new passphrase, all of them or none."""
    from cli.keys import change_passphrase
    from cli.passphrase import read_new_passphrase

    names = change_passphrase(options.home, options.passphrase(), lambda: read_new_passphrase(new_passphrase_fd))
    body = ("  keep: old backups open with the old passphrase only",)
    return Answer({"changed": list(names)}, f"CHANGED   the passphrase of {', '.join(names)}", body)


def demo(
    options: Options,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Play there and keep it; else leave nothing behind.")
    ] = None,
) -> Answer:
    """Play the whole story on a real model, in a folder of its own."""
    from functools import partial

    from cli.demo import DemoRequest
    from cli.demo import demo as play
    from cli.demo_progress import training_steps
    from cli.report_demo import json_of_demo, showing, text_of_demo

    show = showing(quiet=options.quiet, to_stderr=options.as_json)
    result = play(DemoRequest(folder, quiet=options.quiet), show, partial(training_steps, quiet=options.quiet))
    head, *body = text_of_demo(result)
    return Answer(json_of_demo(result), head, tuple(body), 0 if result.as_told else 1)
