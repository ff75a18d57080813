"""Time the mark on a large model: release pass and blind detection, beside copying and hashing the same files.

    python scripts/bench_mark.py --gib 2 --shards 4 --dtype BF16 [--folder DIR] [--width 4096]

Makes a model of seeded random weights, then runs each task in a process of its own (so that peak memory is its own)
and prints seconds, GB/s, ratios and peak memory (of all processes, shared pages counted once). Bars: digest + commit +
mark + write + hash at least a third of the speed of copying and hashing on one thread; blind detection of a bf16 model
at 2 GB/s or better; under 600 MB. The copy is timed twice: as it is, and until it is on disk, as a release is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHUNK = 1 << 20


def make_model(folder: Path, gib: float, shards: int, kind: str, width: int, *, single: bool) -> None:
    """Write normal weights of deviation 0.02 in matrices of `width` columns, about 64 MiB each (or one tensor)."""
    import numpy as np

    from watermark.model.dtypes import dtype, encode
    from watermark.model.safetensors import build_header

    draw = np.random.default_rng(1)
    pool = draw.normal(0, 0.02, (CHUNK,)).astype(np.float32)
    item = dtype(kind).bits // 8
    total_rows = int(gib * 2**30) // item // width
    per_tensor = total_rows if single else max(1, (64 << 20) // item // width)
    shapes = []
    while total_rows > 0:
        shapes.append((min(per_tensor, total_rows), width))
        total_rows -= shapes[-1][0]
    cuts = [shapes[number::shards] for number in range(shards)]
    folder.mkdir(parents=True)
    weight_map = {}
    for number, cut in enumerate(cut for cut in cuts if cut):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        listed = [(f"s{number}.t{place}.weight", dtype(kind), shape) for place, shape in enumerate(cut)]
        with open(folder / name, "wb") as stream:
            stream.write(build_header(listed))
            for tensor, _, shape in listed:
                weight_map[tensor] = name
                left = shape[0] * shape[1]
                while left:
                    # A shifted, rescaled window of one pool: no two rows alike, and quick to make.
                    start, count = int(draw.integers(CHUNK // 2)), min(left, CHUNK // 2)
                    values = pool[start : start + count] * np.float32(draw.uniform(0.5, 1.5))
                    stream.write(encode(values, dtype(kind)))
                    left -= count
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def copy_and_hash(model: Path, out: Path, *, durable: bool) -> float:
    """The named peer: shutil's copy, then hashlib over the copy, one thread; `durable` waits for the disk too."""
    started = time.perf_counter()
    out.mkdir()
    for source in sorted(model.iterdir()):
        shutil.copyfile(source, out / source.name)
        state = hashlib.sha256()
        with open(out / source.name, "rb") as stream:
            while chunk := stream.read(CHUNK):
                state.update(chunk)
            if durable:
                os.fsync(stream.fileno())
    return time.perf_counter() - started


def release_pass(model: Path, out: Path, recipients: int) -> float:
    """Digest, commit, mark, write and hash: what `release` does to weights."""
    from watermark.marks.plan import plan_mark
    from watermark.marks.secret import ReleaseKey
    from watermark.marks.survey import survey
    from watermark.marks.weights import Embedder
    from watermark.model.directory import open_model
    from watermark.model.rewrite import rewrite_shard

    started = time.perf_counter()
    with open_model(model) as opened:
        found = survey(opened)
        surveyed = time.perf_counter()
        key = ReleaseKey.of(b"s" * 32, found.reference_digest)
        plan = plan_mark(key, found)
        copies = [key.copy_key(f"recipient {number}") for number in range(recipients)] or [None]
        embedder = Embedder(plan, copies)
        planned = time.perf_counter()
        folders = [out / str(number) for number in range(len(copies))]
        for folder in folders:
            folder.mkdir(parents=True)
        for shard in opened.shards:
            rewrite_shard(opened, shard, [f / shard for f in folders], lambda s, raw: embedder.mark(s, raw, None))
    done = time.perf_counter()
    print(
        f"    survey {surveyed - started:.2f} s, commit and scrypt {planned - surveyed:.2f} s, "
        f"mark and write {done - planned:.2f} s",
        file=sys.stderr,
    )
    return done - started


def detect_blind(model: Path) -> float:
    """The blind test with a secret of its own, from the page cache."""
    from watermark.marks.detect import BLIND, detect
    from watermark.marks.geometry import MarkedTensor
    from watermark.marks.secret import ReleaseKey
    from watermark.marks.spans import Carrier, ChipSource, Sources
    from watermark.model.directory import open_model

    with open_model(model) as opened:
        carriers, first = [], 0
        for tensor in opened.tensors.values():
            marked = MarkedTensor(tensor.name, tensor.dtype.name, tensor.shape, tensor.dtype.name, 5000, first)
            carriers.append(Carrier(marked, tensor))
            first += marked.layout.blocks
        chips = ChipSource.of(ReleaseKey(b"k" * 32).block_secrets(), bytes(32))
        started = time.perf_counter()
        test = detect(Sources(opened), carriers, chips, [BLIND])[0]
        seconds = time.perf_counter() - started
        if test.log2_p < -64 or test.trials == 0:
            raise SystemExit("the innocent model was accused, or nothing was read")
        return seconds


def run(task: str, model: Path, out: Path, recipients: int) -> tuple[float, float]:
    """Run one task in a fresh process; gives its seconds and its peak memory in MB."""
    command = [sys.executable, __file__, "--task", task, "--folder", str(model), "--out", str(out)]
    started = subprocess.Popen([*command, "--recipients", str(recipients)], stdout=subprocess.PIPE)
    peak = 0
    while started.poll() is None:
        peak = max(peak, memory_of(started.pid))
        time.sleep(0.1)
    assert started.stdout is not None
    seconds = started.stdout.read().decode()
    if started.returncode:
        raise SystemExit(f"{task} ended with {started.returncode}")
    shutil.rmtree(out, ignore_errors=True)
    return float(seconds), peak / 1000


def memory_of(process: int) -> int:
    """kB of a process and those that it forked, each page counted once (proportional set size, Linux)."""
    total = 0
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            total += int(line.split()[1]) if line.startswith("Pss:") else 0
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return total
    return total + sum(memory_of(int(child)) for child in children)


def main() -> None:
    """Make the model, run the tasks in turn, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--dtype", default="F32")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--single", action="store_true", help="one tensor in one shard")
    parser.add_argument("--recipients", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--task")
    args = parser.parse_args()
    if args.task:
        if args.task == "detect":
            print(detect_blind(args.folder))
        elif args.task == "release":
            print(release_pass(args.folder, args.out, args.recipients))
        else:
            print(copy_and_hash(args.folder, args.out, durable=args.task == "durable copy"))
        return
    place = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        model = place / "model"
        make_model(model, args.gib, 1 if args.single else args.shards, args.dtype, args.width, single=args.single)
        size = sum(path.stat().st_size for path in model.iterdir())
        for number in range(args.rounds):
            copied, _ = run("copy", model, place / "out", 0)
            durable, _ = run("durable copy", model, place / "out", 0)
            marked, mark_peak = run("release", model, place / "out", args.recipients)
            found, found_peak = run("detect", model, place / "out", 0)
            print(
                f"round {number + 1}: copy + hash {copied:.2f} s, on disk {durable:.2f} s\n"
                f"    release pass {marked:.2f} s = {marked / copied:.2f}x (bar 3.00), {marked / durable:.2f}x on disk"
                f", peak {mark_peak:.0f} MB (bar 600)\n"
                f"    blind {found:.2f} s = {size / found / 1e9:.2f} GB/s (bar 2.00, BF16), peak {found_peak:.0f} MB",
                flush=True,
            )
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
