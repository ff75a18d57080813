"""Follow a model's declared parents through the registry of a home, and verify each parent's release on the way.

The parents stand in `provenance.slsa.json`, which the model signature covers: so the chain says what its owner
declared, and for every parent that the registry holds, that it was released and logged. Whether weights truly derive
from a parent is another question, which `check` answers. Prints nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from cli.documents import KeptDocuments
from cli.home import Home
from registry.documents.materials import BASE, TENSORS_DIGEST, Material
from registry.documents.provenance import MAX_PROVENANCE_BYTES, PROVENANCE_NAME, read_materials
from registry.signing.comparison import VerifiedModel
from registry.signing.keys import OMS_ALGORITHMS
from registry.signing.manifest import Resource
from registry.signing.oms import verify_signature
from registry.signing.release import verify_release
from registry.signing.small_files import read_small_file
from registry.signing.trust import TrustPolicy
from registry.store.records import CopyRecord, OwnerRecords, ReleaseRecord
from watermark.errors import DigestError
from watermark.model.digest import canonical_digest

MAX_DEPTH = 32
VERIFIED, DECLARED = "verified", "declared"

_NO_PROVENANCE = "the release carries no provenance"
_NO_PARENT = "no parent declared"
_NOT_KEPT = "its provenance is not kept in this home"
_UNKNOWN = "declared, not in this registry"
_AGAIN = "stands in this chain already"
_TOO_DEEP = f"the chain is followed {MAX_DEPTH} steps, no further"


@dataclass(frozen=True)
class Ancestor:
    """A declared parent, `depth` steps up. `status` is `verified` when its release was found and verified, with its
    owner, log index and time by the owner's clock; `ends` says why the chain goes no further here, else None.
    """

    depth: int
    name: str
    version: str | None
    relation: str | None
    release: str | None
    status: str
    declared_by: str
    owner: str | None = None
    index: int | None = None
    signed_at: str | None = None
    ends: str | None = None


@dataclass(frozen=True)
class Lineage:
    """All ancestors, each before its own parents; `ends` says why there are none."""

    ancestors: tuple[Ancestor, ...]
    ends: str | None = None


def follow_lineage(folder: Path, model: VerifiedModel, home_folder: Path) -> Lineage:
    """Follow the parents of a verified model through the registry of a home.

    Raises whatever verification raises for a parent whose release is in the registry and does not hold: a chain with a
    broken link is no chain.
    """
    home = Home.open(home_folder)
    provenance = _provenance_beside(folder, model)
    if provenance is None:
        return Lineage((), _NO_PROVENANCE)
    bases = _bases(provenance)
    if not bases:
        return Lineage((), _NO_PARENT)
    with home.registry() as registry:
        walk = _Walk(home, home.trust(), registry.records)
        walk.climb(bases, 1, frozenset())
    return Lineage(tuple(walk.found))


class _Walk:
    """One climb: what it looks things up in, and what it has found."""

    def __init__(self, home: Home, trust: TrustPolicy, records: OwnerRecords) -> None:
        self._kept, self._trust, self._records = KeptDocuments(home.path), trust, records
        self.found: list[Ancestor] = []

    def climb(self, bases: list[Material], depth: int, below: frozenset[str]) -> None:
        """Add these parents and, behind each, its own."""
        for base in bases:
            known = self._look_up(base)
            if known is None:
                self.found.append(_declared(base, depth, _UNKNOWN))
                continue
            release, copy = known
            if release.release_id in below:
                self.found.append(_declared(base, depth, _AGAIN))
                continue
            ancestor, parents = self._verify(base, release, copy, depth)
            self.found.append(ancestor)
            if parents:
                self.climb(parents, depth + 1, below | {release.release_id})

    def _look_up(self, base: Material) -> tuple[ReleaseRecord, CopyRecord] | None:
        """The release and copy that a declaration means: by release id, by root digest, or by the tensors."""
        for release in self._records.list_releases():
            copies = self._records.copies(release.release_id)
            named = base.release == release.release_id or base.digests.get(TENSORS_DIGEST) == release.reference_digest
            exact = [copy for copy in copies if _is_copy(base, copy)]
            if copies and (named or exact):
                return release, (exact or copies)[0]
        return None

    def _verify(
        self, base: Material, release: ReleaseRecord, copy: CopyRecord, depth: int
    ) -> tuple[Ancestor, list[Material]]:
        """Verify a parent's release, and read its own parents out of the provenance that it was signed with."""
        trust = self._trust
        keys = [key for key in trust.keys if key.algorithm in OMS_ALGORITHMS]
        signed = verify_signature(copy.model_sig, key=keys, authorities=trust.authorities)
        verified = verify_release(signed, copy.claims, copy.proof, trust)
        parents, ends = self._parents(signed.manifest.resources, copy.copy_id)
        if parents and depth >= MAX_DEPTH:
            parents, ends = [], _TOO_DEEP
        signed_at = verified.entry.body.get("signed_at")
        ancestor = Ancestor(
            depth,
            release.name,
            release.version,
            base.relation,
            release.release_id,
            VERIFIED,
            base.declared_by,
            verified.owner,
            verified.index,
            signed_at if isinstance(signed_at, str) else None,
            ends,
        )
        return ancestor, parents

    def _parents(self, resources: tuple[Resource, ...], copy_id: str) -> tuple[list[Material], str | None]:
        digest = next((one.digest for one in resources if one.name == PROVENANCE_NAME), None)
        if digest is None:
            return [], _NO_PROVENANCE
        data = self._kept.find(copy_id).get(PROVENANCE_NAME)
        if data is None or hashlib.sha256(data).digest() != digest:
            return [], _NOT_KEPT
        parents = _bases(data)
        return parents, None if parents else _NO_PARENT


def _provenance_beside(folder: Path, model: VerifiedModel) -> bytes | None:
    """The provenance in a verified folder: exactly the bytes that were signed, whatever happened since."""
    digest = next((one.digest for one in model.resources if one.name == PROVENANCE_NAME), None)
    if digest is None or not folder.is_dir():
        return None
    data = read_small_file(folder / PROVENANCE_NAME, what="the provenance", max_bytes=MAX_PROVENANCE_BYTES)
    if hashlib.sha256(data).digest() != digest:
        raise DigestError(f"{PROVENANCE_NAME} changed while it was read")
    return data


def _bases(provenance: bytes) -> list[Material]:
    return [one for one in read_materials(provenance) if one.role == BASE]


def _is_copy(base: Material, copy: CopyRecord) -> bool:
    if base.digests.get("sha256") == copy.root_digest:
        return True
    tensors = base.digests.get(TENSORS_DIGEST)
    return (
        tensors is not None and tensors == canonical_digest(map(bytes.fromhex, json.loads(copy.tensor_digests))).hex()
    )


def _declared(base: Material, depth: int, ends: str) -> Ancestor:
    return Ancestor(depth, base.name, base.version, base.relation, base.release, DECLARED, base.declared_by, ends=ends)
