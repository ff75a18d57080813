"""A sealed process can read its one file and do nothing else, by way of the interpreter or past it."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import ctypes, json, os, resource, socket, subprocess, sys, shutil, pathlib
from watermark.model.confinement import Allowance, Refused, leave_network, seal
folder = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
calls = [libc.open, libc.socket, libc.connect, libc.execv, libc.mkdir, libc.unlink, libc.truncate]
descriptor = os.open(folder + "/readable", os.O_RDONLY)
output = os.open(folder + "/output", os.O_WRONLY | os.O_CREAT)
leave_network()
path = seal(Allowance(memory_bytes=64 << 20, output_bytes=1000, cpu_seconds=1), descriptor)
"""

BY_INTERPRETER = """
attempts = {
    "read another file": lambda: open(folder + "/other"),
    "read the file by its name": lambda: open(folder + "/readable"),
    "write the file": lambda: open(path, "r+"),
    "append to the file": lambda: os.open(path, os.O_WRONLY),
    "write a new file": lambda: open(folder + "/made", "w"),
    "write by pathlib": lambda: pathlib.Path(folder, "made").write_text("x"),
    "system": lambda: os.system("touch " + folder + "/made"),
    "popen": lambda: subprocess.run(["touch", folder + "/made"]),
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "exec a program": lambda: os.execv("/bin/true", ["true"]),
    "fork": lambda: os._exit(0) if os.fork() == 0 else None,
    "a socket": lambda: socket.socket(),
    "connect": lambda: socket.create_connection(("127.0.0.1", 1)),
    "look up a name": lambda: socket.getaddrinfo("localhost", 1),
    "run text": lambda: exec("1"),
    "evaluate text": lambda: eval("1"),
    "compile": lambda: compile("1", "x", "eval"),
    "import": lambda: __import__("this"),
    "load a library": lambda: ctypes.CDLL("libm.so.6"),
    "remove": lambda: os.remove(folder + "/other"),
    "rename": lambda: os.rename(folder + "/other", folder + "/made"),
    "make a folder": lambda: os.mkdir(folder + "/made"),
    "make a link": lambda: os.symlink("x", folder + "/made"),
    "change rights": lambda: os.chmod(folder + "/other", 0o777),
    "list": lambda: os.listdir(folder),
    "copy": lambda: shutil.copyfile(folder + "/other", folder + "/made"),
    "kill": lambda: os.kill(os.getpid(), 0),
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_CPU, (100, 100)),
    "take much memory": lambda: bytearray(1 << 30),
    "write much": lambda: [os.write(output, bytes(900)) for _ in range(2)] == [900, 900] or 1 / 0,
}
done = []
for name, attempt in attempts.items():
    try:
        attempt()
        done.append(name)
    except (Refused, MemoryError, OSError, ZeroDivisionError):
        pass
with open(path, "rb") as file:
    content = file.read().decode()
os.write(1, json.dumps({"done": done, "content": content}).encode())
os._exit(0)
"""

PAST_INTERPRETER = """
open_, socket_, connect, execv, mkdir, unlink, truncate = calls
address = (2).to_bytes(2, sys.byteorder) + int(sys.argv[2]).to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
done = {
    "read": open_((folder + "/other").encode(), 0) >= 0,
    "write": open_((folder + "/made").encode(), os.O_CREAT | os.O_WRONLY, 0o600) >= 0,
    "mkdir": mkdir((folder + "/made").encode(), 0o700) == 0,
    "unlink": unlink((folder + "/other").encode()) == 0,
    "connect": connect(socket_(2, 1, 0), address, 16) == 0,
    "read its own": open_(path.encode(), 0) >= 0,
}
os.write(1, json.dumps(done).encode())
execv(b"/bin/true", None)
os._exit(7)
"""


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    (folder / "readable").write_text("content")
    (folder / "other").write_text("other")
    return subprocess.run([sys.executable, "-c", START + script, str(folder), *arguments], capture_output=True)


def test_interpreter_refuses_all_but_reading_the_one_file(tmp_path: Path) -> None:
    finished = run(tmp_path, BY_INTERPRETER)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == {"done": [], "content": "content"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "output", "readable"]


def landlock_version() -> int:
    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))


def may_leave_network() -> bool:
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0


def test_kernel_refuses_what_goes_past_the_interpreter(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        finished = run(tmp_path, PAST_INTERPRETER, str(server.getsockname()[1]))
    outcome = json.loads(finished.stdout)
    # Where the kernel lacks one of the two, only the interpreter stands guard: then the system decides what happens.
    has_landlock = landlock_version() >= 1
    for attempt in ("read", "write", "mkdir", "unlink"):
        assert outcome[attempt] is not has_landlock
    assert outcome["read its own"]
    if has_landlock:
        assert finished.returncode == 7
    if may_leave_network() or landlock_version() >= 6:
        assert not outcome["connect"]


def test_processor_time_is_limited(tmp_path: Path) -> None:
    finished = run(tmp_path, "while True: pass")
    assert finished.returncode in (-24, -9)


@pytest.mark.parametrize("kind", ["memory", "output"])
def test_limits_that_are_not_reached_do_not_matter(tmp_path: Path, kind: str) -> None:
    attempt = "bytearray(1 << 20)" if kind == "memory" else "os.write(output, bytes(1000))"
    assert run(tmp_path, f"{attempt}; os._exit(5)").returncode == 5
