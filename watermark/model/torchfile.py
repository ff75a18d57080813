"""Read a PyTorch file in a confined process of its own, and get back plain tensors.

A `.pt`, `.pth` or `.bin` file is a pickle: a program. PyTorch's restricted reader has been broken twice
(CVE-2025-32434 before torch 2.6, CVE-2026-24747 before 2.10), so the file is only read by `_torch_child`, which has no
network, no other file, and limits on memory, time and output. What comes back is a safetensors file, and is read as
strictly as one from a stranger. This module loads no torch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from watermark.errors import InputError, LimitError, UnsafeFormatError

_ROOT: Final = str(Path(__file__).resolve().parents[2])
# Isolated Python does not look into its own folder: the child is told where we are, behind everything else.
_START: Final = (
    "import sys; root = sys.argv.pop(1); root in sys.path or sys.path.append(root); "
    "from watermark.model._torch_child import main; main()"
)
_PASSED_ON: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG")
_SLACK_BYTES: Final = 16 * 1024 * 1024
_WORKING_BYTES: Final = 512 * 1024 * 1024
_BASE_SECONDS: Final = 60
_BYTES_PER_SECOND: Final = 20 * 1000 * 1000
_MAX_REPORT_BYTES: Final = 4096


def convert(descriptor: int, path: str, *, deadline_seconds: float | None = None) -> int:
    """Read an open PyTorch file and return a descriptor of its tensors as a safetensors file without a name.

    The caller closes both. The new file lies in the folder for temporary files (TMPDIR), takes at most about twice the
    room of the old, and is gone when it is closed. `path` is for errors only.

    Raises:
        UnsafeFormatError: anything but a dictionary of plain tensors.
        LimitError: it took longer than `deadline_seconds`, by default a minute and a second for each 20 MB.
        InputError: there is no room for the tensors, or no torch to read them with.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="weightmark-") as private:
            return _convert_in(private, descriptor, path, deadline_seconds)
    except OSError as error:
        raise InputError(
            f"{path!a}: cannot be read in a process of its own: {error.strerror}",
            hint="set TMPDIR to a folder with room for temporary files",
        ) from error


def _convert_in(private: str, descriptor: int, path: str, deadline_seconds: float | None) -> int:
    size = os.fstat(descriptor).st_size
    cpu_seconds = _BASE_SECONDS + size // _BYTES_PER_SECOND
    seconds = deadline_seconds if deadline_seconds is not None else cpu_seconds
    allowance = (2 * size + _WORKING_BYTES, 2 * size + _SLACK_BYTES, cpu_seconds)
    output = os.open(Path(private, "weights"), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with Path(private, "report").open("xb+") as report, Path(private, "noise").open("xb+") as noise:
            arguments = [str(number) for number in (descriptor, output, *allowance)]
            code = _run(arguments, (descriptor, output), private, (report.fileno(), noise.fileno()), seconds)
            said, noise_text = (os.pread(file.fileno(), _MAX_REPORT_BYTES, 0) for file in (report, noise))
        _judge(code, said, noise_text, path)
    except BaseException:
        os.close(output)
        raise
    return output


def _run(
    arguments: list[str], descriptors: tuple[int, int], private: str, said: tuple[int, int], seconds: float
) -> int | None:
    """Run the child to its end and return its exit status, or None when its time was over."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {"HOME": private, "TMPDIR": private, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with subprocess.Popen(  # noqa: S603 (our own interpreter and our own code)
        [sys.executable, "-I", "-B", "-c", _START, _ROOT, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=said[0],
        stderr=said[1],
        cwd=private,
        env=environment,
        pass_fds=descriptors,
        start_new_session=True,
    ) as child:
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)


def _judge(code: int | None, report: bytes, noise: bytes, path: str) -> None:
    """Raise what the child reported, or what its end means; return when it says that it wrote all tensors."""
    if code is None:
        raise LimitError(f"{path!a}: reading it took too long", hint="convert it to safetensors on a faster machine")
    try:
        outcome = json.loads(report)
        refused = outcome["refused"] if "refused" in outcome else None if outcome["tensors"] >= 0 else "?"
    except (ValueError, TypeError, KeyError):
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        last_line = noise.decode("ascii", "replace").strip().rpartition("\n")[2]
        refused = f"its reader ended early ({how}) {last_line}"
    if refused is None and code == 0:
        return
    # The text comes from a process that a hostile file may have taken over: escaped, and cut.
    said = ascii(str(refused)[:400])[1:-1].strip()
    if "No space left" in said:
        raise InputError(f"{path!a}: no room for its tensors", hint="set TMPDIR to a folder with more room")
    if "No module named" in said:
        raise InputError(f"{path!a}: PyTorch files need PyTorch: {said}", hint="install torch, or convert the file")
    raise UnsafeFormatError(f"{path!a} is not read: {said}")
