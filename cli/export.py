"""The job of `weightmark export`: an entry of the log in the forms that other people's software reads.

    tlog-proof   the C2SP proof file, as it lies beside a release (any entry)
    cose         a COSE receipt, RFC 9942, signed anew with the log's key (any entry)
    rekor        what a Rekor v2 log would store about the signatures of a released copy: one line each

Opens the registry for reading only; the log's key is asked for where a receipt is signed. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cli.home import Home
from cli.show import find_copies
from registry.log.checkpoint import read_checkpoint
from registry.log.note import read_vkey
from registry.log.proof import read_proof
from registry.signing import dsse
from registry.signing.bundle import Bundle, KeyMaterial, read_bundle
from registry.signing.claims import read_claims
from registry.signing.keys import OMS_ALGORITHMS, PublicKey, public_key_from_raw
from registry.signing.small_files import replace_file
from watermark.errors import InputError, LogHaltedError

if TYPE_CHECKING:
    from registry.store.embedded import EmbeddedRegistry
    from registry.store.records import CopyRecord

COSE, TLOG_PROOF, REKOR = "cose", "tlog-proof", "rekor"
_MAX_INDEX_DIGITS = 10  # ids are hex: a longer row of digits is the beginning of one


@dataclass(frozen=True)
class ExportRequest:
    """What to export: a log index, or the beginning of a copy's id; `out` is where it goes, None for the caller."""

    home: Path
    what: str
    form: str
    out: Path | None = None
    pin: Callable[[str], bytes] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Exported:
    """The bytes in the form asked for, about the entry at `index` of the log `origin`.

    `parts` names what each line of the `rekor` form is about, `left_out` the signatures that Rekor takes none of: by
    keys that are not ECDSA, or by certificates. Both are empty for the other forms.
    """

    form: str
    origin: str
    index: int
    data: bytes
    parts: tuple[str, ...]
    left_out: tuple[str, ...]
    written_to: Path | None


def export(request: ExportRequest, passphrase: Callable[[], bytes]) -> Exported:
    """Export an entry; InputError when there is none, or it has nothing to say in that form."""
    home = Home.open(request.home)
    parts: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    with home.registry() as registry:
        index, copy = _find(registry, request.what)
        if request.form == TLOG_PROOF:
            data = registry.prove(index)
        elif request.form == COSE:
            data = _receipt(registry, index, home, request, passphrase)
        elif request.form == REKOR:
            data, parts, left_out = _rekor_bodies(copy, index, home)
        else:
            raise InputError(f"{request.form!a} is no form to export", hint="cose, tlog-proof and rekor are")
        origin = registry.origin
    if request.out is not None:
        if request.out.absolute().resolve().is_relative_to(home.path.absolute().resolve()):
            raise InputError(f"{request.out} lies in your home", hint="export to where you send it from")
        replace_file(request.out, data)
    return Exported(request.form, origin, index, data, parts, left_out, request.out)


def _find(registry: EmbeddedRegistry, what: str) -> tuple[int, CopyRecord | None]:
    """The index that is meant, and the copy that was released there, if one was."""
    if what.isdecimal() and what.isascii() and len(what) <= _MAX_INDEX_DIGITS:
        index = int(what)
        if index >= registry.size:
            raise InputError(f"entry {index} is not in a log of {registry.size}", hint="see `weightmark list`")
        copies = (copy for one in registry.records.list_releases() for copy in registry.records.copies(one.release_id))
        return index, next((copy for copy in copies if copy.log_index == index), None)
    release, found = find_copies(registry.records, what)
    if len(found) != 1:
        raise InputError(
            f"{what!a} means a release of {len(found)} copies, each with an entry of its own",
            hint=f"give a copy's id or a log index: see `weightmark show {release.release_id[:12]}`",
        )
    return found[0].log_index, found[0]


def _receipt(
    registry: EmbeddedRegistry, index: int, home: Home, request: ExportRequest, passphrase: Callable[[], bytes]
) -> bytes:
    """Sign a receipt for the published root, and verify it as its reader will."""
    from registry.log.cose import make_cose_receipt, verify_cose_receipt  # CBOR costs start-up time: only when used

    proof = read_proof(registry.prove(index))
    checkpoint = read_checkpoint(proof.checkpoint, [registry.vkey])
    if proof.extra is None:
        raise LogHaltedError(f"registry database: entry {index} is missing")
    key = home.log_key(home.passphrase(passphrase), request.pin)
    receipt = make_cose_receipt(index, checkpoint.size, proof.extra, proof.hashes, key)
    log_key = public_key_from_raw(read_vkey(registry.vkey).public)
    verify_cose_receipt(receipt, proof.extra, log_key, checkpoint=checkpoint)
    return receipt


def _rekor_bodies(copy: CopyRecord | None, index: int, home: Home) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """A line for each signature that Rekor v2 takes; the names of those, and of the others."""
    from registry.sigstore.rekor_body import Verifier, hashedrekord_v002

    if copy is None:
        raise InputError(
            f"entry {index} is about no released copy: there is no signature that a public log would take",
            hint="name the entry or the id of a copy: see `weightmark list`",
        )
    bundles = [("model.sig", read_bundle(copy.model_sig))]
    bundles += [(f"claims.jsonl:{claim.number}", claim.bundle) for claim in read_claims(copy.claims)]
    keys = dict.fromkeys((home.public_key, *home.trust().owners.get(home.owner, ())))
    lines, named, left_out = b"", [], []
    for name, bundle in bundles:
        signer = _signer_of(bundle, tuple(keys))
        if signer is None:
            left_out.append(name)
        else:
            lines += hashedrekord_v002(bundle.envelope, Verifier(signer)) + b"\n"
            named.append(name)
    return lines, tuple(named), tuple(left_out)


def _signer_of(bundle: Bundle, keys: Sequence[PublicKey]) -> PublicKey | None:
    """The owner's key that made this signature, if Rekor takes keys of its kind (those of OMS: ECDSA)."""
    if not isinstance(bundle.material, KeyMaterial):
        return None
    for key in keys:
        if key.algorithm in OMS_ALGORITHMS and bundle.material.names(key):
            return dsse.verify(bundle.envelope, [key]).key
    return None
