"""Sign a model's folder and verify such signatures: OpenSSF Model Signing (OMS) v1.0.

Bundle over envelope over statement over file digests. `verify_signature` is pure trust logic; `verify_model` adds the
reading of the disk (see `comparison`), in the order that OMS lists. Knows nothing of marks, logs or claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry.signing import dsse
from registry.signing.bundle import (
    Bundle,
    CertificateMaterial,
    KeylessMaterial,
    KeyMaterial,
    Material,
    read_bundle,
    write_bundle,
)
from registry.signing.comparison import SignedManifest, VerifiedModel, compare, default_signature_path, inside
from registry.signing.digest_cache import DigestCache
from registry.signing.files import ModelFile, ModelTree
from registry.signing.hashing import Progress, hash_spans, whole_files
from registry.signing.keys import OMS_ALGORITHMS, PublicKey
from registry.signing.legacy import is_legacy_signature, parse_legacy_payload
from registry.signing.manifest import (
    DEFAULT_IGNORED,
    Manifest,
    build_manifest,
    check_ignore,
    parse_payload,
    to_payload,
)
from registry.signing.refusals import OLD_FORM, PAYLOAD_TYPE, UNKNOWN_KEY, WRONG_KIND
from registry.signing.signer import Signer
from registry.signing.stated_digests import StatedDigest, choose_stated
from registry.signing.timestamps import StampAuthority, judge_stamps
from watermark.errors import InputError, SignatureError, WeightmarkError

if TYPE_CHECKING:
    from cryptography import x509


@dataclass(frozen=True)
class SignedModel:
    """A new signature: the bundle's bytes, the root digest, SHA-256 of the signed PAE, and what was signed."""

    bundle: bytes
    root: bytes
    pae_sha256: bytes
    manifest: Manifest


def sign_model(
    path: Path,
    key: Signer,
    *,
    ignore: Sequence[str] = (),
    signature_path: Path | None = None,
    certificates: Sequence[x509.Certificate] = (),
    progress: Progress | None = None,
    digests: Mapping[str, bytes] | None = None,
    stated: Mapping[str, StatedDigest] | None = None,
    links_below: Path | None = None,
    cache: DigestCache | None = None,
    name: str | None = None,
) -> SignedModel:
    """Sign every file below `path` (or the one file) with ECDSA; nothing is written.

    `name` is the subject's name, information only; by default that of the folder or file.

    `signature_path` is where the caller will put the bundle (default `default_signature_path`): inside the model it
    is left out and recorded as ignored. `certificates` (signer first) replace the key hint. `digests` are SHA-256 by
    path that the caller took while writing the files; the others are read. `stated` are digests that somebody else
    took: their files are not read either, and the statement says so of each. With `links_below` links to files below
    that folder count as those files, and the statement says that links were followed. `cache` spares files that did
    not change since they were hashed. Raises InputError for unusable keys, certificates, ignores or an empty model,
    PathEscapeError for links and the like.
    """
    _refuse_outside_oms(key.public)
    if certificates:
        from registry.signing.certificates import check_signing_chain  # X.509 costs start-up time: only when used

        material: Material = CertificateMaterial(check_signing_chain(certificates, key.public))
    else:
        material = KeyMaterial(key.public.key_id)
    with ModelTree(path, links_below=links_below) as tree:
        ignored = [check_ignore(one) for one in ignore]
        ignored += inside(signature_path or default_signature_path(path), tree)
        files = tree.enumerate({*DEFAULT_IGNORED, *ignored})
        trusted = choose_stated(stated or {}, files, {*DEFAULT_IGNORED, *ignored}, tree)
        known = {**{path: one.sha256 for path, one in trusted.items()}, **(digests or {})}
        manifest = build_manifest(
            name or tree.name,
            _all_digests(tree, files, known, progress, cache),
            ignored,
            stated_by={path: one.source for path, one in trusted.items()},
            allow_symlinks=any(file.linked for file in files),
        )
    envelope = dsse.sign(to_payload(manifest), dsse.IN_TOTO_PAYLOAD_TYPE, key)
    return SignedModel(write_bundle(Bundle(envelope, material)), manifest.root, envelope.pae_sha256, manifest)


def verify_model(
    path: Path,
    bundle: bytes,
    *,
    key: PublicKey | Sequence[PublicKey] | None = None,
    roots: Sequence[x509.Certificate] | None = None,
    ignore: Sequence[str] = (),
    ignore_unsigned_files: bool = False,
    signature_path: Path | None = None,
    at: datetime | None = None,
    authorities: Sequence[StampAuthority] = (),
    allow_legacy: bool = False,
    links_below: Path | None = None,
    cache: DigestCache | None = None,
    progress: Progress | None = None,
) -> VerifiedModel:
    """Verify that the model at `path` is exactly what the holder of `key`, or a signer under `roots`, signed.

    Give either keys or roots: the signature must be of that kind. `signature_path` (default `default_signature_path`)
    is left out of the comparison. `at` is the time that certificates must be valid at (default: now); where one of
    `authorities` stamped the signature, the earliest such time counts instead. Raises DocumentError, SignatureError,
    UntrustedKeyError, ExpiredKeyError or DigestError; never returns an unverified model.
    """
    signed = verify_signature(bundle, key=key, roots=roots, at=at, authorities=authorities, allow_legacy=allow_legacy)
    return compare(
        path,
        signed,
        ignore=ignore,
        ignore_unsigned_files=ignore_unsigned_files,
        signature_path=signature_path,
        links_below=links_below,
        cache=cache,
        progress=progress,
    )


def verify_signature(
    bundle: bytes,
    *,
    key: PublicKey | Sequence[PublicKey] | None = None,
    roots: Sequence[x509.Certificate] | None = None,
    at: datetime | None = None,
    authorities: Sequence[StampAuthority] = (),
    allow_legacy: bool = False,
) -> SignedManifest:
    """Verify the signature of a bundle and read what it signs, without looking at any file.

    The checks and their order are those of `refusals.ORDER`: the payload is parsed only once its signature holds, and
    from the very bytes that were verified. Time stamps of `authorities` must hold; those of others are passed over with
    a note.
    """
    if (key is None) == (roots is None):
        raise InputError("give either a public key or root certificates to verify with")
    read = read_bundle(bundle, what="the model signature")
    if read.envelope.payload_type != dsse.IN_TOTO_PAYLOAD_TYPE:
        raise PAYLOAD_TYPE(f"the model signature has the payload type {read.envelope.payload_type!r}")
    stamps = judge_stamps(read.stamps, read.envelope.signatures[0].sig, authorities, what="the model signature")
    if key is not None:
        keys = [key] if isinstance(key, PublicKey) else list(key)
        candidates = _keys_for(read.material, keys)
        names = {candidate.key_id: f"key {candidate.key_id}" for candidate in candidates}
    else:
        if not isinstance(read.material, CertificateMaterial):
            raise _wrong_kind(read.material, "a certificate")
        from registry.signing.certificates import verify_chain  # X.509 costs start-up time: only when used

        when = stamps.verified[0].time if stamps.verified else at or datetime.now(UTC)
        signer = verify_chain(read.material.chain, roots or (), when)
        candidates, names = [signer.key], {signer.key.key_id: signer.name}
    for candidate in candidates:
        _refuse_outside_oms(candidate)
    manifest, signed_with = _open_envelope(read.envelope, candidates, allow_legacy)
    return SignedManifest(manifest, read.envelope.pae_sha256, signed_with, names[signed_with.key_id], stamps)


def _refuse_outside_oms(key: PublicKey) -> None:
    if key.algorithm not in OMS_ALGORITHMS:
        raise InputError(
            f"OMS v1.0 has no {key.algorithm_name} keys: other verifiers would refuse the signature",
            hint="use a key on P-256, P-384 or P-521; add the other one as a second signature with --also-sign",
        )


def _keys_for(material: Material, keys: Sequence[PublicKey]) -> list[PublicKey]:
    if not isinstance(material, KeyMaterial):
        raise _wrong_kind(material, "a key")
    named = [key for key in keys if material.names(key)]
    if not named:
        raise UNKNOWN_KEY(f"the model was signed by key {material.hint!a}, which is not the one you trust")
    return named


def _wrong_kind(material: Material, wanted: str) -> WeightmarkError:
    if isinstance(material, KeylessMaterial):
        return WRONG_KIND(
            f"the model was signed keyless through Sigstore, not by {wanted}",
            hint="verify it with --sigstore-trusted-root, --identity and --issuer",
        )
    made, flag = ("a key", "--public-key") if isinstance(material, KeyMaterial) else ("a certificate", "--root")
    return WRONG_KIND(f"the model was signed by {made}, not by {wanted}", hint=f"verify it with {flag}")


def _open_envelope(
    envelope: dsse.Envelope, keys: Sequence[PublicKey], allow_legacy: bool
) -> tuple[Manifest, PublicKey]:
    try:
        verified = dsse.verify(envelope, keys)
    except SignatureError as error:
        for key in keys:
            if is_legacy_signature(envelope, key):
                if allow_legacy:
                    return parse_legacy_payload(envelope.payload), key
                raise OLD_FORM(
                    "the model was signed by model-signing 0.2, in a faulty form older than OMS v1.0"
                ) from error
        raise
    return parse_payload(verified.payload), verified.key


def _all_digests(
    tree: ModelTree,
    files: Sequence[ModelFile],
    known: Mapping[str, bytes],
    progress: Progress | None,
    cache: DigestCache | None,
) -> dict[str, bytes]:
    strangers = sorted(set(known) - {file.name for file in files})
    if strangers:
        raise InputError(f"a digest was given for {strangers[0]!a}, which is no file of the model")
    unread = [file for file in files if file.name not in known]
    return {**known, **hash_spans(tree, whole_files(unread), progress=progress, cache=cache)}
