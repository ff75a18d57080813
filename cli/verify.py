"""The job of `weightmark verify`: is this exactly what its owner released? Works offline and needs no secret.

With a public key or root certificates it verifies any OMS signature, whoever made it. With a trust file it verifies a
release: signature, claims and log proof together. Reads files and prints nothing; the judging is done in
`registry.signing`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.also_sign import FurtherSignature, further_signatures, verify_also_signed
from cli.keyless import KeylessFacts, SigstoreTrust, verify_signed_keyless
from cli.reading import USUAL, Reading
from cli.signing_time import SigningTime, time_of_release, time_of_signature
from cli.standing import USUAL_RULES, Standing, StandingRules, judge_standing
from registry.signing.comparison import SignedManifest, VerifiedModel, compare, default_signature_path
from registry.signing.keys import OMS_ALGORITHMS, read_public_key
from registry.signing.manifest import CLAIMS_NAME, PROOF_NAME
from registry.signing.oms import verify_signature
from registry.signing.small_files import read_small_file
from registry.signing.strict_json import MAX_BUNDLE_BYTES, MIB
from registry.signing.timestamps import StampAuthority, VerifiedStamp, read_authorities
from watermark.errors import InclusionError, InputError

if TYPE_CHECKING:
    from cli.lineage import Lineage
    from registry.signing.release import VerifiedRelease


@dataclass(frozen=True)
class VerifyRequest:
    """What to verify, and against whom: exactly one of `trust`, `public_key`, `roots` and `sigstore`.

    `signature` defaults to `model.sig` in the folder (`NAME.sig` beside a file). `ignore` are root-relative paths.
    `also_public_keys` must have countersigned a plain signature. `lineage` is the home whose registry parents are
    looked up in, None to look at none.
    """

    model: Path
    trust: Path | None = None
    signature: Path | None = None
    public_key: Path | None = None
    roots: tuple[Path, ...] = ()
    ignore: tuple[str, ...] = ()
    ignore_unsigned_files: bool = False
    allow_legacy: bool = False
    tsa_roots: tuple[Path, ...] = ()
    progress: Callable[[int], None] | None = None
    reading: Reading = USUAL
    sigstore: SigstoreTrust | None = None
    also_public_keys: tuple[Path, ...] = ()
    lineage: Path | None = None
    rules: StandingRules = USUAL_RULES


@dataclass(frozen=True)
class VerifyResult:
    """A model that was verified; there is no result for one that was not: that is an error.

    `key` and `root` are hex SHA-256. `owner` to `signed_at` come from the log entry and are None for a plain signature;
    `signed_at` is only as good as its `time_source`.
    """

    verified: bool
    signed_by: str
    key: str
    root: str
    files: int
    owner: str | None = None
    release: str | None = None
    copy: str | None = None
    index: int | None = None
    origin: str | None = None
    signed_at: str | None = None
    time_source: str | None = None
    order: str | None = None
    stamps: tuple[tuple[str, VerifiedStamp], ...] = ()
    stamp_notes: tuple[str, ...] = ()
    keyless: KeylessFacts | None = None
    standing: Standing | None = None
    countersignatures: tuple[FurtherSignature, ...] = ()
    unknown_countersignatures: int = 0
    lineage: Lineage | None = None


def verify(request: VerifyRequest) -> VerifyResult:
    """Verify a model against a key, root certificates or a trust file; raise when anything does not hold."""
    ways = [request.trust is not None, request.public_key is not None, bool(request.roots)]
    ways.append(request.sigstore is not None)
    if sum(ways) != 1:
        raise InputError(
            "there is nothing to verify against" if not any(ways) else "only one kind of trust can be used at a time",
            hint="pass one of --trust FILE, --public-key PEM, --root PEM and --sigstore-trusted-root FILE",
        )
    signature_path = request.signature or default_signature_path(request.model)
    bundle = read_small_file(signature_path, what="the model signature", max_bytes=MAX_BUNDLE_BYTES)
    if request.trust is not None:
        return _verify_release(request, request.trust, bundle)
    if request.sigstore is not None:
        signed, facts, time = verify_signed_keyless(bundle, request.sigstore)
        return replace(_result(_compare(request, signed), None, time), keyless=facts)
    authorities = _authorities(request)
    if request.public_key is not None:
        key = read_public_key(request.public_key)
        signed = verify_signature(bundle, key=key, authorities=authorities, allow_legacy=request.allow_legacy)
    else:
        from registry.signing.certificates import read_certificates  # X.509 costs start-up time: only when used

        roots = [certificate for path in request.roots for certificate in read_certificates(path)]
        signed = verify_signature(bundle, roots=roots, authorities=authorities, allow_legacy=request.allow_legacy)
    also = verify_also_signed(signature_path, signed, request.also_public_keys) if request.also_public_keys else ()
    model = _compare(request, signed)
    result = replace(_result(model, None, time_of_signature(signed)), countersignatures=also)
    return _with_lineage(request, model, result)


def _with_lineage(request: VerifyRequest, model: VerifiedModel, result: VerifyResult) -> VerifyResult:
    """Follow the parents too, when that was asked for."""
    if request.lineage is None:
        return result
    from cli.lineage import follow_lineage  # brings the database: only when asked for

    return replace(result, lineage=follow_lineage(request.model, model, request.lineage))


def _verify_release(request: VerifyRequest, trust_file: Path, bundle: bytes) -> VerifyResult:
    from registry.signing.release import verify_release
    from registry.signing.trust import read_trust

    trust = read_trust(trust_file)
    trust = replace(trust, authorities=(*trust.authorities, *_authorities(request)))
    keys = [key for key in trust.keys if key.algorithm in OMS_ALGORITHMS]  # others countersign, and sign no model
    signed = verify_signature(bundle, key=keys, authorities=trust.authorities)
    proof_path, claims_path = request.model / PROOF_NAME, request.model / CLAIMS_NAME
    if not os.path.lexists(proof_path):
        raise InclusionError(
            f"{request.model} has a good signature, but no {PROOF_NAME}: nothing shows that it was released",
            hint="fetch the whole release, or verify the signature alone with --public-key",
        )
    proof = read_small_file(proof_path, what="the log proof", max_bytes=2 * MIB)
    claims = b""
    if os.path.lexists(claims_path):
        claims = read_small_file(claims_path, what="the claims", max_bytes=MAX_BUNDLE_BYTES)
    release = verify_release(signed, claims, proof, trust)
    standing = judge_standing(release, trust, request.rules)
    time = time_of_release(signed, release, claims, proof, trust)
    model = _compare(request, signed)
    result = replace(
        _result(model, release, time),
        standing=standing,
        countersignatures=further_signatures(release.countersignatures, trust),
        unknown_countersignatures=release.unknown_countersignatures,
    )
    return _with_lineage(request, model, result)


def _authorities(request: VerifyRequest) -> tuple[StampAuthority, ...]:
    return tuple(found for path in request.tsa_roots for found in read_authorities(path))


def _compare(request: VerifyRequest, signed: SignedManifest) -> VerifiedModel:
    with request.reading.open_cache() as cache:
        return compare(
            request.model,
            signed,
            ignore=request.ignore,
            ignore_unsigned_files=request.ignore_unsigned_files,
            signature_path=request.signature,
            links_below=request.reading.links_below,
            cache=cache,
            progress=request.progress,
        )


def _result(model: VerifiedModel, release: VerifiedRelease | None, time: SigningTime) -> VerifyResult:
    body = dict(release.entry.body) if release else {}
    return VerifyResult(
        verified=True,
        signed_by=model.signed_by,
        key=model.key_id,
        root=model.root.hex(),
        files=len(model.resources),
        owner=release.owner if release else None,
        release=_text(body.get("release")),
        copy=_text(body.get("copy")),
        index=release.index if release else None,
        origin=release.origin if release else None,
        signed_at=time.at,
        time_source=time.source,
        order=time.order,
        stamps=time.stamps,
        stamp_notes=time.notes,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
