"""Each storage and SQL call of an append, failed once: nothing acknowledged is lost, and the log goes on by itself."""

from __future__ import annotations

import gc
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.monitor import audit
from registry.store.embedded import EmbeddedRegistry
from tests.faults.injection import Fault, Killed, injected
from tests.registry.example_log import LOG_KEY, ORIGIN, make_folder, release_entry, some_entries
from watermark.errors import OutcomeUnknownError, UnavailableError

pytestmark = pytest.mark.slow  # scrypt costs a second at each unlocking and each mark

BATCH = [release_entry(1000), release_entry(1001)]
LAST = release_entry(1002)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory where there is one: the calls are the same, and hundreds of syncs cost no disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def older_objects_left_alone() -> Iterator[None]:
    """A killed process is played by objects that nobody closes; without this, finding them walks all that torch loaded.

    In a process that has run half the suite, each of hundreds of collections took 0.8 s.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def check(folder: Path, before: list[bytes], acknowledged: dict[bytes, int]) -> None:
    """Reopen, recover, go on: acknowledged entries are there once, the log is whole, the same append succeeds."""
    known = len(before)
    with EmbeddedRegistry.open(folder, LOG_KEY) as registry:
        assert registry.size in (known, known + len(BATCH))
        assert list(registry.entries(0, known)) == before
        for entry, index in acknowledged.items():
            assert registry.entry(index) == entry
            assert registry.find(hashlib.sha256(entry).digest()) == index
        assert [receipt.index for receipt in registry.append([*BATCH, LAST])] == [known, known + 1, known + 2]
        assert registry.size == known + 3
        result = audit(folder, [registry.vkey])
    assert result.whole, result.findings


def run(folder: Path, fault: Fault) -> dict[bytes, int]:
    """Open and append, as a process would, until the fault ends it; what was acknowledged."""
    with injected(fault):
        registry = EmbeddedRegistry.open(folder, LOG_KEY)
        try:
            receipts = registry.append(BATCH)
        finally:
            registry.close()
    return {entry: receipt.index for entry, receipt in zip(BATCH, receipts, strict=True)}


def sweep(place: Path, start: Path, before: list[bytes], *, kill: bool, after: bool, stride: int = 1) -> int:
    """Fail call 1, 2, 3, ... (or every so many-th) until none fails; about how many there were."""
    for at in range(1, 1000, stride):
        folder = Path(shutil.copytree(start, place / f"log{at}"))
        fault = Fault(at, kill, after)
        acknowledged: dict[bytes, int] = {}
        try:
            acknowledged = run(folder, fault)
        except Killed:
            assert kill
        except (UnavailableError, OutcomeUnknownError):
            assert not kill
        gc.collect()
        check(folder, before, acknowledged)
        shutil.rmtree(folder)
        if not fault.reached:
            return at - 1
    raise AssertionError("the sweep does not end")


MODES = [(kill, after) for kill in (False, True) for after in (False, True)]
STRIDES = pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
"""Some calls in the quick run, every call in the full one."""


@STRIDES
@pytest.mark.parametrize(("kill", "after"), MODES)
def test_every_call_of_an_append(place: Path, kill: bool, after: bool, stride: int) -> None:
    start = make_folder(place / "start", some_entries(2))
    assert sweep(place, start, some_entries(2), kill=kill, after=after, stride=stride) > 50


@pytest.mark.slow
@pytest.mark.parametrize(("kill", "after"), MODES)
def test_every_call_while_a_tile_becomes_full(place: Path, kill: bool, after: bool) -> None:
    with EmbeddedRegistry.create(place / "start", ORIGIN, LOG_KEY) as registry:
        registry.append(some_entries(254))
    assert sweep(place, place / "start", some_entries(254), kill=kill, after=after, stride=8) > 50


@pytest.mark.parametrize("stride", [17, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kill", [False, True], ids=["error", "kill"])
def test_the_registry_appears_whole_or_not_at_all(place: Path, kill: bool, stride: int) -> None:
    for at in range(1, 1000, stride):
        folder = place / f"{at}" / "log"
        fault = Fault(at, kill, after=False)
        try:
            with injected(fault):
                EmbeddedRegistry.create(folder, ORIGIN, LOG_KEY).close()
        except (Killed, UnavailableError, OutcomeUnknownError):
            gc.collect()
        if folder.exists():
            with EmbeddedRegistry.open(folder, LOG_KEY) as registry:
                assert registry.append([b"first"])[0].index == 0
        else:
            EmbeddedRegistry.create(folder, ORIGIN, LOG_KEY).close()
        if not fault.reached:
            return
    raise AssertionError("the sweep does not end")


@STRIDES
def test_after_an_error_the_same_object_goes_on_only_when_it_can(place: Path, stride: int) -> None:
    """An error in steps 3 to 5 stops the sequencer until it has caught up; then the same call gives the receipt."""
    for at in range(1, 1000, stride):
        folder = make_folder(place / f"log{at}", some_entries(2))
        with EmbeddedRegistry.open(folder, LOG_KEY) as registry:
            with injected(Fault(at, kill=False, after=False)) as fault:
                attempt(lambda registry=registry: registry.append(BATCH))
            assert [receipt.index for receipt in registry.append(BATCH)] == [2, 3]
            assert audit(folder, [registry.vkey]).whole
        if not fault.reached:
            return
    raise AssertionError("the sweep does not end")


def attempt(call: Callable[[], object]) -> None:
    try:
        call()
    except (UnavailableError, OutcomeUnknownError):
        return


def test_order_of_syncs(place: Path) -> None:
    """Each file is synced before it is renamed, its folder after, and all before the append returns."""
    trace = Fault(at=10**9, kill=False, after=False)
    folder = make_folder(place / "log", some_entries(2))
    with EmbeddedRegistry.open(folder, LOG_KEY) as registry, injected(trace):
        registry.append(BATCH)
    calls = [name for name in trace.calls if name in ("write", "fsync", "replace", "do_commit")]
    renames = [at for at, name in enumerate(calls) if name == "replace"]
    assert len(renames) == 4  # latest record, bundle, tile, published checkpoint
    for at in renames:
        assert calls[at - 2 : at + 2] == ["write", "fsync", "replace", "fsync"]
    assert calls.index("do_commit") < renames[0]
