"""Flip random bits of a log of 10,000 signed entries, and look whether the audit names each damaged object.

    python scripts/fault_flips.py --flips 1000 --entries 10000

A flip goes to a random byte of a tile, an entry bundle, the checkpoint, the latest record or an entry's row, each byte
as likely as any other. An audit takes seconds, so several flips are made at once, no two in one object, and each object
must be named by a finding of its own; they are undone before the next round. Prints one JSON line, and exits 1 when a
flip was not found, or an object that nobody touched was named.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry.monitor import audit
from registry.signing.entry import make_entry
from registry.signing.keys import ED25519, P256, generate
from registry.store.embedded import EmbeddedRegistry
from registry.store.files import CHECKPOINT, DATABASE, LATEST

ORIGIN = "registry.example/flips"


def make_log(folder: Path, entries: int) -> str:
    """Append an owner's entry and then releases, 256 at a time; gives the log's verifier key."""
    owner, log_key = generate(P256), generate(ED25519)
    first = make_entry("owner", {"owner": "ann", "key": owner.public.pem, "secret_commitment": "00" * 32}, owner)
    rest = [make_entry("release", {"release": f"{number:064x}"}, owner) for number in range(1, entries)]
    with EmbeddedRegistry.create(folder, ORIGIN, log_key) as registry:
        registry.append([first])
        for start in range(0, len(rest), 256):
            registry.append(rest[start : start + 256])
        return registry.vkey


def flip_file(path: Path, draw: random.Random) -> bytes:
    """Flip one bit of a file; gives what it held."""
    content = path.read_bytes()
    at = draw.randrange(len(content))
    path.write_bytes(content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :])
    return content


def flip_row(database: Path, index: int, draw: random.Random) -> bytes:
    """Flip one bit of an entry as its row holds it; gives what it held."""
    with sqlite3.connect(database) as connection:
        (content,) = connection.execute("SELECT entry FROM entry WHERE log_index = ?", (index,)).fetchone()
        at = draw.randrange(len(content))
        flipped = content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
        connection.execute("UPDATE entry SET entry = ? WHERE log_index = ?", (flipped, index))
    connection.close()
    return content


def main() -> None:
    """Make the log, flip in rounds, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--together", type=int, default=20)
    parser.add_argument("--seed", type=int, default=20261124)
    args = parser.parse_args()
    draw, started = random.Random(args.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "log"
        vkey = make_log(folder, args.entries)
        clean = audit(folder, [vkey])
        if not clean.whole:
            raise SystemExit(f"the untouched log has findings: {clean.findings[:3]}")
        tiles = [path for path in (folder / "log" / "tile").rglob("*") if path.is_file()]
        files = [*tiles, folder / CHECKPOINT, folder / LATEST]
        objects: list[Path | int] = [*files, *range(args.entries)]
        row_bytes = 1 + (folder / DATABASE).stat().st_size // args.entries
        weights = [path.stat().st_size for path in files] + [row_bytes] * args.entries
        kinds: Counter[str] = Counter()
        missed, strange = [], []
        done = 0
        while done < args.flips:
            chosen = set(draw.choices(objects, weights, k=min(args.together, args.flips - done)))
            done += len(chosen)
            old: dict[Path | int, bytes] = {}
            for one in chosen:
                old[one] = flip_row(folder / DATABASE, one, draw) if isinstance(one, int) else flip_file(one, draw)
            texts = [finding.text for finding in audit(folder, [vkey]).findings]
            named = set()
            for one in chosen:
                name = f"entry {one}:" if isinstance(one, int) else one.relative_to(folder).as_posix()
                name = name.removeprefix("log/") if "tile/" in name else name
                hits = {text for text in texts if text.startswith(name)}
                named |= hits
                kinds["row" if isinstance(one, int) else name.split("/")[1] if "tile/" in name else name] += 1
                if not hits:
                    missed.append(name)
            strange += [text for text in texts if text not in named]
            for one, content in old.items():
                if isinstance(one, int):
                    with sqlite3.connect(folder / DATABASE) as connection:
                        connection.execute("UPDATE entry SET entry = ? WHERE log_index = ?", (content, one))
                    connection.close()
                else:
                    one.write_bytes(content)
            print(f"{done} flips, {len(missed)} missed, {len(strange)} strange", file=sys.stderr, flush=True)
        whole = audit(folder, [vkey]).whole
    summary = {
        "entries": args.entries,
        "flips": done,
        "missed": missed,
        "strange": strange[:10],
        "by_kind": dict(kinds),
        "whole_when_undone": whole,
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(summary))
    raise SystemExit(1 if missed or strange or not whole else 0)


if __name__ == "__main__":
    main()
