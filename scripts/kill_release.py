"""Kill `release` at random moments, again and again, and look at what is left.

    python scripts/kill_release.py --kills 50 [--seed 1]

Each round starts a release of its own, kills it with SIGKILL at a moment drawn evenly over its usual length, and
demands: the target folder is absent or verifies, the log is whole, and the same command afterwards gives the bytes of
an undisturbed run and one entry for each copy. Prints the counts; exits 1 at the first violation.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cli.audit import AuditRequest, audit
from cli.home import Home
from cli.unfinished import unfinished_folder
from cli.verify import VerifyRequest, verify
from watermark.model.dtypes import dtype
from watermark.model.safetensors import write_safetensors

PASSPHRASE = "kill me"
ROWS = 2_000


def make_model(folder: Path, seed: int) -> Path:
    """A small model of its own for each round, so that each round signs and logs something new."""
    folder.mkdir()
    draw = np.random.default_rng(seed)
    weights = draw.normal(0, 0.02, (ROWS, 256)).astype(np.float32)
    write_safetensors(folder / "model.safetensors", [("w", dtype("F32"), weights.shape, weights.tobytes())])
    (folder / "config.json").write_text("{}")
    return folder


def release(home: Path, model: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start the command as a user would."""
    command = [sys.executable, "-m", "cli.main", "release", str(model), "--out", str(out), "--name", model.name]
    environment = {**os.environ, "WEIGHTMARK_HOME": str(home), "WEIGHTMARK_PASSPHRASE": PASSPHRASE}
    return subprocess.Popen([*command, "--to", "Globex", "--quiet"], env=environment, stdout=subprocess.DEVNULL)


def whole(home: Home, out: Path) -> bool:
    """Whether the target is absent (False) or complete (True); raises when it is neither, or the log is not whole."""
    found = audit(AuditRequest(home.path))
    if not found.whole:
        raise SystemExit(f"the log is not whole: {found.findings}")
    if not out.exists():
        return False
    verify(VerifyRequest(out, trust=home.trust_path))
    return True


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a copy."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    """Run the rounds and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    place = Path(tempfile.mkdtemp())
    home = Home.create(place / "home", "acme", PASSPHRASE.encode())
    try:
        started = time.monotonic()
        if release(home.path, make_model(place / "warm-up", 0), place / "out").wait() != 0:
            raise SystemExit("the release does not work even undisturbed")
        usual = time.monotonic() - started
        absent = complete = finished = resumed = 0
        for number in range(args.kills):
            model, out = make_model(place / f"model-{number}", 1 + number), place / f"out-{number}"
            process = release(home.path, model, out)
            time.sleep(draw.uniform(0, 1.1 * usual))
            process.send_signal(signal.SIGKILL)
            finished += process.wait() == 0
            is_complete = whole(home, out)
            complete, absent = complete + is_complete, absent + (not is_complete)
            resumed += unfinished_folder(out).exists()
            again = place / f"again-{number}"
            for target in (again,) if is_complete else (out, again):
                if release(home.path, model, target).wait() != 0 or not whole(home, target):
                    raise SystemExit(f"round {number}: the next release does not work")
            if files_of(out) != files_of(again):
                raise SystemExit(f"round {number}: what was resumed has other bytes")
            for folder in (model, out, again):
                shutil.rmtree(folder, ignore_errors=True)
        with home.registry() as registry:
            expected = 2 + args.kills
            if registry.size != expected:
                raise SystemExit(f"the log has {registry.size} entries for {expected} that were due")
        drafts = [path.name for path in place.iterdir() if path.name.startswith(".")]
        print(
            f"{args.kills} kills, seed {args.seed}: target absent {absent}, complete {complete}, "
            f"done before {finished}, gone on with {resumed}"
        )
        print(f"log whole and bytes equal every time; one entry a copy; {len(drafts)} working folders left")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
