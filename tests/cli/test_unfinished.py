"""A release that was killed goes on where it was; whatever is not its own work is thrown away."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from cli import copies
from cli.home import Home
from cli.unfinished import Unfinished, identity_of, unfinished_folder, work_beside
from tests.cli.owners import make_home, make_release
from tests.cli.test_release_job import files_of
from tests.watermark.marks.models import random_weights
from watermark.errors import ConflictError
from watermark.marks.weights import Embedder
from watermark.model import rewrite
from watermark.model.dtypes import dtype
from watermark.model.rewrite import Finished
from watermark.model.safetensors import write_safetensors

WORK = identity_of(root="ab", copies=["Globex"])
SHARDS = {"model-1.safetensors": ("up", "bias"), "model-2.safetensors": ("down",), "model-3.safetensors": ("mix",)}
TO = ("Globex", "Initech")


def write_shards(folder: Path, weights: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for shard, names in SHARDS.items():
        stored = [(name, dtype("F32"), weights[name].shape, weights[name].tobytes()) for name in names]
        write_safetensors(folder / shard, stored)
    index = {"weight_map": {name: shard for shard, names in SHARDS.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("unfinished") / "home")


@contextmanager
def interrupted(target: Path) -> Iterator[Unfinished]:
    """Work that is left in the midst."""
    with suppress(KeyboardInterrupt), work_beside(target, WORK) as work:
        yield work
        raise KeyboardInterrupt


def killed_release(home: Home, model: Path, out: Path, tensors: int) -> None:
    """Release in a process of its own, which is killed when so many tensors have been noted."""
    child = os.fork()
    if child == 0:
        try:
            note, noted = Unfinished.finish, []

            def finish(self: Unfinished, shard: str, done: dict[str, Finished]) -> None:
                note(self, shard, done)
                noted.extend(done)
                if len(noted) >= tensors:
                    os.kill(os.getpid(), signal.SIGKILL)

            Unfinished.finish = finish  # type: ignore[method-assign, assignment]
            rewrite._NOTE_BYTES = 0  # type: ignore[misc]
            make_release(home, model, out, recipients=TO)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.slow  # scrypt costs a second at each unlocking and each mark
def test_after_a_kill_the_same_command_goes_on_and_other_work_begins_anew(
    owner: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = random_weights(seed=41)
    model, out = write_shards(tmp_path / "model", weights), tmp_path / "out"
    killed_release(owner, model, out, tensors=3)
    assert not out.exists()
    begun = unfinished_folder(out)
    assert sorted(path.name for path in (begun / "0").iterdir()) == ["config.json", *list(SHARDS)[:2]]

    # Whatever else is asked for under this name does not take it over. Stopped where it would begin to write.
    shutil.copytree(begun, tmp_path / "as it was")
    seen: list[bool] = []

    def stop(work: copies.Work, *, is_resumed: bool) -> Path:
        seen.append(is_resumed)
        raise KeyboardInterrupt

    swapped = write_shards(tmp_path / "swapped", {**weights, "up": -weights["up"]})
    others = [(model, {"recipients": ("Globex", "Umbrella")}), (model, {"recipients": TO, "strength": 0.03})]
    with monkeypatch.context() as stopped:
        stopped.setattr(copies, "_keep_reference", stop)
        for source, fields in (*others, (swapped, {"recipients": TO})):
            with pytest.raises(KeyboardInterrupt):
                make_release(owner, source, out, **fields)
            assert {path.name for path in begun.iterdir()} == {"lock", "notes"}
            shutil.rmtree(begun)
            shutil.copytree(tmp_path / "as it was", begun)
    assert seen == [False, False, False]

    marked: list[str] = []
    mark = Embedder.mark

    def spied(self: Embedder, span: rewrite.Span, *rest: object) -> rewrite.NewBytes:
        marked.append(span.tensor.name)
        return mark(self, span, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as watched:
        watched.setattr(Embedder, "mark", spied)
        made = make_release(owner, model, out, recipients=TO)
    assert set(marked) == {"mix"}
    assert not begun.exists()
    again = make_release(owner, model, tmp_path / "again", recipients=TO)
    assert files_of(out) == files_of(tmp_path / "again")
    assert made.max_weight_change == again.max_weight_change > 0


def test_notes_hold_until_the_first_line_that_is_torn(tmp_path: Path) -> None:
    done = {name: Finished((name.encode() * 16, b"x" * 32), 0.25) for name in ("a1", "b2", "c3")}
    folder = unfinished_folder(tmp_path / "out")
    with interrupted(tmp_path / "out") as work:
        assert not work.is_resumed
        work.finish("s", done)
        work.finish("t", {"d4": done["a1"]})
        work.pieces(b"\x01")["part 0"] = b"kept"
        for name in ("s", "t", "stray"):
            (folder / "0").mkdir(exist_ok=True)
            (folder / "0" / name).write_bytes(b"1")
    with interrupted(tmp_path / "out") as work:
        assert work.is_resumed
        assert work.finished("s") == done
        assert dict(work.pieces(b"\x01")) == {"part 0": b"kept"}
        assert not work.pieces(b"\x02")
        assert sorted(path.name for path in (folder / "0").iterdir()) == ["s", "t"]  # the stray one would ship
    notes = (folder / "notes").read_bytes()
    (folder / "notes").write_bytes(notes.replace(b'"b2"', b'"b3"'))
    with work_beside(tmp_path / "out", WORK) as work:
        assert list(work.finished("s")) == ["a1"]
        assert not work.finished("t")
    assert not folder.exists()


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A target, and work on it that was interrupted."""
    with interrupted(tmp_path / "out") as work:
        work.finish("s", {"w": Finished((b"x" * 32,), 0.0)})
    return tmp_path / "out"


def test_two_at_once_are_refused_and_an_error_leaves_nothing(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.unfinished._WAIT_SECONDS", 0.0)
    with work_beside(begun, WORK) as work:
        with pytest.raises(ConflictError, match="another release"), work_beside(begun, WORK):
            pass
        assert work.finished("s")
        with work_beside(begun.with_name("other"), WORK):
            pass
    with pytest.raises(ValueError, match="broken"), work_beside(begun, WORK):
        raise ValueError("broken")
    assert list(begun.parent.iterdir()) == []


def test_work_of_another_form_and_links_are_not_taken_over(begun: Path, tmp_path: Path) -> None:
    folder = unfinished_folder(begun)
    with work_beside(begun, identity_of(root="ac", copies=["Globex"])) as work:
        assert not work.is_resumed
        assert {path.name for path in folder.iterdir()} == {"lock", "notes"}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("mine")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConflictError, match="no working folder"), work_beside(begun, WORK):
        pass
    assert (tmp_path / "elsewhere" / "mine").read_text() == "mine"
