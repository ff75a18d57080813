"""Checkpoints: the log's signed statement of its size and root, as C2SP tlog-checkpoint v1.0.0 defines them.

A checkpoint is a signed note whose text is the origin, the size and the base64 root; the keys that sign it are named
like the origin: Ed25519 over the text and, where the log has one, ML-DSA-44 over the tree head (see `subtree`). Knows
no proofs and keeps no state: whether one checkpoint continues another is `merkle`'s to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from registry.log.decimal_text import read_decimal
from registry.log.merkle import HASH_BYTES
from registry.log.note import (
    ED25519_NOTE,
    ML_DSA_44_COSIGNATURE,
    Note,
    NoteSigner,
    NoteVerifier,
    RawSigner,
    check_name,
    parse_note,
    read_vkey,
    unambiguous,
    verify_note,
)
from registry.log.subtree import sign_subtree, verify_subtree
from registry.signing.encoding import from_base64, to_base64
from watermark.errors import DocumentError, UntrustedKeyError


@dataclass(frozen=True)
class Checkpoint:
    """What a log says of itself: origin, number of entries, root hash (32 bytes), and any further lines."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The note text that is signed: one line each, with a final newline."""
        return "".join(f"{line}\n" for line in (self.origin, self.size, to_base64(self.root), *self.extensions))


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a checkpoint strictly, or raise DocumentError; the signatures are not its affair."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() != "":
        raise DocumentError("checkpoint: fewer than the three lines origin, size and root")
    origin, size, root_text, *extensions = lines
    check_name(origin)
    root = from_base64(root_text, what=f"root of the checkpoint of {origin}")
    if len(root) != HASH_BYTES:
        raise DocumentError(f"checkpoint of {origin}: the root has {len(root)} bytes, not {HASH_BYTES}")
    if "" in extensions:
        raise DocumentError(f"checkpoint of {origin}: an empty extension line")
    return Checkpoint(origin, read_decimal(size, what=f"size of the checkpoint of {origin}"), root, tuple(extensions))


def sign_checkpoint(
    checkpoint: Checkpoint, signer: NoteSigner, *, second: RawSigner | None = None, time: int = 0
) -> bytes:
    """Sign a checkpoint into its note; the signer must be named like the origin (C2SP tlog-checkpoint).

    With `second`, an ML-DSA-44 key, its line follows, stating `time` (POSIX seconds). Readers that do not know the key
    pass it over. The caller answers for the one promise that matters: never sign two checkpoints that contradict each
    other.
    """
    if signer.name != checkpoint.origin:
        raise DocumentError(f"checkpoint of {checkpoint.origin}: cannot be signed under the name {signer.name}")
    lines = [signer.sign(checkpoint.text())]
    if second is not None:
        lines.append(sign_subtree(signer.name, second, time, checkpoint.origin, checkpoint.size, checkpoint.root))
    return Note(checkpoint.text(), tuple(lines)).encode()


def read_checkpoint(data: bytes, vkeys: Sequence[str]) -> Checkpoint:
    """Return the checkpoint in a note after its log's signature was verified with a trusted verifier key.

    Raises DocumentError for a note that is not exactly in its format, UntrustedKeyError when none of the keys is the
    log's, SignatureError when the log's line does not verify.
    """
    return verify_checkpoint(parse_note(data), tuple(read_vkey(vkey) for vkey in vkeys))


def verify_checkpoint(note: Note, verifiers: Sequence[NoteVerifier]) -> Checkpoint:
    """Verify a parsed note as a checkpoint: trusted log keys whose name equals the origin must have signed it.

    Who trusts an Ed25519 and an ML-DSA-44 key of one log asks for both signatures: were one enough, whoever breaks the
    weaker algorithm would leave the other line out.
    """
    checkpoint = parse_checkpoint(note.text)
    own = [key for key in verifiers if key.name == checkpoint.origin]
    plain = tuple(key for key in own if key.algorithm == ED25519_NOTE)
    subtree = tuple(key for key in own if key.algorithm == ML_DSA_44_COSIGNATURE)
    if not plain and not subtree:
        raise UntrustedKeyError(f"checkpoint of {checkpoint.origin}: no trusted key has this name")
    if plain:
        verify_note(note, plain)
    if subtree and not verify_second_lines(note, checkpoint, subtree):
        raise UntrustedKeyError(
            f"checkpoint of {checkpoint.origin}: not signed with the ML-DSA-44 key that is trusted for this log",
            hint="fetch the checkpoint or proof again from the log: its second signature was left out",
        )
    return checkpoint


def verify_second_lines(note: Note, checkpoint: Checkpoint, verifiers: Sequence[NoteVerifier]) -> int:
    """Verify the ML-DSA-44 lines of these keys in a checkpoint's note, and count them: a damaged one is no absent one.

    Raises SignatureError for a line of a known key that does not hold.
    """
    known = unambiguous(verifiers)
    found = [(line, known[line.name, line.key_id]) for line in note.signatures if (line.name, line.key_id) in known]
    for line, verifier in found:
        verify_subtree(line, verifier, checkpoint.origin, checkpoint.size, checkpoint.root)
    return len(found)
