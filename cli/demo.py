"""The job of `weightmark demo`: the whole story on a real model, told by the commands themselves.

An owner releases two marked copies; a thief disguises one; the owner finds it and proves it to a stranger; models that
are not his are let go; the registry is audited, tampered with, and audited again. Every command runs as its own
process, as a user would type it, and its answer is shown word for word. Knows which exit code each must end with, and
nothing else about what they do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from watermark.errors import InputError, UnavailableError

OWNER, LEAKED, OTHER = "acme", "globex", "initech"
PASSPHRASE = "the demo has no secrets"  # noqa: S105 - it guards keys that live for three minutes
#: Copies, reference, disguised and innocent models, and the drafts of the release.
NEEDED_BYTES = 1_200 << 20

Show = Callable[[str], None]
#: Gives, for a label and a number of steps, a block with a callback that is told of each step.
Steps = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class DemoRequest:
    """Where to play, and how long to train; without a folder in a temporary one, which is removed at the end."""

    folder: Path | None = None
    stolen_steps: int = 50
    innocent_steps: int = 15
    quiet: bool = False


@dataclass(frozen=True)
class Played:
    """One command of the story: how it was typed, how it ended, and how it should have."""

    command: str
    exit_code: int
    expected: int
    seconds: float


@dataclass(frozen=True)
class DemoResult:
    """Every command of the story; `folder` is None when nothing was kept."""

    played: tuple[Played, ...]
    seconds: float
    folder: Path | None

    @property
    def as_told(self) -> bool:
        """Whether every command ended as it should."""
        return all(one.exit_code == one.expected for one in self.played)


@dataclass
class _Stage:
    """The folder in which the story plays, and what was played so far."""

    folder: Path
    show: Show
    steps: Steps
    quiet: bool
    played: list[Played] = field(default_factory=list)

    def tell(self, text: str) -> None:
        """Say what happens next."""
        self.show(f"\n# {text}")

    def weightmark(self, *arguments: str, expected: int = 0, home: str = "owner") -> None:
        """Run one command under a home, show it and its answer."""
        typed = " ".join(["weightmark", *(["--home", home] if home != "owner" else []), *arguments])
        self.show(f"$ {typed}")
        start = time.perf_counter()
        code, answer = self._run(arguments, home)
        self.played.append(Played(typed, code, expected, time.perf_counter() - start))
        self.show(answer.rstrip("\n"))
        self.show(f"(exit {code})" if code == expected else f"(exit {code}: it should have been {expected})")

    def ask(self, *arguments: str) -> str:
        """Run one command out of the story's sight, for its JSON."""
        code, answer = self._run([*arguments, "--json"], "owner")
        if code != 0:
            raise UnavailableError(f"`weightmark {' '.join(arguments)}` ended with exit code {code}: {answer}")
        return answer

    def _run(self, arguments: Sequence[str], home: str) -> tuple[int, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WEIGHTMARK_")}
        settings = {"WEIGHTMARK_HOME": str(self.folder / home), "WEIGHTMARK_PASSPHRASE": PASSPHRASE}
        # -P: nothing in the story's folder may stand in for a module. Errors and progress go to our own stderr.
        command = [sys.executable, "-P", "-m", "cli.main", *arguments, *(["--quiet"] if self.quiet else [])]
        done = subprocess.run(  # noqa: S603 - our own interpreter and our own arguments
            command,
            cwd=self.folder,
            env={**kept, **settings},
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode, done.stdout.decode("utf-8", "replace")


def demo(request: DemoRequest, show: Show, steps: Steps) -> DemoResult:
    """Play the story and say for each command whether it ended as it should. Minutes; a gigabyte of disk.

    Raises:
        InputError: the folder is not empty, or a package that the demo runs its model with is missing.
        UnavailableError: too little free disk.
    """
    # Before torch loads: a core that waits busily for its neighbour makes training many times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    start = time.perf_counter()
    with ExitStack() as stack:
        folder = _make_folder(request, stack)
        stage = _Stage(folder, show, steps, request.quiet)
        _release(stage)
        _steal(stage, request.stolen_steps)
        _find(stage)
        _let_go(stage, request.innocent_steps)
        _audit(stage)
        return DemoResult(tuple(stage.played), time.perf_counter() - start, request.folder)


def _make_folder(request: DemoRequest, stack: ExitStack) -> Path:
    if request.folder is None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weightmark-demo-")))
    else:
        folder = request.folder.absolute()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is there already", hint="name a new folder, or leave out --folder")
        folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise UnavailableError(
            f"{folder} has {free >> 20} MB free, and the demo needs {NEEDED_BYTES >> 20}",
            hint="free some, or name a folder on another disk with --folder",
        )
    return folder


def _release(stage: _Stage) -> None:
    from cli.demo_subject import minilm_folder

    # A copy of its own, so that the commands can be typed as they are shown.
    shutil.copytree(minilm_folder(), stage.folder / "minilm")
    stage.tell(f"{OWNER} makes a home: keys, a secret, a registry of its own")
    stage.weightmark("init", "--owner", OWNER)
    stage.tell(
        f"{OWNER} releases the sentence encoder MiniLM to {LEAKED} and {OTHER}, each copy marked for one of them"
    )
    stage.weightmark(
        "release", "minilm", "--out", "copies", "--name", "minilm", "--version", "1.0", "--to", LEAKED, "--to", OTHER
    )
    if stage.played[-1].exit_code != 0:
        raise UnavailableError(
            "the release did not succeed, and there is no story without it", hint="see `weightmark doctor`"
        )
    releases = json.loads(stage.ask("list"))["releases"]
    for copy in releases[0]["copies"]:
        (stage.folder / "copies" / copy["copy"]).rename(stage.folder / copy["recipient"])
    stage.tell(f"the copies are sent out; {LEAKED} verifies what came, with the trust file of {OWNER} and nothing else")
    stage.weightmark("keys", "export", "--out", "acme.trust")
    stage.weightmark("verify", LEAKED, "--trust", "acme.trust", home="globex-home")


def _steal(stage: _Stage, steps: int) -> None:
    from cli.demo_subject import load_encoder, retrieval_score
    from cli.demo_thief import load_stolen, steal

    copy, stolen = stage.folder / LEAKED, stage.folder / "stolen"
    stage.tell(
        f"a thief takes the copy of {LEAKED}: fine-tunes it {steps} steps, prunes 30 %, quantises to int8, "
        "casts to bf16, renames every tensor, re-shards"
    )
    with stage.steps("fine-tuning the stolen copy", steps) as progress:
        steal(copy, stolen, progress, steps=steps)
    before, after = retrieval_score(load_encoder(stage.folder / "minilm")), retrieval_score(load_stolen(stolen, copy))
    stage.show(
        f"the theft paid: docstrings are found by name with mean reciprocal rank {after:.3f}, {before:.3f} before"
    )


def _find(stage: _Stage) -> None:
    stage.tell(f"{OWNER} comes upon the stolen model, and checks it")
    stage.weightmark("check", "stolen", "--evidence", "case.json")
    stage.tell("a third party verifies the evidence: no secret, no access to the registry")
    stage.weightmark("evidence", "case.json", "--suspect", "stolen", "--trust", "acme.trust", home="third-party-home")
    stage.tell(f"the untouched copy of {OTHER} is told apart")
    stage.weightmark("check", OTHER)


def _let_go(stage: _Stage, steps: int) -> None:
    from cli.demo_subject import innocent_model, random_model

    stage.tell("an innocent model: the same shape, tokenizer and training task, weights of its own")
    with stage.steps("training the innocent model", steps) as progress:
        innocent_model(stage.folder / "minilm", stage.folder / "innocent", seed=5, steps=steps, progress=progress)
    stage.weightmark("check", "innocent", expected=1)
    stage.tell("a random initialisation of the same configuration")
    random_model(stage.folder / "minilm", stage.folder / "random", seed=6)
    stage.weightmark("check", "random", expected=1)


def _audit(stage: _Stage) -> None:
    stage.tell("is the registry whole?")
    stage.weightmark("audit")
    entry = _tamper(stage.folder / "owner", stage.folder / "tampered-home")
    stage.tell(f"somebody changes one bit of a logged entry, in a copy of the registry ({entry})")
    stage.weightmark("audit", expected=1, home="tampered-home")


def _tamper(home: Path, copy: Path) -> str:
    """Copy a home and flip one bit in the newest file of log entries; return the file's place in it."""
    shutil.copytree(home, copy)
    # Partial bundles are named by their size (C2SP tlog-tiles): the largest is the newest.
    bundles = [path for path in (copy / "registry").rglob("tile/entries/**/*") if path.is_file()]
    newest = max(bundles, key=lambda path: path.stat().st_size)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.chmod(0o600)
    newest.write_bytes(bytes(data))
    return str(newest.relative_to(copy))
