"""The commands about keys beyond looking at them: flags turned into the request of a job, its result into an answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.answer import Answer
from cli.commands_key_life import KeyAlgorithm
from cli.options import Options

BackupPassphraseFd = Annotated[
    int | None,
    typer.Option(
        "--backup-passphrase-fd", metavar="N", help="Read the backup's own passphrase from this file descriptor."
    ),
]


def make(
    options: Options,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The new key, encrypted; FILE.pub goes beside it.")
    ],
    algorithm: Annotated[KeyAlgorithm, typer.Option("--algorithm", help="The kind of key.")] = KeyAlgorithm.MLDSA65,
) -> Answer:
    """Make a key in a file of its own, to sign beside that of your home or to send to an owner."""
    from cli.key_make import make_key
    from cli.report_key_make import json_of_made_key, text_of_made_key

    made = make_key(algorithm.value, out, options.passphrase(confirm=True, what="passphrase of the new key"))
    head, *body = text_of_made_key(made)
    return Answer(json_of_made_key(made), head, tuple(body))


def backup(
    options: Options,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup, a new file on another disk.")],
    backup_passphrase_fd: BackupPassphraseFd = None,
    with_registry: Annotated[
        bool, typer.Option("--with-registry", help="Take the registry along, too: the log and all records.")
    ] = False,
) -> Answer:
    """Back up keys, secret, settings and trust into one file under one passphrase of its own."""
    from cli.backup import BackupRequest, back_up
    from cli.passphrase import read_backup_passphrase
    from cli.report_backup import json_of_backup, text_of_backup

    request = BackupRequest(options.home, file, with_registry, options.pin())
    result = back_up(request, options.passphrase(), lambda: read_backup_passphrase(backup_passphrase_fd, confirm=True))
    head, *body = text_of_backup(result)
    return Answer(json_of_backup(result), head, tuple(body))


def restore(
    options: Options,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `keys backup` wrote.")],
    backup_passphrase_fd: BackupPassphraseFd = None,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", metavar="HEX", help="Go on only if the file has this fingerprint.")
    ] = None,
) -> Answer:
    """Make your home from a backup; a home that is there is never touched."""
    from cli.passphrase import read_backup_passphrase
    from cli.report_backup import json_of_restore, text_of_restore
    from cli.restore import RestoreRequest
    from cli.restore import restore as restore_home

    def show(found: str) -> None:
        print(f"fingerprint {found}", file=sys.stderr)

    result = restore_home(
        RestoreRequest(file, options.home, fingerprint),
        lambda: read_backup_passphrase(backup_passphrase_fd, confirm=False),
        show,
    )
    head, *body = text_of_restore(result)
    return Answer(json_of_restore(result), head, tuple(body))


def wrap_secret(
    options: Options,
    key: Annotated[str, typer.Argument(metavar="REF", help="The key that wraps it: awskms:///... or pkcs11:...")],
) -> Answer:
    """Close the owner secret by a key in a token or in AWS KMS, so that several people share it without seeing it."""
    from cli.report_backup import json_of_closed, text_of_closed
    from cli.wrapping import wrap_owner_secret

    closed = wrap_owner_secret(options.home, key, options.passphrase(), options.pin())
    head, *body = text_of_closed(closed)
    return Answer(json_of_closed(closed), head, tuple(body))


def seal_secret(options: Options) -> Answer:
    """Close the owner secret by the passphrase again."""
    from cli.report_backup import json_of_closed, text_of_closed
    from cli.wrapping import seal_owner_secret

    closed = seal_owner_secret(options.home, options.passphrase(confirm=True), options.pin())
    head, *body = text_of_closed(closed)
    return Answer(json_of_closed(closed), head, tuple(body))
