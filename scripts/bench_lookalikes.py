"""Models that look alike and owe each other nothing: is anyone ever accused, and do wrong keys keep to the law?

    python -m scripts.bench_lookalikes --folder /tmp/lookalikes [--part zoo release pairs whole keys table]

`zoo` trains 495 small models, 385 of them on their own, each checked to do its task; `release` marks and
releases 73 of them under one owner; `pairs` checks every other model of the same shapes against each, as
`weightmark check --release` does; `whole` checks some against all releases at once; `keys` draws 100,000 wrong keys for
each test of the family, 100,000 wrong recipients and 100,000 shuffled layers; `table` prints what the folder holds.
Exits 1 when an innocent is accused or a test shows more than chance allows. What was done stays in the folder: a run
that was cut goes on. About an hour on one slow core; 0.1 s a pair, 1 s for transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from cli.check import CheckRequest, check_unlocked
from cli.verdict import NO_POWER, NOT_SHOWN, OURS, RELATED, SHARED_ANCESTOR
from tests.cli.owners import PASSPHRASE
from tests.lookalikes.accusations import Claimant, Pair, Release, kind_of, root_of
from tests.lookalikes.tasks import Score
from tests.lookalikes.whole_zoo import recipes, releases
from tests.lookalikes.wrong_keys import (
    BITS,
    FAMILY,
    Null,
    kinship_null,
    null_of,
    opened,
    owner_z,
    owner_z_in_full,
    permutation_null,
    recipient_null,
)
from tests.lookalikes.zoo import DRAWN, Recipe, make
from tests.watermark.marks.models import mark_model
from watermark.model.torch_state import load_state

#: The few first, then the cheap: a run that is cut has met most kinds.
ORDER = ("spectral", "lstm", "gpt-square", "perceptron", "convolutional", "gpt")
KEYS, KEYS_IN_FULL = 100_000, 2_000
#: A part of the suspects is also checked against all releases at once, as `weightmark check` without `--release` does.
WHOLE_EVERY = 15
PARTS = ("zoo", "release", "pairs", "whole", "keys", "table")


class Bench:
    """The folder, and what earlier runs left in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.zoo = folder, folder / "zoo"
        self.zoo.mkdir(parents=True, exist_ok=True)
        self.recipes = recipes()
        self.by_name = {recipe.name: recipe for recipe in self.recipes}
        assert len(self.by_name) == len(self.recipes)

    def lines(self, name: str) -> list[dict[str, object]]:
        """What a file of the folder holds, one document a line; a last line that was cut is dropped."""
        path = self.folder / f"{name}.jsonl"
        if not path.exists():
            return []
        text = path.read_text()
        if not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]
            path.write_text(text)
        return [json.loads(line) for line in text.splitlines()]

    def keep(self, name: str, *documents: object) -> None:
        """Append documents to a file of the folder."""
        with (self.folder / f"{name}.jsonl").open("a") as file:
            file.write("".join(json.dumps(document) + "\n" for document in documents))

    def train(self) -> None:
        """Train what is not there yet."""

        def note(recipe: Recipe, reached: Score) -> None:
            self.keep("retrained", {"name": recipe.name, **asdict(reached)})

        for recipe, reached in make(self.recipes, self.zoo, {str(one["name"]) for one in self.lines("zoo")}, note):
            self.keep("zoo", {"name": recipe.name, **asdict(reached)})

    def usable(self) -> list[Recipe]:
        """Models that do their task, and those that have none."""
        scores = {str(one["name"]): bool(one["passed"]) for one in self.lines("zoo")}
        return [one for one in self.recipes if one.name in scores and (one.how == DRAWN or scores[one.name])]

    def release(self, claimant: Claimant) -> list[Release]:
        """Release what is to be released and usable; gives what is."""
        usable = {recipe.name for recipe in self.usable()}
        found = [one for one in releases(self.recipes) if one.recipe.name in usable]
        for one in found:
            claimant.release(one)
        return found

    def check_pairs(self, claimant: Claimant, released: Sequence[Release]) -> None:
        """Every usable model against every release of its shapes but its own."""
        done = {(one["release"], one["suspect"]) for one in self.lines("pairs")}

        def turn(recipe: Recipe) -> tuple[int, bool, bool]:
            """Relatives and odd ones before plain twins: a run that is cut has met every kind."""
            is_kin = any(kind_of(one, recipe, self.by_name)[1] for one in released)
            is_plain = recipe.is_independent and not recipe.padded and not recipe.frozen
            return ORDER.index(recipe.architecture), not is_kin, is_plain

        for suspect in sorted(self.usable(), key=turn):
            against = [
                one
                for one in released
                if one.recipe.architecture == suspect.architecture
                and one.recipe.name != suspect.name
                and (one.name, suspect.name) not in done
            ]
            if against:
                start = time.perf_counter()
                pairs = claimant.accuse(suspect, against, self.by_name)
                seconds = (time.perf_counter() - start) / len(pairs)
                self.keep("pairs", *({**asdict(pair), "seconds": round(seconds, 3)} for pair in pairs))

    def check_whole(self, claimant: Claimant, released: Sequence[Release]) -> None:
        """Some models against all releases at once, by the whole job: sketches, order, one verdict."""
        done = {one["suspect"] for one in self.lines("whole")}
        of_release = {one.recipe.name for one in released}
        others = [recipe for recipe in self.usable() if recipe.name not in of_release]
        for suspect in others[::WHOLE_EVERY]:
            if suspect.name not in done:
                request = CheckRequest(claimant.home.path, str(self.zoo / suspect.name))
                found = check_unlocked(request, claimant.home, PASSPHRASE, claimant.secrets)
                kin = [one.name for one in released if kind_of(one, suspect, self.by_name)[1]]
                document = {"suspect": suspect.name, "verdict": found.verdict, "kin": len(kin), "name": found.name}
                self.keep("whole", {**document, "log2_p_adjusted": found.log2_p_adjusted})

    def draw_keys(self) -> None:
        """Wrong keys, wrong recipients and shuffled layers."""
        done = {str(one["test"]) for one in self.lines("nulls")}
        base = self.zoo / "perceptron-trained-digits-0-0"
        with tempfile.TemporaryDirectory() as room:
            marked = mark_model(
                self.zoo / "perceptron-tuned-digits-half-a-0-1", Path(room) / "copies", ("Globex",), strength=0.1
            )
            folders = {
                "marked copy": marked.copies[0],
                "twin": self.zoo / "perceptron-trained-digits-50-0",
                "sibling": self.zoo / "perceptron-tuned-digits-half-a-0-0",
            }
            if FAMILY[0] not in done:
                with opened(marked, base, folders, Path(room) / "aligned") as suspects:
                    z = owner_z(marked, suspects, KEYS)
                    full = owner_z_in_full(marked, suspects[0], KEYS_IN_FULL)
                    apart = float(abs(full - z[:KEYS_IN_FULL, 0]).max())
                    self.keep("full", {"keys": KEYS_IN_FULL, "suspect": suspects[0].name, "z_apart": apart})
                    nulls = [
                        null_of(test, suspect.name, z[:, number, member])
                        for number, suspect in enumerate(suspects)
                        for member, test in enumerate(FAMILY)
                    ]
                    self.keep("nulls", *map(asdict, nulls))
            if "recipient" not in done:
                nulls = [recipient_null(marked, name, folders[name], KEYS) for name in ("marked copy", "twin")]
                self.keep("nulls", *map(asdict, nulls))
        if "kinship, 1 layer" not in done:
            layers = [
                load_state(self.zoo / name)["blocks.0.down.weight"].T.numpy().copy()
                for name in ("gpt-trained-text-a-2000-0", "gpt-trained-text-a-2002-0")
            ]
            nulls = [kinship_null(layers[0], layers[1], "layers of two transformers", KEYS)]
            nulls += [permutation_null(128, count, KEYS) for count in (2, 4, 12)]
            self.keep("nulls", *map(asdict, nulls))

    def nulls(self) -> list[Null]:
        """What wrong keys showed."""
        return [Null(**{**one, "counts": tuple(one["counts"])}) for one in self.lines("nulls")]  # type: ignore[arg-type]

    def pairs(self) -> list[Pair]:
        """All pairs that were checked."""
        names = [field.name for field in fields(Pair)]
        return [Pair(**{name: one[name] for name in names}) for one in self.lines("pairs")]  # type: ignore[arg-type]


VERDICTS = (OURS, RELATED, SHARED_ANCESTOR, NOT_SHOWN, NO_POWER)


def print_zoo(bench: Bench) -> None:
    """How many models of each architecture, and how well they do."""
    scores = {str(one["name"]): one for one in bench.lines("zoo")}
    usable = {recipe.name for recipe in bench.usable()}
    roots: set[object] = set()
    print("| architecture | models | trained on their own | others | do their task (least) | retrained | left out |")
    print("|" + "---|" * 7)
    for kind in ORDER:
        members = [one for one in bench.recipes if one.architecture == kind and one.name in scores]
        alone = {root_of(one, bench.by_name) for one in members if one.is_independent and one.name in usable}
        roots |= alone
        tasked = [one for one in members if one.how != DRAWN and one.name in usable]
        measures = {str(scores[one.name]["measure"]) for one in tasked}
        values = [float(str(scores[one.name]["value"])) for one in tasked]
        worst = (max if measures == {"loss"} else min)(values, default=0.0)
        again = len({str(one["name"]) for one in bench.lines("retrained")} & {one.name for one in members})
        left_out = sum(one.name not in usable for one in members)
        cells = (
            kind,
            len(members),
            len(alone),
            len(members) - len(alone),
            f"{len(tasked)} ({'/'.join(measures)} {worst:.3f})",
            again,
            left_out,
        )
        print(_row(*cells))
    print(f"\nTrained on their own, each from first weights that no other has: {len(roots)}.\n")


def print_pairs(pairs: Sequence[Pair]) -> None:
    """Verdicts by kind."""
    groups: dict[tuple[bool, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.is_kin, pair.kind].append(pair)
    print("| kind | pairs | " + " | ".join(VERDICTS) + " | least log2 p, adjusted (raw) | may be `related` |")
    print("|" + "---|" * (len(VERDICTS) + 4))
    for (is_kin, kind), members in sorted(groups.items()):
        print(_pairs_line(kind, members, "yes" if is_kin else "no"))
    print(_pairs_line("all", pairs, ""))
    raw = [pair.log2_p or 0.0 for pair in pairs]
    print("\nBest of 18 to 20 statistics of each pair, raw, at most 2^-k:\n")
    print("| k | pairs | expected at most |\n|---|---|---|")
    for k in (4, 8, 12, 16, 20):
        print(f"| {k} | {sum(one <= -k for one in raw)} | {len(raw) * min(1.0, 20 * 2.0**-k):.1f} |")


def _pairs_line(kind: str, members: Sequence[Pair], may: str) -> str:
    counts = [str(sum(pair.verdict == verdict for pair in members)) for verdict in VERDICTS]
    adjusted = min((pair.log2_p_adjusted for pair in members if pair.log2_p_adjusted is not None), default=0.0)
    raw = min((pair.log2_p for pair in members if pair.log2_p is not None), default=0.0)
    return f"| {kind} | {len(members):,} | " + " | ".join(counts) + f" | {adjusted:.1f} ({raw:.1f}) | {may} |"


def print_nulls(bench: Bench) -> None:
    """Wrong keys by test: the worst of all suspects, and how often p was small against how often it may be."""
    shown = (1, 2, 4, 8, 12, 16)
    print(
        "| test | suspects x draws | spread of z | kurtosis | least KS p | least log2 p | "
        + " | ".join(f"2^-{k}" for k in shown)
        + " |"
    )
    print("|" + "---|" * (6 + len(shown)))
    print(_row(f"*allowed, of {KEYS:,}*", "", "1", "0", "", "", *(f"{KEYS * 2.0**-k:,.0f}" for k in shown)))
    groups: dict[str, list[Null]] = defaultdict(list)
    for null in bench.nulls():
        groups[null.test].append(null)
    for test, members in groups.items():
        has_z = members[0].ks > 0
        spread = f"{min(n.spread for n in members):.3f} to {max(n.spread for n in members):.3f}" if has_z else "-"
        kurtosis = f"{max((n.kurtosis for n in members), key=abs):.2f}" if has_z else "-"
        ks = f"{min(n.ks for n in members):.3f}" if has_z else "-"
        counts = [f"{max(n.counts[BITS.index(k)] for n in members):,}" for k in shown]
        least = min(n.least_log2_p for n in members)
        print(
            f"| {test} | {len(members)} x {members[0].keys:,} | {spread} | {kurtosis} | {ks} | {least:.1f} | "
            + " | ".join(counts)
            + " |"
        )
    for one in bench.lines("full"):
        print(f"\n{one['keys']} keys by the whole path, `{one['suspect']}`: z at most {one['z_apart']:.1e} apart.")


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def report(bench: Bench) -> int:
    """Print everything; 1 where an innocent was accused or a test shows more than chance allows."""
    pairs, nulls = bench.pairs(), bench.nulls()
    print_zoo(bench)
    print_pairs(pairs)
    whole = bench.lines("whole")
    counts = ", ".join(f"{sum(one['verdict'] == verdict for one in whole)} {verdict}" for verdict in VERDICTS)
    print(f"\nAgainst all releases at once: {len(whole)} suspects: {counts}.\n")
    print_nulls(bench)
    false: list[object] = [pair for pair in pairs if pair.is_false]
    for found in whole:
        if found["verdict"] == OURS or (not found["kin"] and found["verdict"] in (RELATED, SHARED_ANCESTOR)):
            false.append(found)
    for one in false:
        print(f"ACCUSED: {one}")
    loud = [null for null in nulls if null.too_often()]
    for null in loud:
        print(f"TOO OFTEN at {null.too_often()} bits: {null}")
    return 1 if false or loud else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Do the parts that were asked for; 0 when nobody was accused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    bench = Bench(arguments.folder)
    for part in arguments.part:
        start = time.perf_counter()
        if part == "table":
            return report(bench)
        if part == "zoo":
            bench.train()
        elif part == "keys":
            bench.draw_keys()
        else:
            claimant = Claimant(bench.folder, bench.zoo)
            released = bench.release(claimant)
            if part == "pairs":
                bench.check_pairs(claimant, released)
            elif part == "whole":
                bench.check_whole(claimant, released)
        print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
