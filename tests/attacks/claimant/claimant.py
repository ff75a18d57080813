"""A claimant who signs what he likes and keeps his own log: nothing that he could forge is left to the product.

He holds an owner's key and a log's key that the reader trusts, and marks of his own. He invents entries, checkpoints,
draws and openings, and writes evidence files with the product's own writer and his real signature.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.evidence import EvidenceRequest, EvidenceResult, verify_evidence
from cli.evidence_file import CopyOpening, EvidenceBody, PriorCase, write_evidence
from cli.outcome import CHALLENGED_DRAW, SELF_ASSERTED_DRAW, CaseCost, checkpoint_randomness, score
from registry.log.checkpoint import Checkpoint, sign_checkpoint
from registry.log.merkle import inclusion_proof, leaf_hash, root_of
from registry.log.note import NoteSigner
from registry.log.proof import TlogProof, write_proof
from registry.signing.entry import CASE, OWNER, RELEASE, make_entry
from registry.signing.keys import ED25519, P256, PrivateKey, generate
from registry.signing.trust import format_trust, trust_of
from tests.watermark.marks.models import MarkedModel
from watermark.evidence import KeyedTest
from watermark.marks.commitment import BlockOpening, LeafTree, bind_root
from watermark.marks.detect import DIFFERENCE
from watermark.marks.dispute import draw_blocks, score_owner, verify_openings
from watermark.marks.geometry import Geometry, MarkedTensor, owner_digest
from watermark.marks.plan import plan_mark
from watermark.marks.secret import ReleaseKey, stretch_root
from watermark.marks.survey import survey
from watermark.marks.weights import Embedder
from watermark.model.digest import Span, canonical_digest, digest_tensors, read_span
from watermark.model.directory import open_model

RELEASE_ID = "11" * 16
#: scrypt(R) of the marks that were claimed, as their embedder found it.
STRETCHED: dict[bytes, bytes] = {}


@dataclass
class Claimant:
    """Keys, a log of his own, and what he writes with them; `trust` is the file of a reader who believes both keys."""

    folder: Path
    name: str = "mallory"
    key: PrivateKey = field(default_factory=lambda: generate(P256))
    entries: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Enrol in his own log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._leaves: list[bytes] = []
        self._log = NoteSigner(f"weightmark.invalid/{self.name}", generate(ED25519))
        self.trust = self.folder / "trust.txt"
        policy = trust_of({self.name: (self.key.public,)}, (self._log.verifier.vkey,))
        self.trust.write_text(format_trust(policy), "utf-8")
        self.log(OWNER, {"key": self.key.public.pem, "secret_commitment": "00" * 32})

    def entry(self, kind: str, body: dict[str, Any]) -> bytes:
        """A signed entry that is in no log yet."""
        return make_entry(kind, {"owner": self.name, **body}, self.key)

    def log(self, kind: str, body: dict[str, Any]) -> int:
        """Append an entry; gives its index."""
        self.entries.append(self.entry(kind, body))
        return len(self.entries) - 1

    def log_mark(self, root: bytes, **fields: Any) -> int:
        """Log a release entry for this R."""
        return self.log(RELEASE, {"release": RELEASE_ID, "R": root.hex(), "copy": None, **fields})

    def case(self, root: bytes, suspect: bytes, blocks: int, **fields: Any) -> dict[str, Any]:
        """What a case about this suspect (its digest) says; whatever is in `fields` he says otherwise."""
        said = {"release": RELEASE_ID, "R": root.hex(), "copy": None, "layer": "owner", "suspect": suspect.hex()}
        said |= {"statistic": DIFFERENCE, "blocks": blocks, "absent": [], "prior": [], "nonce": ""}
        return {**said, **fields}

    def log_case(self, root: bytes, suspect: bytes, blocks: int, **fields: Any) -> int:
        """Log it."""
        return self.log(CASE, self.case(root, suspect, blocks, **fields))

    def proof(self, index: int, size: int | None = None) -> bytes:
        """The proof of an entry under a checkpoint of any size, whether one was ever published or not."""
        self._leaves += [leaf_hash(entry) for entry in self.entries[len(self._leaves) :]]
        leaves = self._leaves[: size or len(self.entries)]

        def subtree(level: int, place: int) -> bytes:
            return root_of(leaves[place << level : (place + 1) << level])

        checkpoint = sign_checkpoint(Checkpoint(self._log.name, len(leaves), root_of(leaves)), self._log)
        return write_proof(
            TlogProof(index, inclusion_proof(index, len(leaves), subtree), checkpoint, self.entries[index])
        )

    def randomness(self, entries: Sequence[bytes]) -> bytes:
        """What a self-asserted draw is made from when the log holds just these entries."""
        root = root_of(leaf_hash(entry) for entry in entries)
        return checkpoint_randomness(Checkpoint(self._log.name, len(entries), root).text().encode() + b"\n")

    def drawn(
        self, marked: MarkedModel, suspect: bytes, case: int, count: int, spent: Iterable[int] = (), **draw: bytes
    ) -> tuple[int, ...]:
        """The blocks that a logged case draws, by its own checkpoint or by a `challenge`."""
        randomness = draw.get("challenge") or self.randomness(self.entries[: case + 1])
        eligible = sorted(set(range(marked.plan.geometry.blocks)) - set(spent))
        return draw_blocks(marked.plan.root, suspect, self.entries[case], randomness, eligible, count)

    def spend(self, marked: MarkedModel, suspect: bytes, unwanted: Iterable[int]) -> tuple[tuple[PriorCase, ...], int]:
        """Log a case of one block for each unwanted block, and make up draws that take just these.

        Gives the earlier cases with their invented randomness, and how many draws were tried in all.
        """
        unwanted, spent = set(unwanted), set[int]()
        first = len(self.entries)
        for number in range(len(unwanted)):
            self.log_case(marked.plan.root, suspect, 1, nonce=str(number))
        prior, tries = [], 0
        while len(spent) < len(unwanted):
            index, randomness, tries = first + len(spent), os.urandom(16), tries + 1
            left = [block for block in range(marked.plan.geometry.blocks) if block not in spent]
            (block,) = draw_blocks(marked.plan.root, suspect, self.entries[index], randomness, left, 1)
            if block in unwanted:
                spent.add(block)
                prior.append(PriorCase(self.proof(index), randomness))
        return tuple(prior), tries

    def write(
        self,
        marked: MarkedModel,
        suspect: Path,
        release: int,
        case: int,
        openings: Sequence[BlockOpening],
        *,
        challenge: bytes | None = None,
        prior: Sequence[PriorCase] = (),
        copy: CopyOpening | None = None,
        forge: Callable[[EvidenceBody], EvidenceBody] = lambda body: body,
    ) -> Path:
        """An evidence file with true numbers about these openings, bent by `forge`, and signed."""
        plan = marked.plan
        STRETCHED[plan.root] = marked.embedder.stretched
        with open_model(suspect) as model:
            parts = (tuple(openings), plan.geometry, plan.root, marked.embedder.stretched, model, DIFFERENCE, copy)
            outcome = score(*parts)
        body = EvidenceBody(
            owner=self.name,
            draw=SELF_ASSERTED_DRAW if challenge is None else CHALLENGED_DRAW,
            randomness=self.randomness(self.entries[: case + 1]) if challenge is None else challenge,
            proofs={"owner": self.proof(0), "release": self.proof(release), "case": self.proof(case, case + 1)},
            prior=tuple(prior),
            geometry=plan.geometry.document(),
            openings=tuple(openings),
            copy=copy,
            suspect={"digest": digest_of(suspect).hex(), "date": None, "source": None},
            result=outcome.to_json(CaseCost(case, 1)),
            tool="forged",
        )
        path = self.folder / f"case-{os.urandom(6).hex()}.json"
        path.write_bytes(write_evidence(forge(body), self.key))
        return path

    def judged(self, file: Path, suspect: Path | None) -> EvidenceResult:
        """What a stranger who trusts this claimant's keys finds in a file about a suspect."""
        return verify_evidence(EvidenceRequest(file, Path("/nowhere"), suspect, None, self.trust))


def digest_of(model: Path) -> bytes:
    """The canonical digest of a model."""
    with open_model(model) as opened:
        return canonical_digest(digest_tensors(opened).values())


def unshipped(reference: Path, owner: str = "mallory") -> MarkedModel:
    """A mark that was planned and never embedded: nobody needs to ship anything to claim a suspect."""
    with open_model(reference) as model:
        plan = plan_mark(ReleaseKey(b"m" * 32), survey(model), owner=owner)
        return MarkedModel(reference, plan, [], Embedder(plan, [None]))


def openings_of(marked: MarkedModel, blocks: Iterable[int]) -> tuple[BlockOpening, ...]:
    """True openings of these blocks, in this order."""
    plan, found = marked.plan, []
    secrets = plan.key.block_secrets()
    with open_model(marked.reference) as model:
        for block in blocks:
            tensor = plan.geometry.tensor_of_block(block)
            place = block - tensor.first_block
            span = Span(model.tensors[plan.surveys[tensor.digest].names[0]], place, place + 1)
            values = read_span(model, span)
            path = plan.tree.path(block)
            found.append(BlockOpening(block, secrets.secret(block), secrets.salt(block), values, path))
    return tuple(found)


def block_scores(marked: MarkedModel, suspect: Path) -> list[float]:
    """z of each block alone: what the claimant knows before he says which blocks he opens."""
    plan = marked.plan
    with open_model(suspect) as model:
        opened = verify_openings(openings_of(marked, range(plan.geometry.blocks)), plan.geometry, plan.root, model)
        _, each = score_owner(opened, model, DIFFERENCE, marked.embedder.stretched)
    return [total / energy**0.5 if energy else 0.0 for total, energy in each]


@dataclass(frozen=True)
class Invented:
    """A mark that no program made: any values as reference, any secrets, and the R that follows."""

    openings: tuple[BlockOpening, ...]
    geometry: Geometry
    root: bytes

    def shown_in(self, suspect: Path, statistic: str = DIFFERENCE, stretched: bytes | None = None) -> KeyedTest:
        """What all blocks show; `stretched` stands for scrypt(R), where the chips shall not come from R."""
        with open_model(suspect) as model:
            opened = verify_openings(self.openings, self.geometry, self.root, model)
            return score_owner(opened, model, statistic, stretched or stretch_root(self.root))[0]


def invent(reference: NDArray[np.float32], secrets: Callable[[int], bytes], owner: str = "mallory") -> Invented:
    """The mark of one matrix under these secrets, each leaf in its tree."""
    tensor = MarkedTensor("ab" * 32, "F32", reference.shape, "F32", 50_000, 0)
    geometry = Geometry((tensor,), (), 65_536, None, owner_digest(owner))
    parts = []
    for block in range(geometry.blocks):
        values = reference.ravel()[slice(*tensor.layout.bounds(block))].tobytes()
        parts.append(BlockOpening(block, secrets(block), bytes(32), values, ()))
    tree = LeafTree([part.leaf_hash() for part in parts])
    openings = tuple(replace(part, path=tree.path(part.block)) for part in parts)
    return Invented(openings, geometry, bind_root(tree.root, geometry.digest()))
