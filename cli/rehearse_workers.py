"""Points of a rehearsal tried by several processes: each opens the same copy and takes the next point by its name."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.rehearse import Rehearsed, RehearseRequest

#: What this process tries points with; set once, when a worker starts.
_tries: list[Callable[[str, Rehearsed], Rehearsed]] = []


def spread(request: RehearseRequest, keys: Sequence[str], untouched: Rehearsed) -> Iterator[Rehearsed]:
    """Try the points of these names, `request.jobs` at a time; gives each result when it is there.

    Raises:
        InputError: as trying them one after another does; what is running then still ends.
    """
    # Forked threads of torch and numba hang: every worker starts anew.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(request.jobs, len(keys)), context, _start, (request,)) as pool:
        tasks = [pool.submit(_try, key, untouched) for key in keys]
        try:
            for task in as_completed(tasks):
                yield task.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(request: RehearseRequest) -> None:
    import torch

    from cli.callables import load_measure
    from cli.rehearse import Rehearsal, planned

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // request.jobs))
    measure = load_measure(request.quality) if request.quality else None
    rehearsal = Rehearsal(request)
    points = {point.key: point for point in planned(rehearsal)}
    _tries.append(lambda key, untouched: rehearsal.attempt(points[key], measure, untouched))


def _try(key: str, untouched: Rehearsed) -> Rehearsed:
    return _tries[0](key, untouched)
