"""Run one piece of work after another on all cores, with the results in order and memory flat.

Two ways behind one function. Threads serve what leaves the interpreter's lock for long (hashing, reading). What mixes
numpy with Python, as the mark does for each block, goes to forked processes: two threads of it were no faster than one,
since each array operation waits for the other thread's lock (measured). A forked process needs no set-up and no copy of
what the work refers to, and reads through the very file handles that were checked.

Does not know what the work is.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import itertools
import os
import pickle
import signal
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Never, TypeVar

import numpy as np

from watermark.errors import UnavailableError

#: Work over fewer bytes than this is done before processes have paid for themselves.
_FORK_BYTES = 32 << 20
#: And work over fewer than this before threads have been started.
_THREAD_BYTES = 1 << 20
_PIPE_BYTES = 1 << 20
_NUMBER = struct.Struct("<Q")
#: Parameters of mallopt(3) in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def workers() -> int:
    """Threads or processes to work on: one a core, at most eight."""
    return min(8, os.cpu_count() or 1)


def in_order(
    work: Callable[[_Task], _Result], tasks: Iterable[_Task], *, ahead: int = 4, size_bytes: int | None = None
) -> Iterator[_Result]:
    """Run `work` over `tasks` on threads and yield the results in order, at most a few tasks ahead.

    The bound keeps memory flat however large the model is; an error in a task surfaces at its place in the order.
    Where `size_bytes` of work are known to be few, no threads are started.
    """
    if size_bytes is not None and size_bytes < _THREAD_BYTES:
        yield from map(work, tasks)
        return
    _keep_freed_memory()
    count = workers()
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for task in tasks:
                pending.append(pool.submit(work, task))
                if len(pending) >= count + ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def in_order_forked(work: Callable[[_Task], _Result], tasks: Iterable[_Task], size_bytes: int) -> Iterator[_Result]:
    """As `in_order`, on forked processes where `size_bytes` of work make that worth while.

    Every process walks the same tasks and does its share of them, so nothing but results is passed around; these are
    pickled, large buffers out of band (PEP 574). What `work` changes outside its result is lost. A process goes on only
    as far as its pipe takes results.

    Raises:
        UnavailableError: a process was killed, most likely for want of memory.
    """
    count = workers()
    if size_bytes < _FORK_BYTES or count == 1 or not hasattr(os, "fork"):
        yield from in_order(work, tasks, size_bytes=size_bytes)
        return
    _keep_freed_memory()
    readers: list[BinaryIO] = []
    children: list[int] = []
    try:
        for number in range(count):
            reader, writer = _pipe()
            child = os.fork()
            if child == 0:
                _serve(work, itertools.islice(tasks, number, None, count), writer, [reader, *readers])
            os.close(writer)
            readers.append(os.fdopen(reader, "rb", buffering=0))
            children.append(child)
        for reader_of_turn in itertools.cycle(readers):
            message = _receive(reader_of_turn)
            if message is None:
                break
            result, error = message
            if error is not None:
                raise error
            yield result
    finally:
        for stream in readers:
            stream.close()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # a lower limit of this system: results come in more pieces
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reader, writer


def _serve(
    work: Callable[[_Task], _Result], share: Iterable[_Task], writer: int, foreign: list[int | BinaryIO]
) -> Never:
    """Do a share of the work in a forked process and end it: no line of the caller may run twice."""
    code = 1
    try:
        for one in foreign:
            # Held open here, they would keep the others from noticing that their reader is gone.
            os.close(one if isinstance(one, int) else one.fileno())
        try:
            for task in share:
                _send(writer, (work(task), None))
            _send(writer, None)
        except BrokenPipeError:
            pass  # nobody waits for more
        except Exception as error:  # noqa: BLE001 - the border between two processes: it surfaces in the other one
            _send(writer, (None, error))
        code = 0
    finally:
        os._exit(code)


def _send(writer: int, message: object) -> None:
    buffers: list[pickle.PickleBuffer] = []
    pieces = [memoryview(pickle.dumps(message, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append))]
    pieces += [buffer.raw() for buffer in buffers]
    head = struct.pack(f"<{len(pieces) + 1}Q", len(pieces), *(piece.nbytes for piece in pieces))
    for view in [memoryview(head), *pieces]:
        while view:
            view = view[os.write(writer, view) :]


def _receive(reader: BinaryIO) -> tuple[Any, Exception | None] | None:
    count = _read_number(reader)
    lengths = [_read_number(reader) for _ in range(count)]
    pickled, *buffers = [_read_exactly(reader, length) for length in lengths]
    message: tuple[Any, Exception | None] | None = pickle.loads(pickled, buffers=buffers)  # noqa: S301 - our own process
    return message


def _read_number(reader: BinaryIO) -> int:
    number: int = _NUMBER.unpack(_read_exactly(reader, _NUMBER.size))[0]
    return number


def _read_exactly(reader: BinaryIO, size_bytes: int) -> memoryview:
    data = np.empty(size_bytes, np.uint8).data  # not zeroed first, as a bytearray would be
    view = data
    while view:
        count = reader.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise UnavailableError(
                "a worker process ended before its work was done",
                hint="it may have lacked memory: free some, run again",
            )
        view = view[count:]
    return data


@functools.cache
def _keep_freed_memory() -> None:
    """Tell glibc to keep what a piece of work frees for the next one, instead of giving it back to the kernel.

    Arrays of half a megabyte are mapped and unmapped at each use otherwise; threads then wait for one another's page
    faults, and two of them were slower than one (measured). Nothing happens where the C library is another.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, 32 << 20)
    mallopt(_M_TOP_PAD, 8 << 20)
    mallopt(_M_ARENA_MAX, workers() + 1)  # each arena keeps what its threads freed: no more of them than needed
