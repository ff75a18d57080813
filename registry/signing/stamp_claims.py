"""Time stamps beside a release: on signatures inside their bundles, and on the log's checkpoint in a claim of its own.

A stamp on a bundle is over the bytes of its signature, as Sigstore has it, and changes no PAE. The checkpoint of
`release.tlog-proof` is stamped over its text, which binds by hashes every entry below it and so the mark that was
committed; the stamps stand in a further line of `claims.jsonl`, which the log entry does not list, since it is made
afterwards. Carries stamps; whether they hold is `timestamps`' to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from registry.log.checkpoint import parse_checkpoint
from registry.log.note import parse_note
from registry.signing.bundle import read_bundle, write_bundle
from registry.signing.claims import make_claim
from registry.signing.encoding import from_base64, to_base64
from registry.signing.signer import Signer
from registry.signing.statement import Statement
from registry.signing.strict_json import as_object, member
from registry.signing.timestamps import MAX_STAMPS
from watermark.errors import DocumentError

STAMP_PREDICATE = "https://weightmark.dev/predicate/stamp/v1"
_WHAT = "a stamp claim"


def signature_of(bundle: bytes) -> bytes:
    """The bytes that a stamp on this bundle is over: its decoded signature."""
    return read_bundle(bundle).envelope.signatures[0].sig


def with_stamps(bundle: bytes, stamps: Sequence[bytes]) -> bytes:
    """The bundle with these stamps after the ones it has; what was signed stays the same."""
    read = read_bundle(bundle)
    return write_bundle(replace(read, stamps=(*read.stamps, *stamps)))


def stamped_text(checkpoint: bytes) -> bytes:
    """The bytes that a stamp on a checkpoint is over: its text without signatures, so that witnesses may still sign."""
    return parse_note(checkpoint).text.encode("utf-8")


def make_stamp_claim(name: str, root: bytes, checkpoint: bytes, stamps: Sequence[bytes], key: Signer) -> bytes:
    """A line for `claims.jsonl` that carries stamps on the text of a checkpoint (a signed note) about one model."""
    text = stamped_text(checkpoint)
    read = parse_checkpoint(text.decode("utf-8"))
    predicate = {
        "checkpoint": {"origin": read.origin, "size": read.size, "sha256": hashlib.sha256(text).hexdigest()},
        "stamps": [to_base64(stamp) for stamp in stamps],
    }
    return make_claim(Statement(name, root, STAMP_PREDICATE, predicate), key)


def checkpoint_stamps(statements: Iterable[Statement], checkpoint: bytes) -> tuple[bytes, ...]:
    """The stamps that the stamp claims among `statements` bring for this checkpoint; claims on others are left out.

    Raises DocumentError for a stamp claim that is not in its form.
    """
    wanted = hashlib.sha256(stamped_text(checkpoint)).hexdigest()
    found: list[bytes] = []
    for statement in statements:
        if statement.predicate_type != STAMP_PREDICATE:
            continue
        fields = as_object(dict(statement.predicate), _WHAT, allowed=("checkpoint", "stamps"))
        about = as_object(member(fields, "checkpoint", dict, _WHAT), _WHAT, allowed=("origin", "size", "sha256"))
        listed = member(fields, "stamps", list, _WHAT)
        if member(about, "sha256", str, _WHAT) != wanted:
            continue
        if not all(isinstance(one, str) for one in listed):
            raise DocumentError(f"{_WHAT} holds a stamp that is no text")
        found += [from_base64(one, what=_WHAT) for one in listed]
    if len(found) > MAX_STAMPS:
        raise DocumentError(f"{len(found)} stamps on one checkpoint; at most {MAX_STAMPS} are read")
    return tuple(found)
