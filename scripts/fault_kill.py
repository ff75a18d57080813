"""Kill an appending process at random moments, and look whether anything acknowledged was lost.

    python scripts/fault_kill.py --kills 1000

Each round forks a process that opens the log and appends, singly and in batches, telling each receipt through a pipe.
It is killed with SIGKILL after a random time, during recovery too; the next round opens the log again. Prints one JSON
line and exits 1 when an acknowledged entry is missing, doubled or moved, or an audit finds anything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry.monitor import audit
from registry.signing.entry import make_entry
from registry.signing.keys import ED25519, P256, PrivateKey, generate
from registry.store.embedded import EmbeddedRegistry

ROUNDS_A_LOG = 100


@dataclass
class Campaign:
    """What happened."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    findings: list[str] = field(default_factory=list)
    slowest_restart_s: float = 0.0


def append_until_killed(folder: Path, log_key: PrivateKey, owner: PrivateKey, start: int, pipe: int) -> None:
    """The child: open, append for ever, tell `SHA256 INDEX` for each receipt."""
    draw = random.Random(start)
    registry = EmbeddedRegistry.open(folder, log_key)
    number = start
    while True:
        count = draw.choice((1, 1, 1, 2, 20))
        entries = [make_entry("release", {"release": f"{number + at:064x}"}, owner) for at in range(count)]
        number += count
        for entry, receipt in zip(entries, registry.append(entries), strict=True):
            os.write(pipe, f"{hashlib.sha256(entry).hexdigest()} {receipt.index}\n".encode())


def one_round(folder: Path, log_key: PrivateKey, owner: PrivateKey, start: int, delay_s: float) -> dict[str, int]:
    """Fork, wait, kill; what the child acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            append_until_killed(folder, log_key, owner, start, writing)
        finally:
            os._exit(3)  # only an error comes here
    os.close(writing)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"the appending process ended by itself, with status {status}")
    with os.fdopen(reading, "rb") as pipe:
        lines = [line.split() for line in pipe.read().splitlines(keepends=True) if line.endswith(b"\n")]
    return {digest.decode(): int(index) for digest, index in lines}


def campaign(kills: int, seed: int, max_delay_s: float) -> Campaign:
    """Kill so often, over fresh logs of a hundred kills each."""
    draw, result = random.Random(seed), Campaign()
    log_key, owner = generate(ED25519), generate(P256)
    body = {"owner": "ann", "key": owner.public.pem, "secret_commitment": "00" * 32}
    while result.kills < kills:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "log"
            with EmbeddedRegistry.create(folder, "kill.example/log", log_key) as registry:
                registry.append([make_entry("owner", body, owner)])
            acknowledged: dict[str, int] = {}
            for _ in range(min(ROUNDS_A_LOG, kills - result.kills)):
                told = one_round(folder, log_key, owner, result.kills * 100_000, draw.uniform(0, max_delay_s))
                acknowledged |= told
                result.kills += 1
                look(folder, log_key, acknowledged, result)
            result.acknowledged += len(acknowledged)
    return result


def look(folder: Path, log_key: PrivateKey, acknowledged: dict[str, int], result: Campaign) -> None:
    """Open again, and look for each acknowledged entry at its index, once."""
    begun = time.monotonic()
    with EmbeddedRegistry.open(folder, log_key) as registry:
        result.slowest_restart_s = max(result.slowest_restart_s, time.monotonic() - begun)
        entries = list(registry.entries(0, registry.size))
        vkey = registry.vkey
    digests = [hashlib.sha256(entry).hexdigest() for entry in entries]
    for digest, index in acknowledged.items():
        if index >= len(digests) or digests[index] != digest or digests.count(digest) != 1:
            result.lost += 1
    result.findings += [finding.text for finding in audit(folder, [vkey]).findings]


def main() -> int:
    """Run the campaign that the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--max-delay", type=float, default=0.25, help="longest life of an appending process, seconds")
    flags = parser.parse_args()
    result = campaign(flags.kills, flags.seed, flags.max_delay)
    print(json.dumps(asdict(result)))
    return 1 if result.lost or result.findings else 0


if __name__ == "__main__":
    sys.exit(main())
