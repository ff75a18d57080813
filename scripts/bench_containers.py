"""What a mark shows in a suspect of every container and layout that `check` reads, on MiniLM's real weights.

    python -m scripts.bench_containers --folder DIR

Releases MiniLM to one recipient, stores the copy in each container as its own tool does (ggml's encoder for GGUF), and
checks it with the command's own code; then the same for the unmarked original and for a model of random weights, which
must never be called ours. Prints a table; 1 when a verdict is wrong. About five seconds a check.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cli.verdict import CheckResult
from tests import packed_files
from tests.cli.owners import check_suspect, make_home, make_release
from tests.gguf_files import Quantisation, write_gguf
from tests.subjects import minilm_folder, random_minilm
from watermark.attacks.interface import State
from watermark.model.torch_state import load_state, save_state

GGUF = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0", "Q3_K", "Q2_K", "IQ4_XS", "IQ3_S", "IQ2_S", "IQ2_XXS",
        "IQ1_S", "MXFP4")  # fmt: skip
PACKED = {
    "GPTQ, 4 bits, act order": packed_files.gptq(act_order=True),
    "GPTQ, 3 bits": packed_files.gptq(3),
    "GPTQ, 2 bits": packed_files.gptq(2),
    "AWQ, 4 bits": packed_files.awq(),
    "compressed-tensors, 4 bits": packed_files.compressed(),
    "bitsandbytes, int8": packed_files.int8,
    "bitsandbytes, NF4": packed_files.nf4(nested=True),
    "NVFP4": packed_files.nvfp4,
    "fp8 in squares": packed_files.fp8_squares,
}
Store = Callable[[Path, State], Path]


def containers() -> Iterator[tuple[str, Store]]:
    """Each container and layout, and how a model is stored in it."""
    for name in GGUF:
        yield f"GGUF {name}", lambda path, state, name=name: write_gguf(path / "m.gguf", state, Quantisation[name])
    for name, pack in PACKED.items():

        def packed(path: Path, state: State, pack: packed_files.Packer = pack) -> Path:
            save_state(path, packed_files.packed_state(state, pack, layers=".layer."))
            return path

        yield name, packed


def bits(found: CheckResult) -> float:
    """What a verdict rests on, after multiplicity."""
    return abs(found.log2_p_adjusted or 0.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 when every verdict is right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    folder: Path = parser.parse_args(argv).folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    home = make_home(folder / "home")
    make_release(home, minilm_folder(), folder / "out", recipients=("Globex",))
    copy, original = load_state(folder / "out"), load_state(minilm_folder())
    other = load_state(random_minilm(folder / "random"))
    print("| container | size | verdict, recipient | bits, adjusted | blind | s | unmarked original | random weights |")
    print("|" + "---|" * 8, flush=True)
    wrong = 0

    def look(store: Store, state: State) -> tuple[CheckResult, float, int]:
        place = store(folder / "suspect", state)
        size = sum(file.stat().st_size for file in (folder / "suspect").iterdir())
        start = time.perf_counter()
        found = check_suspect(home, place)
        seconds = time.perf_counter() - start
        shutil.rmtree(folder / "suspect")
        return found, seconds, size

    for name, store in containers():
        found, seconds, size = look(store, copy)
        unmarked, innocent = look(store, original)[0], look(store, other)[0]
        wrong += (found.verdict, found.recipient) != ("ours", "Globex")
        wrong += unmarked.verdict == "ours" or innocent.verdict not in ("not-shown", "no-power")
        blind = min((-test.log2_p for test in found.tests if test.name == "blind"), default=0.0)
        innocents = f"{innocent.verdict} ({bits(innocent):.0f} bits)"
        shown = (f"{found.verdict}, {found.recipient}", f"{bits(found):,.0f}", f"{blind:,.0f}", f"{seconds:.1f}")
        cells = (name, f"{size / 1e6:.0f} MB", *shown, unmarked.verdict, innocents)
        print("| " + " | ".join(cells) + " |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
