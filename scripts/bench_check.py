"""Check one model against another, and see how long it takes beside a plain comparison of the two files.

    python -m scripts.bench_check --folder DIR [--gigabytes 0 | 1]

Without a size the models have MiniLM's shapes: MiniLM is released to one recipient, and its copy as int8 values and a
model of the same shapes that was drawn at random are checked. With a size they have a Llama's shapes. Seconds are those
of `check` after everything is imported and the owner's secret is unlocked, in one process and those it forks; beside
them, in the same run, the peer: both files loaded by safetensors, and the cosine of each pair of tensors by torch.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from cli.check import CheckRequest, check_unlocked
from cli.demo_subject import minilm_folder
from cli.home import Home
from cli.owner_secrets import OwnerSecrets
from cli.release import ReleaseRequest, release
from scripts.bench_size import make_model, round_model
from watermark.model.directory import open_model
from watermark.model.dtypes import encode
from watermark.model.safetensors import write_safetensors

PASSPHRASE = b"bench"


def peer(one: Path, other: Path) -> float:
    """Seconds to load both and take the cosine of each pair of tensors by name."""
    start = time.perf_counter()
    for file in sorted(one.glob("*.safetensors")):
        with safe_open(file, "pt") as left, safe_open(other / file.name, "pt") as right:
            for name in left.keys():  # noqa: SIM118  not a mapping
                a, b = left.get_tensor(name).float().ravel(), right.get_tensor(name).float().ravel()
                torch.nn.functional.cosine_similarity(a, b, dim=0).item()
    return time.perf_counter() - start


def alike(source: Path, target: Path, seed: int) -> None:
    """A model of the same shapes and row sizes whose weights were drawn at random."""
    draw = np.random.default_rng(seed)
    target.mkdir()
    with open_model(source) as model:
        stored = []
        for tensor in model.tensors.values():
            values = model.values(tensor, 0, tensor.count)
            if len(tensor.shape) == 2 and tensor.dtype.is_float:
                values = draw.normal(0, float(values.std()), tensor.count).astype(np.float32)
            stored.append((tensor.name, tensor.dtype, tensor.shape, encode(values, tensor.dtype)))
    write_safetensors(target / "model.safetensors", stored)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 when both verdicts are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=0)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    home = Home.create(folder / "home", "bench", PASSPHRASE)
    model = minilm_folder()
    if arguments.gigabytes:
        model = folder / "model"
        make_model(model, arguments.gigabytes, seed=1)
    release(ReleaseRequest(home.path, model, folder / "out", recipients=("Globex",)), lambda: PASSPHRASE)
    round_model(folder / "out", folder / "copy")
    if arguments.gigabytes:
        make_model(folder / "other", arguments.gigabytes, seed=1_000)
    else:
        alike(model, folder / "other", 1)
    secrets = OwnerSecrets(home, PASSPHRASE)
    assert secrets.current
    print("| suspect | verdict | s | peer s | ratio | bits |\n|---|---|---|---|---|---|")
    failed = False
    for name, wanted in (("copy", "ours"), ("other", "not-shown")):
        taken, beside = [], []
        for _ in range(1 if arguments.gigabytes else 3):
            profile = cProfile.Profile()
            start = time.perf_counter()
            if arguments.profile:
                profile.enable()
            found = check_unlocked(CheckRequest(home.path, str(folder / name)), home, PASSPHRASE, secrets)
            profile.disable()
            taken.append(time.perf_counter() - start)
            beside.append(peer(model, folder / name))
        failed |= found.verdict != wanted
        print(
            f"| {name} | {found.verdict} | {min(taken):.2f} | {min(beside):.2f} | {min(taken) / min(beside):.1f} | "
            f"{-(found.log2_p or 0):,.1f} |",
            flush=True,
        )
        if arguments.profile:
            pstats.Stats(profile).sort_stats("cumtime").print_stats(45)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
