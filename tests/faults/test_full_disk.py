"""A disk that fills up: refusals that say so, reads go on, and the log resumes by itself when there is space."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.monitor import audit
from registry.store.embedded import EmbeddedRegistry
from registry.store.files import DATABASE, LogFiles
from tests.registry.example_log import LOG_KEY, make_folder, release_entry, some_entries
from watermark.errors import OutcomeUnknownError, UnavailableError

Free = Callable[[], None]


@contextmanager
def small_disk(place: Path) -> Iterator[Free]:
    """A file system of 2 MiB where we may mount one, else a limit on the size of files; yields what makes room."""
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mount.returncode == 0:
        (place / "ballast").write_bytes(bytes(1 << 20))
        try:
            yield (place / "ballast").unlink
        finally:
            subprocess.run(["umount", str(place)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_an_append_into_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the early refusal, so that real calls fail wherever the space ends."""
    monkeypatch.setattr(LogFiles, "refuse_when_full", lambda self, wanted: None)
    prepared = make_folder(tmp_path / "prepared", some_entries(2))
    with small_disk(tmp_path / "disk") as make_room:
        folder = Path(shutil.copytree(prepared, tmp_path / "disk" / "log"))
        acknowledged: dict[bytes, int] = {}
        with EmbeddedRegistry.open(folder, LOG_KEY) as registry:
            refused = None
            for number in range(100, 5000):
                entry = b"%05d" % number + b"x" * 20_000
                try:
                    acknowledged[entry] = registry.append([entry])[0].index
                except (UnavailableError, OutcomeUnknownError) as error:
                    refused = (entry, error)
                    break
            assert refused is not None
            assert acknowledged
            for entry, index in acknowledged.items():
                assert registry.entry(index) == entry
            with pytest.raises((UnavailableError, OutcomeUnknownError)):
                registry.append([refused[0]])
            make_room()
            again = registry.append([refused[0], *acknowledged])
            assert [receipt.index for receipt in again[1:]] == list(acknowledged.values())
            assert again[0].index == len(acknowledged) + 2
            findings = audit(folder, [registry.vkey]).findings
    assert [finding for finding in findings if finding.code != "entry"] == []  # they are not signed entries


def test_it_refuses_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "log", some_entries(2))
    usage = shutil.disk_usage(folder)
    before = (folder / DATABASE).read_bytes()
    with EmbeddedRegistry.open(folder, LOG_KEY) as registry:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=1 << 30, free=(1 << 30) // 20))
        with pytest.raises(UnavailableError, match="bytes free"):
            registry.append([release_entry(100)])
        assert (folder / DATABASE).read_bytes() == before
        assert registry.entry(1) == release_entry(1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=1 << 50, free=(64 << 20) + 10_000))
        assert registry.append([release_entry(100)])[0].index == 2
