"""Write one or more copies of a weight file with other tensor bytes, and hash them while they are written.

The header is carried byte for byte, so the copy loads exactly as its source does. Work on the bytes runs on all cores
and comes back in order; memory is a few chunks. Does not know what the new bytes mean.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from pickle import PickleBuffer

from watermark.errors import RegistryError
from watermark.model.digest import Progress, Span, block_digests, read_span, spans_of, tensor_digest
from watermark.model.directory import Model
from watermark.model.parallel import in_order_forked


@dataclass(frozen=True)
class NewBytes:
    """The new bytes of a span, one item a copy, and how far the farthest weight moved."""

    copies: tuple[bytes | memoryview, ...]
    largest_change: float = 0.0

    def __reduce__(self) -> tuple[type[NewBytes], tuple[tuple[PickleBuffer, ...], float]]:
        """Pass from one process to another without a copy in between (PEP 574): the bytes arrive as memoryviews."""
        return NewBytes, (tuple(PickleBuffer(data) for data in self.copies), self.largest_change)


#: Gives the new bytes of a span from its old ones; runs in another process, so it must tell all in its result.
Change = Callable[[Span, bytes], NewBytes]

_SYNC_BYTES = 64 << 20


@dataclass(frozen=True)
class WrittenShard:
    """What was written of one copy of a shard: SHA-256 of the file, and the digest of each tensor by name.

    `largest_change` is that of any weight in any of the copies.
    """

    file: bytes
    tensors: dict[str, bytes]
    largest_change: float = 0.0


def rewrite_shard(
    model: Model, shard: str, targets: Sequence[Path], change: Change, progress: Progress | None = None
) -> tuple[WrittenShard, ...]:
    """Write a changed copy of `shard` to each of `targets`, synced to disk, and say what each holds.

    Raises:
        RegistryError: a target exists already, or the disk is full.
        ModelFormatError: the source was cut short meanwhile.
    """
    tensors = [tensor for tensor in model.tensors.values() if tensor.shard == shard]
    files = [hashlib.sha256() for _ in targets]
    digests: list[dict[str, list[bytes]]] = [{tensor.name: [] for tensor in tensors} for _ in targets]

    largest = 0.0

    def work(span: Span) -> tuple[Span, NewBytes, tuple[list[bytes], ...]]:
        new = change(span, read_span(model, span))
        return span, new, tuple(block_digests(data, span) for data in new.copies)

    spans: Iterator[Span] = (span for tensor in tensors for span in spans_of(tensor))
    try:
        with ExitStack() as stack:
            streams = [stack.enter_context(open(target, "xb", buffering=0)) for target in targets]
            syncing = stack.enter_context(_EarlySync([stream.fileno() for stream in streams]))
            header = model.header_bytes(shard)
            for stream, state in zip(streams, files, strict=True):
                _write(stream, header)
                state.update(header)
            size_bytes = sum(tensor.nbytes for tensor in tensors)
            for span, new, blocks in in_order_forked(work, spans, size_bytes):
                largest = max(largest, new.largest_change)
                for copy, data in enumerate(new.copies):
                    _write(streams[copy], data)
                    files[copy].update(data)
                    digests[copy][span.tensor.name] += blocks[copy]
                syncing.wrote(len(new.copies[0]))
                if progress is not None:
                    progress(len(new.copies[0]))
            syncing.finish()
    except OSError as err:
        raise RegistryError(
            f"cannot write {err.filename or targets[0]}: {err.strerror}", hint="free some disk space and run again"
        ) from err
    return tuple(
        WrittenShard(
            files[copy].digest(),
            {t.name: tensor_digest(t.dtype.name, t.shape, digests[copy][t.name]) for t in tensors},
            largest,
        )
        for copy in range(len(targets))
    )


def _write(stream: RawIOBase, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) or 0 :]


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
