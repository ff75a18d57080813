"""The job of `weightmark keys cosign`: further keys of an owner sign a release, so that no one key is enough.

The whole release is verified first, as any reader would, but for the number of signatures; what was not verified is not
signed. The signatures become lines of `claims.jsonl`, which no other signature covers. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.home import TRUST, Home
from cli.home_keys import home_keys, unlock
from cli.standing import StandingRules
from cli.verify import VerifyRequest, VerifyResult, verify
from registry.keystores.interface import PinSource, open_signer
from registry.signing.claims import read_claims, write_claims
from registry.signing.comparison import default_signature_path
from registry.signing.countersignature import make_countersignature
from registry.signing.keys import OMS_ALGORITHMS
from registry.signing.manifest import CLAIMS_NAME
from registry.signing.oms import verify_signature
from registry.signing.signer import Signer
from registry.signing.small_files import read_small_file, replace_file
from registry.signing.strict_json import MAX_BUNDLE_BYTES
from registry.signing.trust import TrustPolicy, read_trust
from watermark.errors import InputError, UntrustedKeyError

#: Whoever is about to sign cannot be asked for all the signatures.
_BEFORE_COSIGNING = StandingRules(countersigned=False)


@dataclass(frozen=True)
class CosignRequest:
    """Which release folder, with which keys (files or references; none: those of the home), trusting whom."""

    home: Path
    release: Path
    keys: tuple[str, ...] = ()
    trust: Path | None = None
    rules: StandingRules = _BEFORE_COSIGNING
    pin: PinSource | None = None
    progress: Callable[[int], None] | None = None


@dataclass(frozen=True)
class CosignResult:
    """Ids of the keys that were added, of all that stand behind the release now, and how many must."""

    owner: str
    release: str | None
    added: tuple[str, ...]
    signers: tuple[str, ...]
    threshold: int


def countersign(request: CosignRequest, passphrase: Callable[[], bytes]) -> CosignResult:
    """Verify a release and countersign it; a key that has signed it already adds nothing.

    Raises UntrustedKeyError for a key that is not one of the owner's, and whatever `verify` raises.
    """
    place = request.trust or Home.open(request.home).path / TRUST
    trust = read_trust(place)
    before = verify(_verification(request, place))
    assert before.standing is not None
    assert before.owner is not None
    signers = [one for one in _signers(request, passphrase, trust, before.owner) if _is_new(one, before)]
    if signers:
        _add_claims(request.release, before, trust, signers)
    after = verify(_verification(request, place)).standing
    assert after is not None
    return CosignResult(
        before.owner, before.release, tuple(one.public.key_id for one in signers), after.signers, after.threshold
    )


def _verification(request: CosignRequest, trust: Path) -> VerifyRequest:
    return VerifyRequest(model=request.release, trust=trust, rules=request.rules, progress=request.progress)


def _is_new(signer: Signer, before: VerifyResult) -> bool:
    assert before.standing is not None
    return signer.public.key_id not in before.standing.signers


def _signers(
    request: CosignRequest, passphrase: Callable[[], bytes], trust: TrustPolicy, owner: str
) -> Sequence[Signer]:
    """The keys that were named, or every key of the home that may sign; each must be one of the owner's in use."""
    if request.keys:
        found = [open_signer(one, passphrase=passphrase, pin=request.pin) for one in request.keys]
    else:
        home = Home.open(request.home)
        usable = [one for one in home_keys(home) if _in_use(one.public.key_id, trust, owner)]
        phrase = home.passphrase(passphrase) if usable else b""
        found = [unlock(home, one, phrase, request.pin) for one in usable]
    if not found:
        raise InputError("there is no key to sign with", hint="name one with --key FILE")
    for one in found:
        if not _in_use(one.public.key_id, trust, owner):
            raise UntrustedKeyError(
                f"key {one.public.key_id[:16]} is no key of {owner} that is in use",
                hint="let the owner enrol it with `weightmark keys enrol`, and take his new trust file",
            )
    return found


def _in_use(key_id: str, trust: TrustPolicy, owner: str) -> bool:
    spent = {**trust.revoked, **trust.retired}
    return key_id not in spent and any(key.key_id == key_id for key in trust.owners[owner])


def _add_claims(folder: Path, before: VerifyResult, trust: TrustPolicy, signers: Sequence[Signer]) -> None:
    bundle = read_small_file(default_signature_path(folder), what="the model signature", max_bytes=MAX_BUNDLE_BYTES)
    keys = [key for key in trust.owners[str(before.owner)] if key.algorithm in OMS_ALGORITHMS]
    signed = verify_signature(bundle, key=keys)
    path = folder / CLAIMS_NAME
    claims = read_small_file(path, what="the claims", max_bytes=MAX_BUNDLE_BYTES) if path.exists() else b""
    lines = [claim.line for claim in read_claims(claims)]
    name = signed.manifest.model_name or folder.resolve().name
    lines += [make_countersignature(name, signed.manifest.root, signed.pae_sha256, one) for one in signers]
    replace_file(path, write_claims(lines))
