"""Work on all cores: order, errors, death of a worker, and nothing left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from watermark.errors import ModelFormatError, UnavailableError
from watermark.model import parallel
from watermark.model.parallel import in_order, in_order_forked

HEAVY = 1 << 30


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    # A machine with one core would take the way without processes.
    monkeypatch.setattr(parallel, "workers", lambda: 2)


def threads(work, tasks):
    return in_order(work, tasks)


def processes(work, tasks):
    return in_order_forked(work, tasks, HEAVY)


def at_once(work, tasks):
    return in_order(work, tasks, size_bytes=1_000)


WAYS = pytest.mark.parametrize("run", [threads, processes, at_once])


@WAYS
@pytest.mark.parametrize("count", [0, 1, 2, 3, 200])
def test_results_come_back_in_the_order_of_the_tasks(run, count):
    assert list(run(lambda n: n * n, (n for n in range(count)))) == [n * n for n in range(count)]


@WAYS
def test_an_error_surfaces_at_its_place_with_its_hint(run):
    def fails(n):
        if n == 50:
            raise ModelFormatError("fifty", hint="skip it")
        return n

    seen = []
    with pytest.raises(ModelFormatError, match="fifty") as caught:
        seen.extend(run(fails, range(200)))
    assert caught.value.hint == "skip it"
    assert seen == list(range(50))


def test_little_work_starts_no_threads():
    def who(_):
        return threading.get_ident()

    assert set(at_once(who, range(20))) == {threading.get_ident()}
    assert set(in_order_forked(who, range(20), 1_000)) == {threading.get_ident()}
    assert threading.get_ident() not in set(in_order(who, range(20), size_bytes=1 << 30))


def test_processes_do_the_work_in_shares_and_big_results_pass():
    results = list(processes(lambda n: (os.getpid(), np.full(1 << 19, n)), range(6)))
    assert len({pid for pid, _ in results}) == 2
    assert os.getpid() not in {pid for pid, _ in results}
    assert [int(values.sum()) for _, values in results] == [n << 19 for n in range(6)]


def test_little_work_stays_in_this_process():
    assert set(in_order_forked(lambda _: os.getpid(), range(8), 1 << 10)) == {os.getpid()}


def test_a_killed_worker_is_an_error_that_says_so():
    def dies(n):
        if n == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    with pytest.raises(UnavailableError, match="worker process ended"):
        list(processes(dies, range(20)))


def test_no_process_is_left_when_the_reader_stops_early():
    results = processes(lambda n: (os.getpid(), bytes(1 << 20)), range(1000))
    first, second = next(results)[0], next(results)[0]
    results.close()
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    # Each worker holds no end of another one's pipe: else all would wait for ever.
    script = textwrap.dedent(f"""
        import os
        from watermark.model import parallel
        parallel.workers = lambda: 2
        for pid, _ in parallel.in_order_forked(lambda n: (os.getpid(), bytes(1 << 20)), range(10**6), 1 << 30):
            with open({str(tmp_path / "pids")!r}, "a") as f:
                print(pid, file=f)
            if sum(1 for _ in open({str(tmp_path / "pids")!r})) == 4:
                os.kill(os.getpid(), 9)
    """)
    subprocess.run([sys.executable, "-c", script], check=False)
    left = {int(line) for line in (tmp_path / "pids").read_text().split()}
    assert len(left) == 2
    deadline = time.monotonic() + 20
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if _runs(pid)}
        time.sleep(0.05)
    assert not left


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
