"""Write one or more copies of a weight file with other tensor bytes, and hash them while they are written.

The header is carried byte for byte, so the copy loads exactly as its source does. Forked processes make the new bytes
and put them where they belong; this one reads each file back in order, while it is still in memory, and hashes it.
Passing the bytes themselves through pipes cost as much as marking them. Memory is a few chunks. What a run that was
killed had finished can be taken over, after it was read and hashed again. Does not know what the new bytes mean.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from watermark.errors import RegistryError
from watermark.model.digest import Progress, Span, block_digests, read_span, span_bytes, spans_of, tensor_digest
from watermark.model.directory import Model
from watermark.model.parallel import in_order_forked
from watermark.model.safetensors import TensorInfo

if TYPE_CHECKING:
    from hashlib import _Hash as Hash


@dataclass(frozen=True)
class NewBytes:
    """The new bytes of a span, one item a copy, and how far the farthest weight moved."""

    copies: tuple[bytes, ...]
    largest_change: float = 0.0


@dataclass(frozen=True)
class Finished:
    """A tensor whose bytes are on disk: its digest in each copy, and how far its farthest weight moved."""

    digests: tuple[bytes, ...]
    largest_change: float


#: Told of tensors that have reached the disk, by name in the order in which they stand in their shard.
OnDisk = Callable[[Mapping[str, Finished]], None]

#: Gives the new bytes of a span from its old ones; runs in another process, so it must tell all in its result.
Change = Callable[[Span, bytes], NewBytes]

_SYNC_BYTES = 64 << 20
_READ_BYTES = 1 << 20
#: After so many bytes it is made sure that they are on disk, and said so.
_NOTE_BYTES = 256 << 20


@dataclass(frozen=True)
class WrittenShard:
    """What was written of one copy of a shard: SHA-256 of the file, and the digest of each tensor by name.

    `largest_change` is that of any weight in any of the copies.
    """

    file: bytes
    tensors: dict[str, bytes]
    largest_change: float = 0.0


def rewrite_shard(
    model: Model,
    shard: str,
    targets: Sequence[Path],
    change: Change,
    progress: Progress | None = None,
    *,
    finished: Mapping[str, Finished] | None = None,
    on_disk: OnDisk | None = None,
) -> tuple[WrittenShard, ...]:
    """Write a changed copy of `shard` to each of `targets`, synced to disk, and say what each holds.

    Args:
        finished: tensors at the beginning of the shard that an earlier run wrote to the same targets. They are read and
            hashed again; where one is not what it was said to be, the shard is written from its beginning.
        on_disk: told what a later run may take over.

    Raises:
        RegistryError: a target exists already and nothing of it was finished, or the disk is full.
        ModelFormatError: the source was cut short meanwhile.
    """
    tensors = sorted((tensor for tensor in model.tensors.values() if tensor.shard == shard), key=_place)
    try:
        if finished:
            begun = [tensor for tensor in tensors if tensor.nbytes][: len(finished)]
            if [tensor.name for tensor in begun] == list(finished) and _reach(targets, begun[-1]):
                found = _write(model, shard, tensors, targets, change, progress, finished, on_disk)
                if found is not None:
                    return found
            for target in targets:
                target.unlink(missing_ok=True)
        found = _write(model, shard, tensors, targets, change, progress, {}, on_disk)
    except OSError as err:
        raise RegistryError(
            f"cannot write {err.filename or targets[0]}: {err.strerror}", hint="free some disk space and run again"
        ) from err
    assert found is not None  # nothing was taken over
    return found


def _reach(targets: Sequence[Path], last: TensorInfo) -> bool:
    """Whether every target is a file that holds a tensor to its end."""
    return all(
        target.is_file() and not target.is_symlink() and target.stat().st_size >= last.begin + last.nbytes
        for target in targets
    )


def _write(
    model: Model,
    shard: str,
    tensors: Sequence[TensorInfo],
    targets: Sequence[Path],
    change: Change,
    progress: Progress | None,
    finished: Mapping[str, Finished],
    on_disk: OnDisk | None,
) -> tuple[WrittenShard, ...] | None:
    """Write what is not `finished`; None when what is finished does not hold what it should."""
    files = [hashlib.sha256() for _ in targets]
    digests: list[dict[str, list[bytes]]] = [{tensor.name: [] for tensor in tensors} for _ in targets]
    changes = dict.fromkeys((tensor.name for tensor in tensors), 0.0)
    ready: dict[str, Finished] = {}
    unnoted = 0

    def digest_of(copy: int, tensor: TensorInfo) -> bytes:
        return tensor_digest(tensor.dtype.name, tensor.shape, digests[copy][tensor.name])

    spans: Iterator[Span] = (span for tensor in tensors for span in spans_of(tensor))
    with ExitStack() as stack:
        mode = "r+b" if finished else "x+b"
        written = [stack.enter_context(open(target, mode, buffering=0)).fileno() for target in targets]
        syncing = stack.enter_context(_EarlySync(written))
        header = model.header_bytes(shard)
        for file, state in zip(written, files, strict=True):
            _write_at(file, header, 0)
            state.update(header)

        def work(span: Span) -> tuple[Span, float, tuple[list[bytes], ...]]:
            first, last = span_bytes(span)
            place = _place(span.tensor) + first
            if span.tensor.name in finished:
                held = (os.pread(file, last - first, place) for file in written)
                return span, 0.0, tuple(block_digests(data, span) for data in held)
            new = change(span, read_span(model, span))
            for file, data in zip(written, new.copies, strict=True):
                _write_at(file, data, place)
            return span, new.largest_change, tuple(block_digests(data, span) for data in new.copies)

        size_bytes = sum(tensor.nbytes for tensor in tensors)
        for span, change_there, blocks in in_order_forked(work, spans, size_bytes):
            tensor = span.tensor
            changes[tensor.name] = max(changes[tensor.name], change_there)
            start, stop = span_bytes(span)
            for copy, file in enumerate(written):
                _hash_back(file, _place(tensor) + start, stop - start, files[copy])
                digests[copy][tensor.name] += blocks[copy]
            if progress is not None:
                progress(stop - start)
            if tensor.name not in finished:
                syncing.wrote(stop - start)
                unnoted += stop - start
            if stop < tensor.nbytes:
                continue
            whole = tuple(digest_of(copy, tensor) for copy in range(len(targets)))
            if tensor.name in finished:
                if finished[tensor.name].digests != whole:
                    return None
                changes[tensor.name] = finished[tensor.name].largest_change
                continue
            ready[tensor.name] = Finished(whole, changes[tensor.name])
            if on_disk is not None and unnoted >= _NOTE_BYTES:
                syncing.finish()
                on_disk(ready)
                ready, unnoted = {}, 0
        syncing.finish()
        if on_disk is not None:
            on_disk(ready)
    largest = max(changes.values(), default=0.0)
    return tuple(
        WrittenShard(files[copy].digest(), {t.name: digest_of(copy, t) for t in tensors}, largest)
        for copy in range(len(targets))
    )


def _place(tensor: TensorInfo) -> int:
    """Where a tensor begins in its shard, and in every copy of it."""
    return tensor.begin


def _write_at(file: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, place)
        view, place = view[count:], place + count


def _hash_back(file: int, place: int, size_bytes: int, state: Hash) -> None:
    """Hash what a copy holds from `place` on: what will be signed is what was written."""
    end = place + size_bytes
    while place < end:
        data = os.pread(file, min(_READ_BYTES, end - place), place)
        if not data:
            raise OSError(errno.EIO, "it does not hold what was just written")
        state.update(data)
        place += len(data)


class _EarlySync:
    """Sends bytes to disk while the rest is computed: waiting for all of them at the end took a fifth of the time."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._descriptors = descriptors
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._unsynced = 0

    def __enter__(self) -> _EarlySync:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def wrote(self, size_bytes: int) -> None:
        """Count bytes written; starts a sync of what is there now and then, never two at once."""
        self._unsynced += size_bytes
        if self._unsynced >= _SYNC_BYTES and (self._pending is None or self._pending.done()):
            if self._pending is not None:
                self._pending.result()
            self._unsynced = 0
            self._pending = self._pool.submit(self._sync)

    def finish(self) -> None:
        """Wait until everything is on disk."""
        if self._pending is not None:
            self._pending.result()
        self._sync()

    def _sync(self) -> None:
        for descriptor in self._descriptors:
            os.fsync(descriptor)
