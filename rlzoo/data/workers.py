"""Groups of slots in other processes. They hand their episodes over through the work folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

from rlzoo.data.shards import ShardFolder
from rlzoo.data.slots import Job, allocate, quiet_process, run_group
from rlzoo.errors import FailedError, RefusedError

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_POLL_SECONDS = 0.1
_shared: dict[str, Any] = {}


def run_in_workers(job: Job, groups: list[int], workers: int, add: Callable[[int], None]) -> None:
    """Fill the groups in spawned processes; on return their episodes are in ``job.folder``.

    Args:
        job: The collection; its folder is set and prepared.
        groups: Numbers of the groups to fill.
        workers: Number of processes at most.
        add: Called with the number of rows that were added.

    Raises:
        RefusedError: If the policy or the environment cannot be sent to another process.
        FailedError: If a worker is killed.
    """
    if not groups:
        return
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    payload = _pickled(job)
    pool = ProcessPoolExecutor(
        min(workers, len(groups)), context, initializer=_start, initargs=(counter, stop)
    )
    told = 0
    try:
        with _single_threads():
            pending = {pool.submit(_work, payload, group) for group in groups}
        while pending:
            done, pending = wait(pending, timeout=_POLL_SECONDS)
            for future in done:
                future.result()
            now = counter.value
            add(now - told)
            told = now
    except BrokenProcessPool as error:
        raise FailedError(
            "A worker process was killed (perhaps out of memory).",
            todo="Run the same command again to go on, with fewer workers if memory was short.",
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _pickled(job: Job) -> bytes:
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(job)
    except Exception as error:  # pickling runs foreign code, which may raise anything
        raise RefusedError(
            f"The policy or the environment cannot be sent to another process: {error}",
            todo="Use workers=1.",
        ) from error
    return data


@contextmanager
def _single_threads() -> Iterator[None]:
    """Have processes that start in here use one thread each."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start(counter: Any, stop: Any) -> None:
    """Set a worker up: what it shares with its parent, and to die with it."""
    _shared.update(counter=counter, stop=stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which sets `stop`
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)  # a killed parent reads no result, and nobody else would end this process


class _StoppedError(Exception):
    """The parent gave up."""


def _add(rows: int) -> None:
    with _shared["counter"].get_lock():
        _shared["counter"].value += rows
    if _shared["stop"].is_set():
        raise _StoppedError


def _work(payload: bytes, group: int) -> None:
    import cloudpickle

    job: Job = cloudpickle.loads(payload)
    if job.folder is None:
        raise FailedError("A worker needs a folder.")
    store = ShardFolder(job.folder, group)
    _, slots = allocate(job, job.settings.groups()[group])
    episodes = store.read()
    for slot in slots:
        slot.restore(episodes)
    with quiet_process():
        run_group(job, slots, store, _add)
