"""How fast we sign and verify a model, against model-signing 1.1.1 and against two bare hashlib threads.

    python scripts/bench_sign.py --folder /tmp/bench [--gib 2] [--rounds 3]

Makes a model of 4 shards (kept between runs), then runs every contender as its own process, in turn, `--rounds`
times, with the files in the page cache: start-up and imports count. Prints the best time and the peak memory of each,
and the ratios that the project promises; exits 1 when one is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHARDS = 4
MAX_OF_MODEL_SIGNING = 0.85
MAX_OF_HASHLIB, EXTRA_SECONDS = 1.15, 0.3
MAX_RSS_MB = 600

OURS_SIGN = """
import sys; from pathlib import Path
from cli.sign import SignRequest, sign
sign(SignRequest(Path(sys.argv[1]), Path(sys.argv[2]) / "key.pem", signature=Path(sys.argv[2]) / "ours.sig"))
"""
OURS_VERIFY = """
import sys; from pathlib import Path
from cli.verify import VerifyRequest, verify
folder = Path(sys.argv[2])
assert verify(VerifyRequest(Path(sys.argv[1]), signature=folder / "ours.sig", public_key=folder / "key.pub")).verified
"""
THEIRS_SIGN = """
import sys; from pathlib import Path
from model_signing import signing
folder = Path(sys.argv[2])
signing.Config().use_elliptic_key_signer(private_key=folder / "key.pem").sign(Path(sys.argv[1]), folder / "theirs.sig")
"""
THEIRS_VERIFY = """
import sys; from pathlib import Path
from model_signing import verifying
folder = Path(sys.argv[2])
config = verifying.Config().use_elliptic_key_verifier(public_key=folder / "key.pub")
config.verify(Path(sys.argv[1]), folder / "theirs.sig")
"""
TWO_THREADS = """
import hashlib, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
def digest(path):
    hasher, buffer = hashlib.sha256(), bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(memoryview(buffer)[:count])
    return hasher.digest()
with ThreadPoolExecutor(2) as pool:
    list(pool.map(digest, sorted(p for p in Path(sys.argv[1]).iterdir())))
"""
CONTENDERS = {
    "sign, ours": OURS_SIGN,
    "sign, model-signing": THEIRS_SIGN,
    "verify, ours": OURS_VERIFY,
    "verify, model-signing": THEIRS_VERIFY,
    "two hashlib threads": TWO_THREADS,
}


@dataclass(frozen=True)
class Run:
    seconds: float
    cpu_seconds: float
    peak_mb: float


def make_model(folder: Path, size_bytes: int) -> Path:
    model = folder / f"model-{size_bytes}"
    model.mkdir(parents=True, exist_ok=True)
    block = os.urandom(1 << 24)
    for number in range(1, SHARDS + 1):
        path = model / f"model-{number:05}-of-{SHARDS:05}.safetensors"
        if not path.exists() or path.stat().st_size != size_bytes // SHARDS:
            with open(path, "wb") as file:
                left = size_bytes // SHARDS
                while left:
                    left -= file.write(block[:left])
    (model / "config.json").write_text("{}")
    return model


def make_key(folder: Path) -> None:
    from registry.signing.keys import generate, write_private_key

    key = generate()
    (folder / "key.pem").unlink(missing_ok=True)
    write_private_key(folder / "key.pem", key, None)
    (folder / "key.pub").write_text(key.public.pem)


def measure(code: str, arguments: Sequence[str]) -> Run:
    """Time one process from start to end; its own peak memory comes from the kernel."""
    started = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-W", "ignore", "-c", code, *arguments], os.environ)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"a contender failed with status {status}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, required=True, help="where the model is made; needs its size in disk space"
    )
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = make_model(options.folder, int(options.gib * 2**30) // SHARDS * SHARDS)
    make_key(options.folder)
    arguments = (str(model), str(options.folder))
    measure(TWO_THREADS, arguments)  # fills the page cache
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"note: others keep this machine busy (load {load:.1f}); times are only good on a quiet one")
    runs: dict[str, list[Run]] = {name: [] for name in CONTENDERS}
    for _ in range(options.rounds):
        for name, code in CONTENDERS.items():
            runs[name].append(measure(code, arguments))
    return report(runs)


def report(runs: dict[str, list[Run]]) -> int:
    best = {name: min(run.seconds for run in done) for name, done in runs.items()}
    for name, done in runs.items():
        times = " ".join(f"{run.seconds:6.2f}" for run in done)
        cpu, peak = min(run.cpu_seconds for run in done), max(run.peak_mb for run in done)
        print(f"{name:24} best {best[name]:6.2f} s   cpu {cpu:5.2f} s   peak {peak:4.0f} MB   all {times}")
    missed = 0
    hashing = best["two hashlib threads"]
    for job in ("sign", "verify"):
        ours, theirs = best[f"{job}, ours"], best[f"{job}, model-signing"]
        allowed = MAX_OF_HASHLIB * hashing + EXTRA_SECONDS
        peak = max(run.peak_mb for run in runs[f"{job}, ours"])
        missed += line(f"{job}: of model-signing", ours / theirs, MAX_OF_MODEL_SIGNING)
        missed += line(f"{job}: of {MAX_OF_HASHLIB} x hashlib + {EXTRA_SECONDS} s", ours / allowed, 1.0)
        missed += line(f"{job}: peak memory in MB", peak, MAX_RSS_MB)
    return 1 if missed else 0


def line(what: str, value: float, bar: float) -> int:
    print(f"{'ok    ' if value <= bar else 'MISSED'} {what}: {value:.2f} (at most {bar})")
    return int(value > bar)


if __name__ == "__main__":
    sys.exit(main())
