"""How many of an owner's keys stand behind a release: m of n, so that no one key is enough.

The key that signed `model.sig` counts as one signer, each of the owner's keys that countersigned as one more. A claim
that the log entry does not list has no place in the log, so nothing shows when it was made: a key that is revoked, from
whatever index, does not countersign so, since a thief could have done it afterwards. What the entry lists was there at
its index, and is judged by it. A key that was retired before the release never counts.
Counts what was verified elsewhere; does no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.signing.keys import PublicKey
from watermark.errors import ThresholdError

if TYPE_CHECKING:
    from registry.signing.trust import TrustPolicy


@dataclass(frozen=True)
class Signers:
    """The distinct keys of an owner that signed a release, `model.sig` first, and why others did not count."""

    keys: tuple[PublicKey, ...]
    needed: int
    not_counted: tuple[str, ...] = ()


def count_signers(
    owner: str, key: PublicKey, countersigning: Iterable[tuple[PublicKey, bool]], index: int, trust: TrustPolicy
) -> Signers:
    """The owner's keys behind a release logged at `index`: that of the model signature, and those that joined it.

    Each countersigning key comes with whether the log entry lists its claim. The claims must be verified already; keys
    of other owners are left out.
    """
    found = {key.key_id: key}
    not_counted = []
    for one, is_listed in countersigning:
        if one not in trust.owners[owner]:
            continue
        why = _spent(one, index, trust, is_listed)
        if why is None:
            found.setdefault(one.key_id, one)
        else:
            not_counted.append(f"the countersignature by key {one.key_id[:16]} does not count: {why}")
    return Signers(tuple(found.values()), trust.threshold_of(owner, index), tuple(dict.fromkeys(not_counted)))


def demand_threshold(signers: Signers, owner: str) -> None:
    """Raise ThresholdError unless as many of the owner's keys signed as the trust file asks for."""
    if len(signers.keys) >= signers.needed:
        return
    why = f"; {'; '.join(signers.not_counted)}" if signers.not_counted else ""
    raise ThresholdError(
        f"{len(signers.keys)} of {owner}'s keys signed this release, and {signers.needed} must{why}",
        hint="get the claims.jsonl that the other keys signed; they do it with `weightmark keys cosign`",
    )


def _spent(key: PublicKey, index: int, trust: TrustPolicy, is_listed: bool) -> str | None:
    revoked = trust.revoked.get(key.key_id)
    if revoked is not None and not is_listed:
        return "the key is revoked, and nothing shows that it signed before"
    if revoked is not None and revoked <= index:
        return f"the key is not trusted from entry {revoked} on"
    retired = trust.retired.get(key.key_id)
    if retired is not None and retired <= index:
        return f"the key is out of use from entry {retired} on"
    return None
