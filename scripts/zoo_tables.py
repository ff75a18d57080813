"""The tables and the plot of `scripts.bench_zoo`, from what its folder holds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

Pair = Mapping[str, Any]
RELATED, KIN, INNOCENT = "related", "kin, not ours", "unrelated"
OUR = "weightmark"
#: From which score a method would speak by itself. Ours is its verdict; those of AWM (five deviations over the paper's
#: negatives) and of the configuration rule are their authors', the others are chosen here.
OWN_RULE = {
    "independence, constrained": 20.0, "independence, robust": 20.0, "AWM": 0.018, "HuRef": 0.5, "configuration": 0.75,
    "configuration, weights only": 0.75, "REEF": 0.8, "Uchida": 32.0, "spread spectrum": 64.0,
}  # fmt: skip
_NO_ANSWER = -1e9


def methods_of(pairs: Sequence[Pair]) -> list[str]:
    """All methods in the order they were asked."""
    return list(pairs[0]["answers"]) if pairs else []


def scores(pairs: Sequence[Pair], method: str, truth: str, *, answered: bool = True) -> list[float]:
    """Scores of one kind of pair; with `answered` only those there are, else a score below all for the others."""
    found = [one["answers"][method]["score"] for one in pairs if one["truth"] == truth]
    return [_NO_ANSWER if score is None else score for score in found if not (answered and score is None)]


def area(related: Sequence[float], innocent: Sequence[float]) -> float | None:
    """Area under the ROC curve: how often a related pair scores higher than an innocent one, ties by half."""
    if not related or not innocent:
        return None
    ranks = rankdata([*related, *innocent])[: len(related)]
    return float((ranks.sum() - len(related) * (len(related) + 1) / 2) / (len(related) * len(innocent)))


def highest(pairs: Sequence[Pair], method: str) -> float:
    """The highest score of an innocent pair: what must be exceeded for no false alarm on this zoo."""
    return max(scores(pairs, method, INNOCENT), default=_NO_ANSWER)


def is_found(pairs: Sequence[Pair], method: str, one: Pair) -> bool | None:
    """Whether a pair is found: by our verdict, or for others above every innocent score; None without an answer."""
    answer = one["answers"][method]
    if method == OUR:
        return answer["verdict"] in ("ours", "related")
    return None if answer["score"] is None else answer["score"] > highest(pairs, method)


def speaks(method: str, one: Pair) -> bool:
    """Whether a method speaks by its own rule."""
    answer = one["answers"][method]
    if method == OUR:
        return answer["verdict"] in ("ours", "related")
    return answer["score"] is not None and answer["score"] > OWN_RULE[method]


def print_tables(pairs: Sequence[Pair], sizes: Sequence[Mapping[str, Any]], plot: Path) -> None:
    """Everything that is known."""
    if not pairs:
        return
    counts = {truth: sum(one["truth"] == truth for one in pairs) for truth in (RELATED, KIN, INNOCENT)}
    print(", ".join(f"{count} {truth}" for truth, count in counts.items()) + "\n")
    _print_rates(pairs)
    _print_cells(pairs, RELATED)
    _print_lost(pairs)
    _print_cells(pairs, KIN)
    _print_innocents(pairs)
    if sizes:
        print("| method | seconds | MB more |\n|---|---:|---:|")
        for one in sizes:
            print(f"| {one['method']} | {one['seconds']:.2f} | {one['megabytes']:.0f} |")
    draw(pairs, plot)


def _print_rates(pairs: Sequence[Pair]) -> None:
    print(
        "| method | related, unrelated it answers | AUC of those | found at 0 false | AUC of all | found at 0 false "
        "| own rule: found | false | kin | ms a pair |"
    )
    print("|---" + "|---:" * 9 + "|")
    for method in methods_of(pairs):
        cells = [method]
        for answered in (True, False):
            related = scores(pairs, method, RELATED, answered=answered)
            innocent = scores(pairs, method, INNOCENT, answered=answered)
            limit = max(innocent, default=_NO_ANSWER)
            rate = sum(score > limit for score in related) / len(related) if related else None
            if answered:
                cells.append(f"{len(related)}, {len(innocent)}")
            cells += [_number(area(related, innocent), ".3f"), _number(rate, ".0%")]
        for truth in (RELATED, INNOCENT, KIN):
            members = [one for one in pairs if one["truth"] == truth]
            cells.append(f"{sum(speaks(method, one) for one in members)} of {len(members)}")
        seconds = [one["answers"][method]["seconds"] for one in pairs if one["answers"][method]["score"] is not None]
        cells.append(f"{1000 * statistics.median(seconds):.0f}" if seconds else "-")
        print("| " + " | ".join(cells) + " |")
    print()


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def cells_of(pairs: Sequence[Pair], truth: str) -> dict[str, dict[str, tuple[int, int, int]]]:
    """For each suspect's name and method: found, answered, all."""
    rows: dict[str, dict[str, tuple[int, int, int]]] = {}
    for name in dict.fromkeys(one["suspect"] for one in pairs if one["truth"] == truth):
        members = [one for one in pairs if one["truth"] == truth and one["suspect"] == name]
        rows[name] = {}
        for method in methods_of(pairs):
            found = [is_found(pairs, method, one) for one in members]
            rows[name][method] = (found.count(True), len(found) - found.count(None), len(found))
    return rows


def _print_cells(pairs: Sequence[Pair], truth: str) -> None:
    methods = methods_of(pairs)
    print(f"| {truth} | " + " | ".join(methods) + " |\n|---" + "|---:" * len(methods) + "|")
    for name, row in cells_of(pairs, truth).items():
        shown = [
            "-" if not answered else f"{found}/{answered}" + (f" of {every}" if answered < every else "")
            for found, answered, every in row.values()
        ]
        print(f"| {name} | " + " | ".join(shown) + " |")
    print()


def _print_lost(pairs: Sequence[Pair]) -> None:
    """Pairs that another method finds and ours does not."""
    print("Lost by us, found by another without a false alarm on this zoo:")
    for one in pairs:
        if one["truth"] == RELATED and not is_found(pairs, OUR, one):
            others = [method for method in methods_of(pairs) if method != OUR and is_found(pairs, method, one)]
            answer = one["answers"][OUR]
            print(
                f"- {one['victim']}: {one['suspect']}: {answer['verdict']}, {answer['score']:.0f} bits; "
                + (", ".join(others) or "no one finds it")
            )
    print()


def _print_innocents(pairs: Sequence[Pair]) -> None:
    """The highest innocent score of each method, by kind."""
    methods = methods_of(pairs)
    print("| highest score of | pairs | " + " | ".join(methods) + " |\n|---" + "|---:" * (1 + len(methods)) + "|")
    kinds = dict.fromkeys(one["suspect"].split(":")[0] for one in pairs if one["truth"] == INNOCENT)
    for kind in kinds:
        members = [one for one in pairs if one["truth"] == INNOCENT and one["suspect"].split(":")[0] == kind]
        best = [max(scores(members, method, INNOCENT), default=None) for method in methods]
        print(f"| {kind} | {len(members)} | " + " | ".join(_number(one, ".3g") for one in best) + " |")
    print()


def draw(pairs: Sequence[Pair], path: Path) -> None:
    """ROC curves of all methods over all pairs; where a method has no answer it says "unrelated"."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for method in methods_of(pairs):
        related = np.array(scores(pairs, method, RELATED, answered=False))
        innocent = np.array(scores(pairs, method, INNOCENT, answered=False))
        limits = np.unique(np.concatenate([related, innocent, [np.inf]]))[::-1]
        false = [(innocent >= limit).mean() for limit in limits]
        true = [(related >= limit).mean() for limit in limits]
        axes.plot(false, true, label=f"{method}: {area(list(related), list(innocent)):.3f}", linewidth=1.4)
    axes.set_xlabel("unrelated pairs called related")
    axes.set_ylabel("related pairs found")
    axes.set_title("all pairs; in the legend the area under the curve", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
