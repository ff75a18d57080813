"""What a mark in integer codes shows and costs, on MiniLM's real weights in the packed forms that can be released.

    python -m scripts.bench_packed_release --folder DIR [--forms NAME...]

Packs every matrix of MiniLM, its vocabulary among them, releases that to one recipient, and prints how many codes
moved, what the mark shows in the copy and in what a thief makes of it, and the mean cosine of 200 sentences: of the
packed model to the original, of the marked copy to the original, and of the marked copy to the packed model. The
unmarked packed model and a packed model of random weights must never be called ours; 1 when a verdict is wrong. About
five seconds a check.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from cli.demo_subject import SentenceEncoder, load_encoder, mean_cosine
from cli.demo_texts import sentences
from cli.home import Home
from cli.verdict import CheckResult
from tests import packed_files
from tests.cli.owners import check_suspect, make_home, make_release
from tests.packed_files import Packer
from tests.subjects import minilm_folder, random_minilm
from watermark.attacks.interface import State
from watermark.attacks.precision import int4_groups
from watermark.model.suspect import open_suspect
from watermark.model.torch_state import load_state, save_state

FORMS: dict[str, Packer] = {
    "bitsandbytes, int8": packed_files.int8,
    "compressed-tensors, int8, groups of 128": packed_files.compressed(8, group=128),
    "compressed-tensors, int4, groups of 128": packed_files.compressed(4, group=128),
    "compressed-tensors, int3, groups of 128": packed_files.compressed(3, group=128),
}


def is_packed(values: torch.Tensor) -> bool:
    """Whether a tensor is a matrix of more than a few rows."""
    return values.dim() == 2 and len(values) >= 32


def packed(state: State, pack: Packer) -> State:
    """Every matrix of more than a few rows in packed form; all else as it is."""
    changed: State = {}
    for name, values in state.items():
        if is_packed(values):
            parts, _ = pack(values.float().numpy())
            changed |= {name.removesuffix(".weight") + suffix: part for suffix, part in parts.items()}
        else:
            changed[name] = values
    return changed


def weights_of(folder: Path) -> State:
    """What a loader computes with."""
    with open_suspect(folder) as model:
        return {
            name: torch.tensor(model.values(tensor, 0, tensor.count)).reshape(tensor.shape)
            for name, tensor in model.weights.items()
        }


def moved_share(before: State, after: State) -> float:
    """Share of the weights of all matrices that differ."""
    pairs = [(before[name], after[name]) for name in before if is_packed(before[name])]
    pairs = [(ours, theirs) for ours, theirs in pairs if not torch.equal(ours, theirs)]
    return sum(int((ours != theirs).sum()) for ours, theirs in pairs) / sum(ours.numel() for ours, _ in pairs)


def bits(found: CheckResult) -> str:
    """What a verdict rests on, after multiplicity."""
    return f"{abs(found.log2_p_adjusted or 0.0):,.0f}"


def look(home: Home, folder: Path, state: State) -> CheckResult:
    """Check a state dict as a suspect of its own."""
    save_state(folder, state)
    found = check_suspect(home, folder)
    shutil.rmtree(folder)
    return found


def measure(name: str, encoder: SentenceEncoder, random: State, folder: Path) -> tuple[tuple[str, ...], bool]:
    """One row of the table, and whether every verdict in it is right."""
    texts = sentences()
    plain = encoder.embed(texts)
    pack = FORMS[name]
    save_state(folder / "packed", packed(load_state(minilm_folder()), pack))
    home = make_home(folder / "home")
    made = make_release(home, folder / "packed", folder / "copy", recipients=("Globex",))
    before, after = weights_of(folder / "packed"), weights_of(folder / "copy")
    rounded, marked = (encoder.with_state(state).embed(texts) for state in (before, after))
    itself = check_suspect(home, folder / "copy")
    floats = {name: values for name, values in after.items() if name in encoder.module.state_dict()}
    again = look(home, folder / "suspect", int4_groups(floats))
    innocents = check_suspect(home, folder / "packed"), look(home, folder / "suspect", packed(random, pack))
    is_right = all((found.verdict, found.recipient) == ("ours", "Globex") for found in (itself, again))
    is_right &= innocents[0].verdict == "related" and innocents[1].verdict in ("not-shown", "no-power")
    blind = min((-test.log2_p for test in itself.tests if test.name == "blind" and test.log2_p), default=0.0)
    recipient = next((-test.log2_p for test in itself.tests if test.name == "recipient code" and test.log2_p), 0.0)
    costs = (mean_cosine(plain, rounded), mean_cosine(plain, marked), mean_cosine(rounded, marked))
    return (
        name,
        f"{made.carriers:,}",
        f"{made.strength:.3%}",
        f"{moved_share(before, after):.1%}",
        *(f"{cost:.5f}" for cost in costs),
        f"{-made.expected_log2_p:,.0f} / {blind:,.0f}",
        bits(itself),
        f"{recipient:,.0f}",
        bits(again),
        ", ".join(f"{found.verdict} ({bits(found)})" for found in innocents),
    ), is_right


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 when every verdict is right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=tuple(FORMS))
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    encoder, random = load_encoder(minilm_folder()), load_state(random_minilm(folder / "random"))
    print("| form | carriers | strength | moved | packed : original | marked : original | marked : packed "
          "| blind, predicted / found | bits | recipient | bits after int4 | unmarked, random weights |")  # fmt: skip
    print("|" + "---|" * 12, flush=True)
    wrong = 0
    for number, name in enumerate(arguments.forms):
        cells, is_right = measure(name, encoder, random, folder / str(number))
        wrong += not is_right
        print("| " + " | ".join(cells) + " |", flush=True)
        shutil.rmtree(folder / str(number))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
