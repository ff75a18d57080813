"""How often the owner of a mark can go to court with it, and whether other machines find the same numbers.

    python -m scripts.bench_evidence [--part cases machines] [--cases 80] [--noise 0.1]

`cases`: a model of 2.1 million carriers is released to nobody in particular, and again to a recipient; suspects are
copies with noise of a tenth of each row's deviation. Cases are logged, opened and verified as a stranger does it, until
the blocks are used up: prints how many held and what they opened. Bar: 64 cases of the owner's layer, none refused.
`machines`: the same check in processes that are told to be other machines (other instruction sets for torch, numpy and
BLAS, other numbers of threads). Bar: log2 p the same to the last bit where nothing is aligned, within 1 % where it is.
Exits 1 when a bar is missed. Two to four seconds a case, eight a machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from cli.evidence import EvidenceRequest, verify_evidence
from cli.evidence_file import read_evidence
from cli.home import Home
from tests.attacks.victims import composition, state_of
from tests.cli.owners import PASSPHRASE, check_suspect, make_home, make_release
from watermark.attacks.interface import State
from watermark.attacks.noise import gaussian
from watermark.errors import WeightmarkError
from watermark.model.torch_state import load_state, save_state

WIDTH, MATRICES = 512, 8
CASES, CLOSE = 64, 0.01
#: What a process is told to be; an x86 core of 2009 knows no AVX.
MACHINES: dict[str, dict[str, str]] = {
    "this one": {},
    "one thread": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    "BLAS of 2013 (Haswell)": {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2"},
    "no AVX (Nehalem)": {
        "OPENBLAS_CORETYPE": "Nehalem", "ATEN_CPU_CAPABILITY": "default", "NUMBA_CPU_NAME": "nehalem",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
    },
}  # fmt: skip


def drawn_model(folder: Path, seed: int) -> Path:
    """A model of 2.1 million weights, drawn and not trained: what a case costs does not depend on training."""
    stream = torch.Generator().manual_seed(seed)
    save_state(folder, {f"layer.{n}.weight": torch.randn(WIDTH, WIDTH, generator=stream) for n in range(MATRICES)})
    return folder


def cases(folder: Path, count: int, noise: float, recipients: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """Go to court again and again: a line for each case, and whether it held; ends where blocks are used up."""
    home = make_home(folder / "home")
    out = make_release(home, drawn_model(folder / "model", 1), folder / "out", recipients=recipients).copies[0].out
    state = load_state(Path(out))
    for number in range(count):
        suspect = folder / f"suspect-{number}"
        save_state(suspect, gaussian(state, sigma=noise, seed=number))
        file = folder / "case.json"
        try:
            check_suspect(home, suspect, evidence=file)
        except WeightmarkError as error:
            yield f"case {number + 1}: refused: {error}", False
            return
        body, _, _ = read_evidence(file.read_bytes())
        found = verify_evidence(EvidenceRequest(file, Path("/nowhere"), suspect, None, home.trust_path))
        layer = "owner's layer" if body.copy is None else "recipient"
        yield (
            f"case {number + 1}: {layer}, {found.blocks} blocks, {file.stat().st_size / 1e3:,.0f} kB, "
            f"{-found.log2_p_adjusted:,.0f} bits, holds: {found.holds}",
            found.holds,
        )
        file.unlink()
        shutil.rmtree(suspect)


def log2_p_on(machine: str, home: Home, suspect: Path) -> tuple[str, float]:
    """The verdict and log2 p that a process finds which is told to be this machine."""
    told = {**os.environ, **MACHINES[machine], "WEIGHTMARK_PASSPHRASE": PASSPHRASE.decode()}
    command = [sys.executable, "-m", "cli.main", "check", str(suspect), "--home", str(home.path), "--json", "--quiet"]
    answer = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    found = json.loads(answer.stdout)
    if "verdict" not in found:
        raise RuntimeError(f"{machine}: {answer.stdout}{answer.stderr}")
    return found["verdict"], found["log2_p"]


def machines(folder: Path) -> Iterator[tuple[str, bool]]:
    """A line for each machine and suspect, and whether it is near enough to what this one finds."""
    home = make_home(folder / "home")
    save_state(folder / "model", state_of("llama"))
    copy = Path(make_release(home, folder / "model", folder / "out", recipients=("Globex",)).copies[0].out)
    state = load_state(copy)
    suspects: dict[str, State] = {
        "noise 20 %": gaussian(state, sigma=0.2, seed=1),
        "all at once, aligned": composition("llama", 3)[1](gaussian(state, sigma=0.2, seed=1), 3),
    }
    for name, suspect in suspects.items():
        save_state(folder / name, suspect)
        first = None
        for machine in MACHINES:
            verdict, log2_p = log2_p_on(machine, home, folder / name)
            first = log2_p if first is None else first
            apart = abs(log2_p / first - 1)
            yield (
                f"{name}: {machine}: {verdict}, log2 p {log2_p!r}, {apart:.2%} apart",
                apart <= (CLOSE if name.endswith("aligned") else 0),
            )


def main() -> int:
    """Print the lines; 0 when the bars are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="*", choices=("cases", "machines"), default=("cases", "machines"))
    parser.add_argument("--cases", type=int, default=80)
    parser.add_argument("--noise", type=float, default=0.1)
    asked = parser.parse_args()
    kept = True
    for recipients in ((), ("Globex",)) if "cases" in asked.part else ():
        with tempfile.TemporaryDirectory() as folder:
            print(f"released to {', '.join(recipients) or 'nobody in particular'}")
            held = []
            for line, holds in cases(Path(folder), asked.cases, asked.noise, recipients):
                print(line, flush=True)
                held.append(holds)
            print(f"{sum(held)} held of {len(held)} asked\n", flush=True)
            kept = kept and (bool(recipients) or (all(held[:CASES]) and sum(held) >= min(CASES, asked.cases)))
    if "machines" in asked.part:
        with tempfile.TemporaryDirectory() as folder:
            for line, is_near in machines(Path(folder)):
                print(line, flush=True)
                kept = kept and is_near
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
