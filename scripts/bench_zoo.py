"""Side by side on one zoo: our verdicts, and what methods of others say of the same pairs.

    python -m scripts.bench_zoo --folder /tmp/zoo [--part zoo release steal pairs size table]

`zoo` trains about 90 small models of four architectures (those of `bench_lookalikes` may be copied into the folder);
`release` marks six victims, fine-tunes of bases that are not declared, three times each: ours, with a message by
regularised training, and by plain spread spectrum; `steal` trains on the copies as a thief does; `pairs` asks every
method about every pair, and notes each as soon as it is known; `size` measures time and memory on a model of 17 million
weights; `table` prints what the folder holds and writes `roc.png`. A run that was cut goes on. About 25 minutes on one
slow core. Exits 1 when we accuse an innocent.

Methods without a mark are given the copy that shipped and what was made of it; those with a mark of their own are given
what was made of theirs in the same way. Innocent models are the same for all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from cli.check import CheckRequest
from cli.examine import examine
from cli.home import Home
from cli.owner_secrets import OwnerSecrets
from cli.verdict import OURS, RELATED, SHARED_ANCESTOR, judge
from scripts.peers import awm, configuration, huref, independence, reef, spread_spectrum
from scripts.peers.subject import Subject
from scripts.peers.uchida import Message
from scripts.zoo_models import FAMILIES, Family, carrier_of, subject_of, train
from scripts.zoo_suspects import Trainings, disguised_twins, thefts_of
from scripts.zoo_tables import INNOCENT, KIN, OUR, print_tables
from scripts.zoo_tables import RELATED as RELATED_PAIR
from tests.cli.owners import PASSPHRASE, make_home, make_release
from tests.lookalikes.architectures import WORDS
from tests.lookalikes.tasks import tasks
from tests.lookalikes.zoo import DRAWN, Recipe, make
from watermark.attacks.interface import State, is_target
from watermark.evidence import default_strength
from watermark.model.digest import canonical_digest, digest_tensors
from watermark.model.directory import open_model
from watermark.model.torch_state import load_state, save_state

PARTS = ("zoo", "release", "steal", "pairs", "size", "table")
UCHIDA, SPREAD = "Uchida", "spread spectrum"
MARKS = (OUR, UCHIDA, SPREAD)
SPREAD_KEY = b"the zoo's key"
MESSAGE_SEED, MESSAGE_STEPS, MESSAGE_RATE = 17, 120, 3e-3
#: Size of the model on which time and memory are measured.
LARGE = {"width": 384, "hidden": 1_024, "blocks": 6, "words": 8_192}


@dataclass(frozen=True)
class Answer:
    """What one method says: its score (None: it has no answer), our verdict, and the seconds it took."""

    score: float | None
    seconds: float
    verdict: str | None = None


@dataclass(frozen=True)
class Victim:
    """One released model: its recipe and the copies that carry each of the marks."""

    family: Family
    order: int
    seed: int

    @property
    def recipe(self) -> Recipe:
        """The unmarked reference."""
        return self.family.child(self.order, self.seed)

    @property
    def kind(self) -> str:
        """Its architecture."""
        return self.family.architecture

    @property
    def name(self) -> str:
        """What it is called in the folder."""
        return self.recipe.name


VICTIMS = [Victim(family, order, seed) for family in FAMILIES for order, seed in family.victims]


class Owner:
    """The owner's home, opened as `weightmark check` opens it after the passphrase."""

    def __init__(self, folder: Path) -> None:
        path = folder / "home"
        self.home = Home.open(path) if path.exists() else make_home(path)
        self.secrets = OwnerSecrets(self.home, PASSPHRASE, None)

    def check(self, suspect: Path, name: str) -> tuple[float, str]:
        """Bits after everything tried is paid for (of the mark, or of kinship where that is the verdict); verdict."""
        with self.home.registry() as registry:
            record = next(one for one in registry.records.list_releases() if one.name == name)
            copies = registry.records.copies(record.release_id)
        with open_model(suspect) as model:
            digests = digest_tensors(model)
            finding = examine(model, digests, record, copies, self.secrets.of(record), None)
            digest = canonical_digest(digests.values()).hex()
            request = CheckRequest(self.home.path, str(suspect), (record.release_id,))
            found = judge([finding], digest, model, request, considered=1)
        bits = -(found.log2_p_adjusted or 0.0)
        if found.verdict in (RELATED, SHARED_ANCESTOR) and finding.kin is not None:
            bits = max(bits, -finding.kin.log2_p_adjusted(1))
        return bits, found.verdict


class Bench:
    """The folder, and what earlier runs left in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.zoo, self.copies = folder, folder / "zoo", folder / "copies"
        self.zoo.mkdir(parents=True, exist_ok=True)
        self.trainings = Trainings(folder / "stolen")

    def lines(self, name: str) -> list[dict[str, object]]:
        """What a file of the folder holds, one document a line; a last line that was cut is dropped."""
        path = self.folder / f"{name}.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def keep(self, name: str, document: object) -> None:
        """Append a document to a file of the folder."""
        with (self.folder / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(document) + "\n")

    def train(self) -> None:
        """Train what is not there yet."""
        known = {str(one["name"]) for one in self.lines("zoo")}
        for family in FAMILIES:
            for recipe, reached in make(family.recipes(), self.zoo, known, lambda *_: None):
                self.keep("zoo", {"name": recipe.name, **asdict(reached)})

    def state(self, recipe: Recipe) -> State:
        """A model of the zoo."""
        return load_state(self.zoo / recipe.name)

    def usable(self) -> set[str]:
        """Names of models that do their task, or have none."""
        return {str(one["name"]) for one in self.lines("zoo") if one["passed"] or f"-{DRAWN}-" in str(one["name"])}

    def release(self) -> None:
        """Mark every victim three times."""
        owner = Owner(self.folder)
        with owner.home.registry() as registry:
            known = {one.name for one in registry.records.list_releases()}
        for victim in VICTIMS:
            reference = self.state(victim.recipe)
            if victim.name not in known:
                place = self.place(victim, OUR)
                make_release(
                    owner.home, self.zoo / victim.name, place, name=victim.name, recipients=("Globex",), documents=False
                )
            if not self.place(victim, UCHIDA).exists():
                save_state(self.place(victim, UCHIDA), with_message(victim.kind, victim.family.tuned_on, reference))
            if not self.place(victim, SPREAD).exists():
                save_state(
                    self.place(victim, SPREAD), spread_spectrum.embed(reference, SPREAD_KEY, strength_of(reference))
                )

    def place(self, victim: Victim, mark: str) -> Path:
        """Where a copy lies."""
        return self.copies / mark / victim.name

    def steal(self) -> None:
        """Train on all copies, those of one architecture together; on the data of the base, not of the victim."""
        for family in FAMILIES:
            states = {
                self.copy_name(victim, mark): load_state(self.place(victim, mark))
                for victim in VICTIMS
                if victim.family == family
                for mark in MARKS
            }
            self.trainings.make(family.architecture, family.task, states)

    @staticmethod
    def copy_name(victim: Victim, mark: str) -> str:
        """What a copy is called among the thief's."""
        return f"{victim.name}, {mark}"

    def check_pairs(self) -> None:
        """Ask every method about every pair that was not asked about yet."""
        done = {(str(one["victim"]), str(one["suspect"])) for one in self.lines("pairs")}
        owner, usable = Owner(self.folder), self.usable()
        for victim in VICTIMS:
            panel = Panel(self, owner, victim)
            for truth, suspect, states in self.suspects(victim, usable):
                if (victim.name, suspect) not in done:
                    answers = panel.ask(states())
                    document = {"victim": victim.name, "kind": victim.kind, "truth": truth, "suspect": suspect}
                    self.keep("pairs", {**document, "answers": {name: asdict(one) for name, one in answers.items()}})

    def suspects(self, victim: Victim, usable: set[str]) -> Iterator[tuple[str, str, Callable[[], dict[str, State]]]]:
        """What is compared with a victim: what it truly is, its name, and its weights for each mark."""
        family, sibling = victim.family, self.state(victim.family.child(victim.order + 1, victim.seed))
        stolen = {mark: self.trainings.of(self.copy_name(victim, mark)) for mark in MARKS}
        thefts = {mark: thefts_of(victim.kind, sibling, stolen[mark]) for mark in MARKS}
        copies = {mark: load_state(self.place(victim, mark)) for mark in MARKS}

        def all_alike(state: State) -> dict[str, State]:
            return dict.fromkeys(MARKS, state)

        for name in thefts[OUR]:
            yield RELATED_PAIR, name, lambda n=name: {mark: thefts[mark][n](copies[mark]) for mark in MARKS}
        for name, recipe in family.kin(victim.order, victim.seed).items():
            yield KIN, name, lambda r=recipe: all_alike(self.state(r))
        for name, members in family.innocents().items():
            for recipe in members:
                if recipe.name in usable:
                    yield INNOCENT, f"{name}: {recipe.name}", lambda r=recipe: all_alike(self.state(r))
        twins = disguised_twins(victim.kind, [self.state(recipe) for recipe in family.to_disguise()])
        for name, state in twins.items():
            yield INNOCENT, name, lambda s=state: all_alike(s)
        for other in VICTIMS:
            if other.family == family and other.seed != victim.seed:
                place = partial(self.place, other)
                yield INNOCENT, "another release", lambda p=place: {mark: load_state(p(mark)) for mark in MARKS}


def strength_of(state: State) -> float:
    """As strong as a release would be marked."""
    return default_strength(sum(tensor.numel() for tensor in state.values() if is_target(tensor)))


def message_for(kind: str, state: State) -> Message:
    """The message of a model of this layout."""
    weight = carrier_of(kind, state)[1]
    assert weight is not None
    return Message.draw(MESSAGE_SEED, weight.shape[1])


def with_message(kind: str, task: str, reference: State) -> State:
    """Train a little further, the message in the loss."""
    message = message_for(kind, reference)

    def extra(state: State) -> torch.Tensor:
        weight = state[carrier_of(kind, reference)[0]]
        return message.loss(weight.flatten(1))

    return train(kind, reference, task, MESSAGE_SEED, MESSAGE_STEPS, MESSAGE_RATE, extra=extra)


def common_tokens() -> list[int]:
    """The most frequent characters of the text that is trained on."""
    return huref.tokens(bytes(tasks("gpt")["text-a"].inputs.flatten().tolist()))


def peers(tokens: list[int]) -> dict[str, Callable[[Subject, Subject], float | None]]:
    """Methods that compare two models without a mark."""
    return {
        "independence, constrained": independence.constrained,
        "independence, robust": independence.robust,
        "AWM": awm.similarity,
        "HuRef": lambda ours, theirs: huref.similarity(ours, theirs, tokens),
        "configuration": lambda ours, theirs: configuration.pipeline(ours, theirs, tokens),
        "configuration, weights only": lambda ours, theirs: configuration.identity(ours, theirs, tokens),
        "REEF": reef.similarity,
    }


class Panel:
    """All methods, asked about suspects of one victim."""

    def __init__(self, bench: Bench, owner: Owner, victim: Victim) -> None:
        self.owner, self.victim = owner, victim
        self.reference = bench.state(victim.recipe)
        self.shipped = subject_of(victim.kind, load_state(bench.place(victim, OUR)))
        self.message = message_for(victim.kind, self.reference)
        self.peers = peers(common_tokens())

    def ask(self, states: Mapping[str, State]) -> dict[str, Answer]:
        """One suspect, as it would be made of each mark's copy."""
        answers = {OUR: self._ours(states[OUR])}
        suspect = subject_of(self.victim.kind, states[OUR])
        for name, compare in self.peers.items():
            answers[name] = _timed(partial(compare, self.shipped, suspect))
        answers[UCHIDA] = _timed(lambda: self.message.found(carrier_of(self.victim.kind, states[UCHIDA])[1]))
        answers[SPREAD] = _timed(lambda: spread_spectrum.found(states[SPREAD], self.reference, SPREAD_KEY))
        return answers

    def _ours(self, state: State) -> Answer:
        with tempfile.TemporaryDirectory() as folder:
            save_state(Path(folder) / "suspect", state)
            start = time.perf_counter()
            bits, verdict = self.owner.check(Path(folder) / "suspect", self.victim.name)
            return Answer(bits, time.perf_counter() - start, verdict)


def _timed(compare: Callable[[], float | None]) -> Answer:
    start = time.perf_counter()
    score = compare()
    return Answer(score, time.perf_counter() - start)


def measure_sizes(bench: Bench) -> None:
    """Each method in a process of its own, on a large model and a noisy copy of it."""
    folder = bench.folder / "large"
    if not (folder / "done").exists():
        reference = large_model(1)
        save_state(folder / "reference", reference)
        home = make_home(folder / "home")
        make_release(home, folder / "reference", folder / OUR, name="large", documents=False)
        save_state(folder / UCHIDA, reference)
        save_state(folder / SPREAD, spread_spectrum.embed(reference, SPREAD_KEY, strength_of(reference)))
        (folder / "done").touch()
    done = {str(one["method"]) for one in bench.lines("size")}
    for method in (OUR, *peers([]), UCHIDA, SPREAD):
        if method not in done:
            command = [sys.executable, "-m", "scripts.bench_zoo", "--folder", str(bench.folder), "--measure", method]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            bench.keep("size", json.loads(found.stdout))


def large_model(seed: int) -> State:
    """A Llama-like model of random weights."""
    from tests.lookalikes import llama_like

    shapes = llama_like.llama_shapes(
        LARGE["words"], width=LARGE["width"], hidden=LARGE["hidden"], blocks=LARGE["blocks"]
    )
    stream = torch.Generator().manual_seed(seed)
    return {
        name: torch.ones(shape) if "norm" in name else 0.02 * torch.randn(shape, generator=stream)
        for name, shape in shapes.items()
    }


def measure(folder: Path, method: str) -> dict[str, object]:
    """Seconds of one comparison, and megabytes beyond what the process held with both models loaded."""
    suspect = load_state(folder / (method if method in MARKS else OUR))
    suspect = {name: tensor + 1e-4 * torch.randn_like(tensor) for name, tensor in suspect.items()}
    reference = load_state(folder / "reference")
    compare: Callable[[], object]
    if method == OUR:
        save_state(folder / "suspect", suspect)
        owner = Owner(folder)
        assert owner.secrets.current
        del suspect, reference
        compare = partial(owner.check, folder / "suspect", "large")
    elif method == UCHIDA:
        message = message_for("llama", reference)
        compare = partial(message.found, carrier_of("llama", suspect)[1])
    elif method == SPREAD:
        compare = partial(spread_spectrum.found, suspect, reference, SPREAD_KEY)
    else:
        tokens = list(range(min(64, WORDS)))
        compare = partial(peers(tokens)[method], subject_of("llama", reference), subject_of("llama", suspect))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    compare()
    seconds = time.perf_counter() - start
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"method": method, "seconds": seconds, "megabytes": more / 1024}


def main(argv: Sequence[str] | None = None) -> int:
    """Do the parts that were asked for; 0 when we accuse nobody who is innocent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--part", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    bench = Bench(arguments.folder)
    if arguments.measure:
        print(json.dumps(measure(bench.folder / "large", arguments.measure)))
        return 0
    work = {
        "zoo": bench.train,
        "release": bench.release,
        "steal": bench.steal,
        "pairs": bench.check_pairs,
        "size": partial(measure_sizes, bench),
    }
    for part in arguments.part:
        start = time.perf_counter()
        if part in work:
            work[part]()
            print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    if "table" not in arguments.part:
        return 0
    accused = [
        one
        for one in bench.lines("pairs")
        if one["truth"] == INNOCENT and one["answers"][OUR]["verdict"] in (OURS, RELATED)  # type: ignore[index]
    ]
    print_tables(bench.lines("pairs"), bench.lines("size"), bench.folder / "roc.png")
    for one in accused:
        print(f"ACCUSED: {one['victim']}: {one['suspect']}")
    return 1 if accused else 0


if __name__ == "__main__":
    sys.exit(main())
