"""Check a leaked copy of a release that has very many: seconds and memory beside the same check with one copy.

    python -m scripts.bench_copies --folder DIR [--copies 100000]

A small model is released to one recipient, and its record is repeated for as many made-up recipients as are asked for,
each with tensor digests of its own. Then the copy, disguised by a little noise, is checked: it must be named.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from sqlalchemy import create_engine, insert

from cli.check import CheckRequest, check
from cli.home import Home
from cli.release import ReleaseRequest, release
from registry.store.files import DATABASE
from registry.store.records import _columns
from registry.store.tables import CopyRow, TensorDigestRow
from watermark.model.directory import open_model
from watermark.model.dtypes import dtype
from watermark.model.safetensors import write_safetensors

PASSPHRASE = b"bench"
_TOGETHER = 1_000


def write(folder: Path, weights: dict[str, np.ndarray]) -> Path:
    """A model folder of one file."""
    folder.mkdir()
    stored = [(name, dtype("F32"), one.shape, one.astype(np.float32).tobytes()) for name, one in weights.items()]
    write_safetensors(folder / "model.safetensors", stored)
    return folder


def repeat(home: Home, count: int) -> int:
    """Add `count` records like the one that is there; gives the bytes of the database."""
    with home.registry() as registry:
        (record,) = registry.records.list_releases()
        (copy,) = registry.records.copies(record.release_id)
    (place,) = home.path.rglob(DATABASE)
    engine = create_engine(f"sqlite:///{place}")
    tensors = len(json.loads(copy.tensor_digests))
    draw = np.random.default_rng(1)
    for first in range(0, count, _TOGETHER):
        copies, digests = [], []
        for number in range(first, min(count, first + _TOGETHER)):
            own = sorted(draw.bytes(32).hex() for _ in range(tensors))
            other = replace(
                copy,
                copy_id=draw.bytes(32).hex(),
                recipient=f"customer {number}",
                log_index=copy.log_index + 1 + number,
                tensor_digests=json.dumps(own),
            )
            copies.append(_columns(other))
            digests += [{"digest": digest, "copy_id": other.copy_id} for digest in own]
        with engine.begin() as connection:
            connection.execute(insert(CopyRow), copies)
            connection.execute(insert(TensorDigestRow), digests)
    engine.dispose()
    return place.stat().st_size


def look(home: Path, suspect: Path) -> int:
    """Check once, in this process, and print what it took as JSON."""
    start = time.perf_counter()
    found = check(CheckRequest(home, str(suspect)), lambda: PASSPHRASE)
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"verdict": found.verdict, "recipient": found.recipient, "seconds": taken, "peak": peak}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 when the recipient was named each time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=100_000)
    parser.add_argument("--look", action="store_true", help="only check, with what is there")
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder
    if arguments.look:
        return look(folder / "home", folder / "suspect")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    home = Home.create(folder / "home", "bench", PASSPHRASE)
    draw = np.random.default_rng(1)
    model = write(folder / "model", {name: draw.normal(0, 0.05, (768, 512)) for name in ("up", "down", "mix")})
    request = ReleaseRequest(home.path, model, folder / "out", recipients=("Globex",), strength=0.05)
    release(request, lambda: PASSPHRASE)
    with open_model(folder / "out") as shipped:
        leaked = {
            name: shipped.values(one, 0, one.count).reshape(one.shape) + draw.normal(0, 0.001, one.shape)
            for name, one in shipped.tensors.items()
        }
    write(folder / "suspect", leaked)
    print("| copies | database MB | verdict | named | s | peak MB |\n|---|---|---|---|---|---|")
    named = []
    for count in (1, arguments.copies):
        size = repeat(home, count - 1)
        command = [sys.executable, "-m", "scripts.bench_copies", "--folder", str(folder), "--look"]
        said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        named.append(said["recipient"])
        print(
            f"| {count:,} | {size / 1e6:,.0f} | {said['verdict']} | {said['recipient']} | {said['seconds']:.1f} | "
            f"{said['peak'] / 1e6:,.0f} |",
            flush=True,
        )
    return 0 if named == ["Globex", "Globex"] else 1


if __name__ == "__main__":
    sys.exit(main())
