"""An owner who releases models of the zoo for real, and checks all others for what they owe to each release.

Every check is `weightmark check --release ID` behind its flags: digests, pairing, the whole family as the suspect
stands and again aligned, subspaces, kinship and the verdict. What may truly be said of a pair is known, because the
zoo's recipes say who started from whose weights. No suspect ever saw a released file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cli.check import CheckRequest
from cli.examine import Finding, examine
from cli.home import Home
from cli.owner_secrets import OwnerSecrets
from cli.verdict import NO_POWER, NOT_SHOWN, OURS, RELATED, SHARED_ANCESTOR, CheckResult, judge
from registry.store.record_file import RecordFile
from registry.store.records import CopyRecord, ReleaseRecord
from tests.cli.owners import PASSPHRASE, make_home, make_release
from tests.lookalikes.zoo import DRAWN, TAUGHT, TUNED, Recipe
from watermark.model.digest import canonical_digest, digest_tensors
from watermark.model.directory import open_model

RECIPIENTS = ("Globex", "Initech")


@dataclass(frozen=True)
class Release:
    """One model of the zoo, marked and released, with or without naming its base."""

    recipe: Recipe
    declared: bool = False

    @property
    def name(self) -> str:
        """The label of the release."""
        return self.recipe.name + ("-declared" if self.declared else "")


@dataclass(frozen=True)
class Pair:
    """What one check of one suspect against one release said."""

    release: str
    suspect: str
    kind: str
    is_kin: bool
    verdict: str
    log2_p: float | None
    log2_p_adjusted: float | None
    best_aligned: bool
    in_place: int | None
    units: int | None
    layers: int | None
    reason: str

    @property
    def is_false(self) -> bool:
        """An innocent accused: `ours` always, and kinship where no weights were ever shared."""
        return self.verdict == OURS or (not self.is_kin and self.verdict in (RELATED, SHARED_ANCESTOR))


def root_of(recipe: Recipe, recipes: Mapping[str, Recipe]) -> tuple[str, int]:
    """The first weights that a model stems from; an answer that was copied hands on none."""
    while recipe.how == TUNED and recipe.parent is not None:
        recipe = recipes[recipe.parent]
    return recipe.architecture, recipe.seed


def kind_of(release: Release, suspect: Recipe, recipes: Mapping[str, Recipe]) -> tuple[str, bool]:
    """How two models are alike, and whether they share first weights, so that `related` would be true."""
    ours = release.recipe
    if root_of(ours, recipes) == root_of(suspect, recipes):
        base = "declared" if release.declared else "not declared"
        if ours.how == suspect.how == TUNED and ours.parent == suspect.parent:
            return f"siblings, base {base}", True
        if ours.parent == suspect.name:
            return f"the base of the release, {base}", True
        if suspect.parent == ours.name:
            return "fine-tune of the reference", True
        if ours.task == suspect.task:
            return "same first weights, same data, other batches", True
        return "same first weights, other data", True
    if DRAWN in (ours.how, suspect.how):
        return ("two random initialisations" if ours.how == suspect.how else "trained and random"), False
    if TAUGHT in (ours.how, suspect.how):
        if ours.name == suspect.parent or suspect.name == ours.parent:
            return "student and teacher", False
        if ours.parent == suspect.parent:
            same = ours.how == suspect.how
            return ("students of one teacher" if same else "student and fine-tune of one model"), False
    if ours.padded and suspect.padded:
        return "twins with dead units at equal places", False
    if ours.frozen and suspect.frozen:
        return "twins with a common frozen embedding", False
    same = "twins" if ours.task == suspect.task else "other task"
    return (f"{same} behind a common constant layer" if ours.architecture == "spectral" else same), False


class Claimant:
    """An owner whose home and secret are open, as `weightmark check` has them after the passphrase."""

    def __init__(self, folder: Path, zoo: Path) -> None:
        """Take the home in `folder`, or make one there."""
        self.folder, self.zoo = folder, zoo
        known = (folder / "home").exists()
        self.home = Home.open(folder / "home") if known else make_home(folder / "home")
        self.secrets = OwnerSecrets(self.home, PASSPHRASE, None)
        self._records: dict[str, tuple[ReleaseRecord, list[CopyRecord]]] = {}

    def release(self, wanted: Release) -> None:
        """Release a model of the zoo, if that was not done before."""
        if wanted.name not in self._known():
            base = str(self.zoo / wanted.recipe.parent) if wanted.declared and wanted.recipe.parent else None
            make_release(
                self.home,
                self.zoo / wanted.recipe.name,
                self.folder / "out" / wanted.name,
                name=wanted.name,
                recipients=RECIPIENTS,
                base=base,
                documents=False,
            )
            self._records.clear()

    def _known(self) -> dict[str, tuple[ReleaseRecord, list[CopyRecord]]]:
        if not self._records:
            with self.home.registry() as registry:
                book = registry.records
                self._records = {one.name: (one, book.copies(one.release_id)) for one in book.list_releases()}
        return self._records

    def examine(self, suspect: Path, releases: Sequence[Release]) -> list[tuple[Finding, CheckResult]]:
        """Check a suspect against each release, asked for by itself: nothing but its own tests is paid for."""
        found = []
        with ExitStack() as stack:
            model = stack.enter_context(open_model(suspect))
            digests = digest_tensors(model)
            digest = canonical_digest(digests.values()).hex()
            for release in releases:
                record, copies = self._known()[release.name]
                finding = examine(model, digests, record, RecordFile([record], copies), self.secrets.of(record), None)
                request = CheckRequest(self.home.path, str(suspect), (record.release_id,))
                found.append((finding, judge([finding], digest, model, request, considered=1)))
        return found

    def accuse(self, suspect: Recipe, releases: Sequence[Release], recipes: Mapping[str, Recipe]) -> list[Pair]:
        """One line for each release."""
        pairs = []
        for release, (finding, result) in zip(releases, self.examine(self.zoo / suspect.name, releases), strict=True):
            kind, is_kin = kind_of(release, suspect, recipes)
            assert result.verdict in (OURS, RELATED, SHARED_ANCESTOR, NOT_SHOWN, NO_POWER)
            kin = finding.kin.reference if finding.kin is not None else None
            pairs.append(
                Pair(
                    release.name,
                    suspect.name,
                    kind,
                    is_kin,
                    result.verdict,
                    result.log2_p,
                    result.log2_p_adjusted,
                    finding.best is not None and finding.best.name.endswith("aligned"),
                    kin.in_place if kin else None,
                    kin.units if kin else None,
                    kin.layers if kin else None,
                    result.reasons[0],
                )
            )
        return pairs
