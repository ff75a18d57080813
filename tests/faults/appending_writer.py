"""One of several processes that append to one log: `python -m tests.faults.appending_writer FOLDER NAME COUNT`.

Appends COUNT entries of its own in batches, each batch with one entry that all writers share, and prints the index of
each receipt, one `ENTRY INDEX` a line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from registry.store.embedded import EmbeddedRegistry
from tests.registry.example_log import LOG_KEY

BATCH = 10


def main(folder: str, name: str, count: str) -> None:
    with EmbeddedRegistry.open(Path(folder), LOG_KEY) as registry:
        for start in range(0, int(count), BATCH):
            entries = [f"{name}-{number}".encode() for number in range(start, start + BATCH)]
            entries.append(f"shared-{start // BATCH}".encode())
            for entry, receipt in zip(entries, registry.append(entries), strict=True):
                print(entry.decode(), receipt.index)


if __name__ == "__main__":
    main(*sys.argv[1:])
