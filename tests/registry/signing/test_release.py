from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.log.checkpoint import Checkpoint, sign_checkpoint
from registry.log.merkle import inclusion_proof, leaf_hash, root_of
from registry.log.note import NoteSigner
from registry.log.proof import TlogProof, write_proof
from registry.signing.claims import make_claim, read_claims, write_claims
from registry.signing.comparison import SignedManifest
from registry.signing.entry import make_entry
from registry.signing.keys import PrivateKey, generate
from registry.signing.oms import sign_model, verify_signature
from registry.signing.release import VerifiedRelease, verify_release
from registry.signing.statement import Statement
from registry.signing.trust import TrustPolicy, trust_of
from tests.registry.signing.models import KEY_ONE, TINY, write_tree
from watermark.errors import DigestError, InclusionError, UntrustedKeyError, VerificationError, WeightmarkError

LOG = NoteSigner("test.example/log", generate("ed25519"))
TRUST = trust_of({"acme": (KEY_ONE.public,)}, (LOG.verifier.vkey,))


@dataclass
class Folder:
    """A release in memory, and the log that holds it."""

    bundle: bytes
    signed: SignedManifest
    claims: bytes
    body: dict[str, object]

    def entry(self, key: PrivateKey = KEY_ONE, kind: str = "release", **changes: object) -> bytes:
        return make_entry(kind, {**self.body, **changes}, key)

    def verify(
        self, entry: bytes, trust: TrustPolicy = TRUST, signer: NoteSigner = LOG, **changes: object
    ) -> VerifiedRelease:
        return verify_release(self.signed, self.claims, prove(entry, signer, **changes), trust)  # type: ignore[arg-type]


def prove(entry: bytes, signer: NoteSigner = LOG, extra: bytes | None = None, index: int = 2) -> bytes:
    leaves = [leaf_hash(one) for one in (b"a", b"b", entry, b"c", b"d")]
    checkpoint = sign_checkpoint(Checkpoint(signer.name, 5, root_of(leaves)), signer)
    hashes = inclusion_proof(2, 5, lambda level, at: subtree(leaves, level, at))
    return write_proof(TlogProof(index, hashes, checkpoint, entry if extra is None else extra))


def subtree(leaves: list[bytes], level: int, at: int) -> bytes:
    return root_of(leaves[at << level : (at + 1) << level])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return release(tmp_path, TINY)


def release(where: Path, files: dict[str, bytes]) -> Folder:
    signed = sign_model(write_tree(where / "m", files), KEY_ONE, ignore=("claims.jsonl", "release.tlog-proof"))
    claims = write_claims(
        make_claim(Statement("m", signed.root, f"https://example.com/{n}", {}), KEY_ONE) for n in range(2)
    )
    body: dict[str, object] = {
        "release": "r1",
        "copy": "c1",
        "R": "00" * 32,
        "copy_commitment": "11" * 32,
        "owner": "acme",
        "model_sig": signed.pae_sha256.hex(),
        "claims": [claim.pae_sha256.hex() for claim in read_claims(claims)],
        "root": signed.root.hex(),
    }
    return Folder(signed.bundle, verify_signature(signed.bundle, key=KEY_ONE.public), claims, body)


def test_a_whole_release(folder: Folder) -> None:
    verified = folder.verify(folder.entry())
    assert (verified.owner, verified.index, verified.size, verified.origin) == ("acme", 2, 5, LOG.name)
    assert len(verified.claims) == 2


def test_claims_may_be_added_but_not_dropped(folder: Folder) -> None:
    entry = folder.entry()
    one, two = read_claims(folder.claims)
    later = make_claim(Statement("m", folder.signed.manifest.root, "https://example.com/later", {}), KEY_ONE)
    folder.claims = write_claims([two.line, later, one.line])
    assert len(folder.verify(entry).claims) == 3
    for lines in ([], [one.line], [two.line, later]):
        folder.claims = write_claims(lines)
        with pytest.raises(DigestError, match="missing"):
            folder.verify(entry)
    folder.claims = write_claims([one.line, two.line, make_claim(Statement("m", bytes(32), "x", {}), KEY_ONE)])
    with pytest.raises(DigestError, match="claim 3"):
        folder.verify(entry)
    stranger = make_claim(Statement("m", folder.signed.manifest.root, "x", {}), generate())
    folder.claims = write_claims([one.line, two.line, stranger])
    with pytest.raises(UntrustedKeyError, match="claim 3"):
        folder.verify(entry)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model_sig": "00" * 32}, DigestError),
        ({"root": "00" * 32}, DigestError),
        ({"claims": ["00" * 32]}, DigestError),
        ({"owner": "other"}, UntrustedKeyError),
        ({"kind": "case"}, InclusionError),
        ({"key": generate()}, UntrustedKeyError),
    ],
)
def test_entries_of_something_else(folder: Folder, changes: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        folder.verify(folder.entry(**changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["model_sig", "root", "owner", "claims"])
def test_entries_that_lack_or_spoil_a_field(folder: Folder, field: str) -> None:
    for value in (None, 3, ["x"], "x"):
        with pytest.raises(WeightmarkError):
            folder.verify(folder.entry(**{field: value}))
    del folder.body[field]
    with pytest.raises(WeightmarkError, match=field):
        folder.verify(folder.entry())


def test_log_must_be_trusted_and_hold_this_entry(folder: Folder) -> None:
    entry = folder.entry()
    with pytest.raises(VerificationError):
        folder.verify(entry, signer=NoteSigner("other.example/log", generate("ed25519")))
    with pytest.raises(VerificationError):
        folder.verify(entry, signer=NoteSigner(LOG.name, generate("ed25519")))
    with pytest.raises(InclusionError):
        folder.verify(b"something else", extra=entry)
    with pytest.raises(InclusionError):
        folder.verify(entry, index=1)
    with pytest.raises(UntrustedKeyError):
        folder.verify(entry, trust=trust_of({"acme": (generate().public,)}, (LOG.verifier.vkey,)))


def test_no_flipped_byte_of_proof_or_claims_passes(folder: Folder) -> None:
    """Except in what nobody vouches for: the hints and key ids of the claims."""
    proof = prove(folder.entry())
    good = verify_release(folder.signed, folder.claims, proof, TRUST)
    accepted = 0
    flipped = [(folder.claims, flip(proof, at)) for at in range(len(proof))]
    flipped += [(flip(folder.claims, at), proof) for at in range(len(folder.claims))]
    for claims, changed in flipped:
        try:
            assert verify_release(folder.signed, claims, changed, TRUST) == good
        except WeightmarkError:
            continue
        accepted += 1
    assert len(flipped) > 2500
    assert accepted < len(flipped) // 100


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_proofs_do_not_fit_other_releases(tmp_path: Path) -> None:
    """Every pair of 20 releases: a proof is good for its own model and for no other."""
    folders = [release(tmp_path / str(n), {"w": bytes([n])}) for n in range(20)]
    proofs = [prove(folder.entry()) for folder in folders]
    accepted = []
    for i, folder in enumerate(folders):
        for j, proof in enumerate(proofs):
            try:
                verify_release(folder.signed, folder.claims, proof, TRUST)
            except DigestError:
                continue
            accepted.append((i, j))
    assert accepted == [(n, n) for n in range(20)]
