"""The commands about the life of keys: flags turned into the request of a job, and its result into an answer."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.answer import Answer
from cli.options import Options

if TYPE_CHECKING:
    from cli.key_change import ChangeRequest, KeyChange


class KeyAlgorithm(StrEnum):
    """What a further key can be; only the first three can sign models."""

    P256 = "p256"
    P384 = "p384"
    P521 = "p521"
    ED25519 = "ed25519"
    MLDSA44 = "mldsa44"
    MLDSA65 = "mldsa65"
    MLDSA87 = "mldsa87"


Signing = Annotated[
    list[str] | None,
    typer.Option("--sign-with", metavar="KEY", help="This key signs too: a PEM file, pkcs11: or awskms:."),
]
Draft = Annotated[
    Path | None,
    typer.Option("--draft", metavar="FILE", help="Log nothing yet: write what others approve and you submit."),
]
NewAlgorithm = Annotated[KeyAlgorithm, typer.Option("--algorithm", help="The kind of the new key.")]
NewKey = Annotated[
    str | None,
    typer.Option("--key", metavar="REF", help="The new key is this one, in a token or a cloud; else it is made here."),
]
KeyId = Annotated[str, typer.Argument(metavar="KEYID", help="The key; the beginning of its id will do.")]
FromIndex = Annotated[
    int | None, typer.Option("--from", metavar="INDEX", help="From this log entry on; else from now on.")
]


def enrol(
    options: Options,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="PEM", help="Somebody else's key, who must approve; else a new one."),
    ] = None,
    algorithm: NewAlgorithm = KeyAlgorithm.P256,
    key: NewKey = None,
    sign_with: Signing = None,
    draft: Draft = None,
) -> Answer:
    """Bring in a further key, which must sign for itself too."""
    from cli.key_events import enrol_key

    return _answer(
        enrol_key(
            _request(options, sign_with, draft),
            options.passphrase(),
            algorithm=algorithm.value,
            reference=key,
            public=public_key,
        )
    )


def rotate(
    options: Options,
    algorithm: NewAlgorithm = KeyAlgorithm.P256,
    key: NewKey = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", metavar="KEYID", help="Leave this key out of the new set, too.")
    ] = None,
    threshold: Annotated[
        int | None, typer.Option("--threshold", metavar="M", help="How many of the new set must sign; else as before.")
    ] = None,
    sign_with: Signing = None,
    draft: Draft = None,
) -> Answer:
    """Sign with a new key from now on; what the old one signed stands."""
    from cli.key_events import rotate_keys

    return _answer(
        rotate_keys(
            _request(options, sign_with, draft),
            options.passphrase(),
            algorithm=algorithm.value,
            reference=key,
            drop=tuple(drop or ()),
            threshold=threshold,
        )
    )


def revoke(
    options: Options,
    key_id: KeyId,
    from_index: FromIndex = None,
    sign_with: Signing = None,
    draft: Draft = None,
) -> Answer:
    """Take trust back from a key: what it signed before an index stands, what is later falls."""
    from cli.key_events import revoke_key

    request = _request(options, sign_with, draft)
    return _answer(revoke_key(request, options.passphrase(), key_id, from_index=from_index))


def retire(options: Options, key_id: KeyId, sign_with: Signing = None, draft: Draft = None) -> Answer:
    """Take a key out of use in good order; what it signed stands."""
    from cli.key_events import retire_key

    return _answer(retire_key(_request(options, sign_with, draft), options.passphrase(), key_id))


def threshold(
    options: Options,
    keys: Annotated[int, typer.Argument(metavar="M", help="So many of your keys.")],
    sign_with: Signing = None,
    draft: Draft = None,
) -> Answer:
    """Let M keys have to sign each release and each change of keys."""
    from cli.key_events import set_threshold

    return _answer(set_threshold(_request(options, sign_with, draft), options.passphrase(), keys))


def approve(
    options: Options,
    draft: Annotated[Path, typer.Argument(metavar="DRAFT", help="What --draft wrote; your signature is put into it.")],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="Your key (PEM file, pkcs11:, awskms:); else your home's."),
    ] = None,
) -> Answer:
    """Sign a change of keys that somebody drafted, after reading what it says."""
    from cli.home import Home
    from cli.key_change import approve_draft
    from registry.keystores.interface import open_signer

    if key is None:
        home = Home.open(options.home)
        signer = home.private_key(home.passphrase(options.passphrase()), options.pin())
    else:
        signer = open_signer(key, passphrase=options.passphrase(), pin=options.pin())
    return _answer(approve_draft(draft, signer))


def submit(
    options: Options, draft: Annotated[Path, typer.Argument(metavar="DRAFT", help="A draft that enough keys signed.")]
) -> Answer:
    """Log a change of keys that enough keys have signed."""
    from cli.key_change import submit_draft

    return _answer(submit_draft(_request(options, None, None), options.passphrase(), draft))


def leaked(options: Options, from_index: FromIndex = None, sign_with: Signing = None) -> Answer:
    """Replace the owner secret after others got to know it; old marks are still found, and prove less."""
    from cli.key_leak import replace_leaked_secret

    request = _request(options, sign_with, None)
    return _answer(replace_leaked_secret(request, options.passphrase(), from_index=from_index))


def cosign(
    options: Options,
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="The folder of a release.")],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="KEY", help="Sign with this key (PEM file, pkcs11:, awskms:); else your home's."),
    ] = None,
    trust: Annotated[
        Path | None, typer.Option("--trust", metavar="FILE", help="The owner's trust file; else that of your home.")
    ] = None,
) -> Answer:
    """Verify a release and put a further key's signature on it, so that no one key is enough."""
    from cli.key_cosign import CosignRequest, countersign
    from cli.report_keys import json_of_cosign, text_of_cosign

    with options.progress("Verifying") as progress:
        request = CosignRequest(options.home, release, tuple(key or ()), trust, pin=options.pin(), progress=progress)
        result = countersign(request, options.passphrase())
    head, *body = text_of_cosign(request, result)
    return Answer(json_of_cosign(result), head, tuple(body))


COMMANDS: Final[dict[str, Callable[..., Answer]]] = {
    "enrol": enrol,
    "rotate": rotate,
    "revoke": revoke,
    "retire": retire,
    "threshold": threshold,
    "approve": approve,
    "submit": submit,
    "leaked": leaked,
    "cosign": cosign,
}
"""By the name under `weightmark keys`."""


def _request(options: Options, sign_with: list[str] | None, draft: Path | None) -> ChangeRequest:
    from cli.key_change import ChangeRequest

    return ChangeRequest(options.home, tuple(sign_with or ()), draft, options.pin())


def _answer(change: KeyChange) -> Answer:
    from cli.report_keys import json_of_change, text_of_change

    head, *body = text_of_change(change)
    return Answer(json_of_change(change), head, tuple(body))
