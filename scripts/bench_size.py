"""Release and check a model that is larger than memory, and see how much memory it takes and whether it goes on.

    python -m scripts.bench_size --folder DIR [--gigabytes 20]

Makes a model of the Llama layout with seeded weights in bfloat16 on disk (kept for the next run), and runs
the command as a user would: `init`, `release`, `verify`, and `check` of four suspects: the copy as it shipped, one
rounded to int8, the unmarked model rounded so, and another model of the same layout rounded so. Prints for each the
seconds, the rate, and the largest memory of the command and all its processes together (proportional set size, sampled;
what the system keeps of files it could drop at any time is not counted). The folder needs three and a half times the
size of the model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from watermark.model.directory import open_model
from watermark.model.dtypes import DType, dtype, encode
from watermark.model.safetensors import build_header

WIDTH, HIDDEN, HEADS_WIDTH, KEY_WIDTH, WORDS = 4_096, 14_336, 4_096, 1_024, 128_256
SHARD_BYTES = 5 * 10**9
LIMIT_BYTES = 2 * 10**9
_PIECE = 1 << 22
_PROCESSES = 2

Layer = list[tuple[str, tuple[int, ...]]]


def layout(gigabytes: float) -> list[Layer]:
    """Names and shapes, in runs that stay in one shard: a Llama of so many layers that it has about this size."""
    ends = [[("model.embed_tokens.weight", (WORDS, WIDTH))], [("lm_head.weight", (WORDS, WIDTH))]]
    one = [
        ("self_attn.q_proj", (HEADS_WIDTH, WIDTH)), ("self_attn.k_proj", (KEY_WIDTH, WIDTH)),
        ("self_attn.v_proj", (KEY_WIDTH, WIDTH)), ("self_attn.o_proj", (WIDTH, HEADS_WIDTH)),
        ("mlp.gate_proj", (HIDDEN, WIDTH)), ("mlp.up_proj", (HIDDEN, WIDTH)), ("mlp.down_proj", (WIDTH, HIDDEN)),
        ("input_layernorm", (WIDTH,)), ("post_attention_layernorm", (WIDTH,)),
    ]  # fmt: skip
    weights = sum(int(np.prod(shape)) for _, shape in one)
    fixed = sum(int(np.prod(shape)) for run in ends for _, shape in run)
    layers = max(1, round((gigabytes * 1e9 / 2 - fixed) / weights))
    body = [[(f"model.layers.{layer}.{name}.weight", shape) for name, shape in one] for layer in range(layers)]
    return [ends[0], *body, [("model.norm.weight", (WIDTH,))], ends[1]]


def make_model(folder: Path, gigabytes: float, seed: int) -> None:
    """Write the model, unless it is there; the folder appears under its name when it is whole."""
    if folder.exists():
        return
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for run in layout(gigabytes):
        size += sum(2 * int(np.prod(shape)) for _, shape in run)
        if size > SHARD_BYTES * len(shards):
            shards.append([])
        shards[-1] += run
    names = [f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors" for number in range(len(shards))]
    with ProcessPoolExecutor(_PROCESSES) as pool:
        jobs = [
            pool.submit(_write_shard, draft / name, shard, seed + number)
            for number, (name, shard) in enumerate(zip(names, shards, strict=True))
        ]
        for job in jobs:
            job.result()
    index = {name: file for file, shard in zip(names, shards, strict=True) for name, _ in shard}
    text = json.dumps({"metadata": {"total_size": size}, "weight_map": index})
    (draft / "model.safetensors.index.json").write_text(text)
    (draft / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": WIDTH}))
    draft.rename(folder)


def _write_shard(path: Path, tensors: Layer, seed: int) -> None:
    kind = dtype("BF16")
    draw = np.random.default_rng(seed)
    with path.open("xb") as file:
        file.write(build_header([(name, kind, shape) for name, shape in tensors]))
        for _, shape in tensors:
            count = int(np.prod(shape))
            for start in range(0, count, _PIECE):
                drawn = draw.standard_normal(min(_PIECE, count - start), np.float32)
                file.write(encode(drawn * np.float32(0.02) if len(shape) > 1 else 1 + drawn * np.float32(0.1), kind))


def round_model(source: Path, target: Path) -> None:
    """Write a model rounded to int8 by rows, as codes: what a thief would serve."""
    if target.exists():
        return
    draft = target.with_name(target.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with ProcessPoolExecutor(_PROCESSES) as pool:
        list(pool.map(_round_shard, [(source, draft, path.name) for path in sorted(source.glob("*.safetensors"))]))
    draft.rename(target)


def _round_shard(job: tuple[Path, Path, str]) -> None:
    source, draft, name = job
    with open_model(source / name) as model, (draft / name).open("xb") as file:
        kinds: list[tuple[str, DType, tuple[int, ...]]] = [
            (tensor.name, dtype("I8") if len(tensor.shape) == 2 else tensor.dtype, tensor.shape)
            for tensor in model.tensors.values()
        ]
        file.write(build_header(kinds))
        for tensor in model.tensors.values():
            if len(tensor.shape) != 2:
                file.write(model.read(tensor, 0, tensor.nbytes))
                continue
            rows, width = tensor.shape
            step = max(1, _PIECE // width)
            for row in range(0, rows, step):
                values = model.values(tensor, row * width, min(rows, row + step) * width).reshape(-1, width)
                scale = 127 / np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-30)
                file.write(np.rint(values * scale).astype(np.int8).tobytes())


@dataclass(frozen=True)
class Run:
    """What a command said, its seconds, and the largest memory of all its processes together."""

    answer: dict[str, object]
    code: int
    seconds: float
    peak_bytes: int


def run(home: Path, *arguments: str) -> Run:
    """Run the command and watch its memory."""
    environment = {**os.environ, "WEIGHTMARK_HOME": str(home), "WEIGHTMARK_PASSPHRASE": "bench"}
    start = time.perf_counter()
    peak = 0
    with subprocess.Popen(
        [sys.executable, "-m", "cli.main", *arguments, "--json", "--quiet"], stdout=subprocess.PIPE, env=environment
    ) as process:
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.2):
                peak = max(peak, sum(_memory(pid) for pid in _family(process.pid)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        said, _ = process.communicate()
        done.set()
        watcher.join()
    return Run(json.loads(said or b"{}"), process.returncode, time.perf_counter() - start, peak)


def _family(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _memory(pid: int) -> int:
    """Proportional set size without what is only the cache of a file, in bytes."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:] if line.endswith("kB")}
        return 1024 * (sizes.get("Pss_Anon", 0) + sizes.get("Pss_Shmem", 0))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 when every command was right and kept below 2 GB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=20)
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    home, model, out = folder / "home", folder / "model", folder / "out"
    make_model(model, arguments.gigabytes, seed=1)
    size = sum(file.stat().st_size for file in model.iterdir())
    failed = False

    def show(name: str, wanted: str, made: Run, said: object) -> None:
        nonlocal failed
        good = said == wanted and made.peak_bytes <= LIMIT_BYTES
        failed |= not good
        rate = size / made.seconds / 1e6
        print(
            f"| {name} | {said} | {made.seconds:,.0f} | {rate:,.0f} | {made.peak_bytes / 1e6:,.0f} | "
            f"{'yes' if good else 'NO'} |",
            flush=True,
        )

    print(f"{size / 1e9:.1f} GB of weights, limit {LIMIT_BYTES / 1e6:,.0f} MB\n")
    print("| command | answer | s | MB/s | peak MB | as wanted |\n|" + "---|" * 6, flush=True)
    if not home.exists():
        run(home, "init", "--owner", "bench")
    shutil.rmtree(out, ignore_errors=True)
    made = run(home, "release", str(model), "--out", str(out), "--to", "Globex")
    show("release", "released", made, "released" if made.code == 0 else made.answer)
    made = run(home, "verify", str(out))
    show("verify", "verified", made, "verified" if made.answer.get("verified") else made.answer)
    made = run(home, "check", str(out))
    show("check, the copy itself", "ours", made, made.answer.get("verdict"))
    round_model(out, folder / "int8")
    made = run(home, "check", str(folder / "int8"))
    show("check, the copy in int8", "ours", made, made.answer.get("verdict"))
    for name, source, wanted in (("unmarked", model, "related"), ("other", folder / "other", "not-shown")):
        shutil.rmtree(folder / "int8", ignore_errors=True)
        if name == "other":
            shutil.rmtree(out, ignore_errors=True)
            make_model(source, arguments.gigabytes, seed=1_000)
        round_model(source, folder / "int8")
        made = run(home, "check", str(folder / "int8"))
        show(f"check, {'the unmarked model' if name == 'unmarked' else 'another model'} in int8", wanted, made,
             made.answer.get("verdict"))  # fmt: skip
    for used in (folder / "int8", folder / "other", out):
        shutil.rmtree(used, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
