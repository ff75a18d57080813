"""Which models the large zoo of `scripts/bench_lookalikes.py` holds, and which of them its owner releases."""

from __future__ import annotations

from collections.abc import Sequence

from tests.lookalikes.accusations import Release
from tests.lookalikes.zoo import DRAWN, TAUGHT, TUNED, Recipe


def recipes() -> list[Recipe]:
    """All models of the zoo."""
    found: list[Recipe] = []

    def add(kind: str, task: str, seeds: range, **fields: object) -> None:
        found.extend(Recipe(kind, task, seed, **fields) for seed in seeds)  # type: ignore[arg-type]

    def tune(kind: str, base: str, task: str, orders: range) -> None:
        found.extend(Recipe(kind, task, 0, order, TUNED, base) for order in orders)

    kind, base, other = "perceptron", "perceptron-trained-digits-0-0", "perceptron-trained-digits-1-0"
    add(kind, "digits", range(110))
    add(kind, "wine", range(200, 230))
    add(kind, "cancer", range(300, 330))
    add(kind, "digits-mirrored", range(400, 410))
    add(kind, "digits", range(800, 812), padded=True)
    add(kind, "wine", range(4))
    add(kind, "digits-mirrored", range(4))
    add(kind, "digits", range(4), order=1)
    for half in ("digits-half-a", "digits-half-b"):
        add(kind, half, range(500, 505))
        tune(kind, base, half, range(4))
    tune(kind, other, "digits-half-a", range(10, 14))
    add(kind, "digits", range(600, 612), how=TAUGHT, parent=base)
    add(kind, "digits", range(620, 624), how=TAUGHT, parent=other)
    add(kind, "digits", range(700, 712), how=DRAWN)

    kind, base = "convolutional", "convolutional-trained-digits-1000-0"
    add(kind, "digits", range(1000, 1060))
    add(kind, "digits-mirrored", range(1100, 1104))
    add(kind, "digits-mirrored", range(1000, 1003))
    add(kind, "digits", range(1000, 1002), order=1)
    for half in ("digits-half-a", "digits-half-b"):
        tune(kind, base, half, range(3))
    add(kind, "digits", range(1300, 1306), how=TAUGHT, parent=base)
    add(kind, "digits", range(1200, 1206), how=DRAWN)

    kind, base, other = "gpt", "gpt-trained-text-a-2000-0", "gpt-trained-text-a-2001-0"
    add(kind, "text-a", range(2000, 2025))
    add(kind, "text-b", range(2100, 2120))
    add(kind, "text-a", range(2300, 2306), padded=True)
    add(kind, "text-a", range(2400, 2406), frozen=True)
    add(kind, "text-b", range(2000, 2003))
    add(kind, "text-a", range(2000, 2002), order=1)
    tune(kind, base, "text-b", range(4))
    tune(kind, other, "text-b", range(10, 12))
    add(kind, "text-a", range(2500, 2504), how=TAUGHT, parent=base)
    add(kind, "text-a", range(2200, 2204), how=DRAWN)

    kind = "gpt-square"
    add(kind, "text-a", range(3000, 3012), frozen=True)
    add(kind, "text-a", range(3100, 3108))

    kind = "lstm"
    add(kind, "text-a", range(4000, 4020))
    add(kind, "text-b", range(4100, 4104))
    add(kind, "text-b", range(4000, 4002))
    tune(kind, "lstm-trained-text-a-4000-0", "text-b", range(3))
    add(kind, "text-a", range(4200, 4202), how=DRAWN)

    kind = "spectral"
    add(kind, "digits", range(5000, 5020))
    add(kind, "wine", range(5100, 5105))
    add(kind, "digits", range(5200, 5202), how=DRAWN)
    return found


def releases(known: Sequence[Recipe]) -> list[Release]:
    """What the owner releases: models of every kind, and fine-tunes with and without naming their base."""
    by_name = {recipe.name: recipe for recipe in known}
    plain = [
        *(f"perceptron-trained-digits-{seed}-0" for seed in range(15)),
        *(f"perceptron-trained-wine-{seed}-0" for seed in range(200, 203)),
        *(f"perceptron-trained-cancer-{seed}-0" for seed in range(300, 303)),
        "perceptron-trained-digits-mirrored-400-0", "perceptron-trained-digits-half-a-500-0",
        "perceptron-trained-digits-half-a-501-0", "perceptron-tuned-digits-half-a-0-0",
        "perceptron-tuned-digits-half-b-0-0",
        "perceptron-taught-digits-600-0", "perceptron-taught-digits-601-0", "perceptron-drawn-digits-700-0",
        "perceptron-drawn-digits-701-0", "perceptron-trained-digits-800-0-padded",
        "perceptron-trained-digits-801-0-padded",
        *(f"convolutional-trained-digits-{seed}-0" for seed in range(1000, 1008)),
        "convolutional-trained-digits-mirrored-1100-0", "convolutional-tuned-digits-half-a-0-0",
        "convolutional-tuned-digits-half-b-0-0", "convolutional-taught-digits-1300-0",
        "convolutional-drawn-digits-1200-0",
        "gpt-trained-text-a-2000-0", "gpt-trained-text-a-2002-0", "gpt-trained-text-b-2100-0",
        "gpt-tuned-text-b-0-0", "gpt-taught-text-a-2500-0", "gpt-drawn-text-a-2200-0",
        "gpt-trained-text-a-2300-0-padded", "gpt-trained-text-a-2400-0-frozen",
        "gpt-square-trained-text-a-3000-0-frozen", "gpt-square-trained-text-a-3001-0-frozen",
        "gpt-square-trained-text-a-3002-0-frozen", "gpt-square-trained-text-a-3100-0",
        "gpt-square-trained-text-a-3101-0",
        *(f"lstm-trained-text-a-{seed}-0" for seed in range(4000, 4004)), "lstm-tuned-text-b-0-0",
        *(f"spectral-trained-digits-{seed}-0" for seed in range(5000, 5003)), "spectral-trained-wine-5100-0",
    ]  # fmt: skip
    declared = [
        "perceptron-tuned-digits-half-a-0-1", "perceptron-tuned-digits-half-b-0-1",
        "convolutional-tuned-digits-half-a-0-1",
        "convolutional-tuned-digits-half-b-0-1", "gpt-tuned-text-b-0-1", "gpt-tuned-text-b-0-2",
        "lstm-tuned-text-b-0-1",
    ]  # fmt: skip
    return [Release(by_name[name]) for name in plain] + [Release(by_name[name], declared=True) for name in declared]
