"""The job of `weightmark keys leaked`: a new owner secret after the old one became known to others.

The new secret is drawn, sealed as the old one was, and its commitment logged with the index from which the old one
proves less. Old releases keep their commitments and their secret: it stays in the home, and `check` goes on finding its
marks. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from cli.home_keys import add_secret
from cli.key_change import ChangeRequest, KeyChange, OpenKeys, log_change, with_open_keys
from registry.keystores.wrapped_secret import wrap_secret
from registry.signing.entry import SECRET
from registry.signing.key_events import secret_body
from registry.signing.secret import seal_secret
from watermark.errors import InputError
from watermark.marks.secret import commit_to_secret, new_owner_secret


def replace_leaked_secret(
    request: ChangeRequest, passphrase: Callable[[], bytes], *, from_index: int | None = None
) -> KeyChange:
    """Mark new releases with a new secret; marks of the old one prove less from a log index on, by default from now."""
    if request.draft is not None:
        raise InputError("a new secret cannot wait as a draft: until it is logged, releases use the one that leaked")

    def make(opened: OpenKeys) -> KeyChange:
        home = opened.home
        start = opened.size if from_index is None else from_index
        if not 0 <= start <= opened.size:
            raise InputError(
                f"--from {start} is not an index of a log of {opened.size}", hint=f"name 0 to {opened.size}"
            )
        secret = new_owner_secret()
        commitment = commit_to_secret(secret)
        wrapping = home.wrapping_key()
        if wrapping is None:
            document = seal_secret(secret, opened.phrase)
        else:
            document = wrap_secret(secret, wrapping, home.owner, request.pin)
        add_secret(home, document, commitment.hex())
        body = secret_body(home.owner, opened.version, commitment, start)
        return log_change(opened, SECRET, body)

    return with_open_keys(request, passphrase, make)
