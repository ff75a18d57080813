"""Take away from this process what reading a file does not need, before it reads a file that may be hostile.

Layers that do not lean on each other: the interpreter refuses every audited event but a few (a hook that cannot be
removed), the kernel limits memory, time, output and processes, and where it can do so without privilege it also takes
away the network (a network namespace) and the file system (Landlock). Native code that a damaged file has taken over
passes the first, and meets the others. It does not know what is read.

Sources: PEP 578 (audit hooks), setrlimit(2), unshare(2), prctl(2), landlock(7). The unpickler of PyTorch that refuses
foreign classes was broken twice (CVE-2025-32434, CVE-2026-24747): hence none of this relies on it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from typing import Final, NoReturn

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
# The same numbers on every architecture, as for all system calls since Linux 5.1.
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_ADD_RULE: Final = 445
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_RULE_PATH_BENEATH: Final = 1
_LANDLOCK_READ_FILE: Final = 1 << 2
_LANDLOCK_VERSION: Final = 1
# What to take away, as the kernel's struct landlock_ruleset_attr: rights on files and folders; from version 6 on also
# truncation and devices, TCP, and signals and sockets that lead out.
_LANDLOCK_FIRST: Final = struct.pack("=Q", (1 << 13) - 1)
_LANDLOCK_SIXTH: Final = struct.pack("=QQQ", (1 << 16) - 1, 0b11, 0b11)

# Events of looking at oneself, which tracebacks and reprs need; they reach nothing outside the process.
_HARMLESS_EVENTS: Final = frozenset({"sys._getframe", "builtins.id", "object.__getattr__"})


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the process may still use beyond what it has used by now."""

    memory_bytes: int
    output_bytes: int
    cpu_seconds: int


class Refused(Exception):  # noqa: N818 (it is raised into foreign code, and never leaves this process)
    """Something was tried that reading a file does not need."""


def leave_network() -> None:
    """Move this process where there is no network, and let it die with its parent; as far as the system permits.

    Call it first: the kernel permits it only while there is one thread.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWNET)
    # A change of namespace closes /proc/self to its own process: the path of a descriptor leads through there.
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def seal(allowance: Allowance, readable: int) -> str:
    """Take everything away but reading the file `readable`, and return the one path by which it may be opened.

    From here on, until the process ends: no other file, no import, no process, no network, no code from text.
    """
    path = f"/dev/fd/{readable}"
    _set_limits(allowance)
    if sys.platform == "linux":
        _leave_file_system(readable)

    def refuse_event(event: str, arguments: tuple[object, ...]) -> None:
        if event in _HARMLESS_EVENTS or (event == "open" and arguments[0] == path and arguments[1] in ("r", "rb")):
            return
        _refuse(event)

    sys.addaudithook(refuse_event)
    return path


def _refuse(event: str) -> NoReturn:
    raise Refused(f"it tried {event}")


def _set_limits(allowance: Allowance) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, allowance.output_bytes)
    used_seconds = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used_seconds.ru_utime + used_seconds.ru_stime) + allowance.cpu_seconds)
    _lower(resource.RLIMIT_NOFILE, 64)
    if sys.platform == "linux":
        _lower(resource.RLIMIT_NPROC, 0)
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[0])
        _lower(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE") + allowance.memory_bytes)


def _lower(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def _leave_file_system(readable: int) -> bool:
    """Forbid every path but that of an open file; False where the kernel has no Landlock (Linux 5.13, if built in)."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    version = syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    handled = _LANDLOCK_SIXTH if version >= 6 else _LANDLOCK_FIRST
    rules = syscall(_LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    if rules < 0:
        return False
    rule = struct.pack("=Qi", _LANDLOCK_READ_FILE, readable)
    added = syscall(_LANDLOCK_ADD_RULE, rules, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)
    restricted = syscall(_LANDLOCK_RESTRICT_SELF, rules, 0)
    os.close(rules)
    return bool(added == 0 and restricted == 0)
