"""Files and folders that are swapped while they are read: one content or an error, and never one from outside."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from watermark.errors import InputError
from watermark.model.directory import open_model
from watermark.model.dtypes import dtype
from watermark.model.safetensors import write_safetensors

pytestmark = pytest.mark.slow

ROUNDS = 1_000
SIZE = 32 * 1024


@contextmanager
def swapping(swap: Callable[[], None]) -> Iterator[None]:
    """Swap over and over in another thread."""
    stop = threading.Event()

    def run() -> None:
        # Now and then a pause, so that there is time for a whole read as well as for a broken one.
        rng = random.Random(1)
        while not stop.wait(rng.random() * 0.004):
            swap()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def write_letter(path: Path, letter: bytes) -> None:
    write_safetensors(path, [(name, dtype("U8"), (SIZE,), letter * SIZE) for name in ("first", "second")])


def read_letters(folder: Path) -> str:
    """Read a model as a job does, and say which letters it is made of, or that it was refused."""
    try:
        with open_model(folder) as model:
            (shard,) = model.shards
            parts = [model.read(tensor, 0, tensor.nbytes) for tensor in model.tensors.values()]
            with model.open_file(shard) as file:
                parts.append(file.read()[-2 * SIZE :])
            model.verify_unchanged()
            return "".join(sorted(chr(letter) for letter in set(b"".join(parts))))
    except InputError:
        return "refused"


def test_swapped_weight_file_gives_one_content_or_an_error(tmp_path: Path) -> None:
    folder, spare = tmp_path / "model", tmp_path / "spare"
    folder.mkdir()
    spare.mkdir()
    write_letter(folder / "model.safetensors", b"A")
    write_letter(spare / "model.safetensors", b"B")

    def swap() -> None:
        for source, target in (
            (folder / "model.safetensors", spare / "held"),
            (spare / "model.safetensors", folder / "model.safetensors"),
            (spare / "held", spare / "model.safetensors"),
        ):
            os.rename(source, target)

    with swapping(swap):
        outcomes = Counter(read_letters(folder) for _ in range(ROUNDS))
    assert outcomes.keys() <= {"A", "B", "refused"}
    assert outcomes["refused"] > 0
    assert outcomes["A"] > 0


def test_weight_file_swapped_for_a_link_never_leads_out(tmp_path: Path) -> None:
    folder, outside = tmp_path / "model", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    write_letter(tmp_path / "inside", b"A")
    write_letter(outside / "model.safetensors", b"S")

    def swap() -> None:
        os.symlink(outside / "model.safetensors", tmp_path / "link")
        os.rename(tmp_path / "link", folder / "model.safetensors")
        os.link(tmp_path / "inside", tmp_path / "file")
        os.rename(tmp_path / "file", folder / "model.safetensors")

    swap()
    with swapping(swap):
        outcomes = Counter(read_letters(folder) for _ in range(ROUNDS))
    assert outcomes.keys() <= {"A", "refused"}
    assert outcomes["refused"] > 0
    assert outcomes["A"] > 0


def test_folder_swapped_for_a_link_never_leads_out(tmp_path: Path) -> None:
    folder, outside = tmp_path / "model", tmp_path / "outside"
    (folder / "part").mkdir(parents=True)
    outside.mkdir()
    write_letter(folder / "part" / "model.safetensors", b"A")
    write_letter(outside / "model.safetensors", b"S")

    def swap() -> None:
        os.rename(folder / "part", tmp_path / "held")
        os.symlink(outside, folder / "part")
        os.unlink(folder / "part")
        os.rename(tmp_path / "held", folder / "part")

    with swapping(swap):
        outcomes = Counter(read_letters(folder) for _ in range(ROUNDS))
    assert outcomes.keys() <= {"A", "refused"}
    assert outcomes["refused"] > 0
    assert outcomes["A"] > 0
