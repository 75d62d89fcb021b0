"""Jobs on this machine: a process each, a share of the cores each, GPUs in turn."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence

from rlzoo.benchmark.job import Event, Job, OnEvent, Outcome
from rlzoo.benchmark.worker import Worker
from rlzoo.errors import RefusedError

_PAUSE = 0.1


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` calls them."""
    import torch

    count = torch.cuda.device_count()
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    names = [name for name in given if name] or [str(number) for number in range(count)]
    return tuple(names[:count])


class LocalExecutor:
    """Runs jobs in processes of this machine.

    Args:
        jobs: Processes at the same time; by default as many as there are GPUs, or cores.
        threads: Threads of each; by default the cores divided by the processes, so that they do
            not take each other's.
        gpus: Numbers or UUIDs for ``CUDA_VISIBLE_DEVICES``. Each process sees one, the one with
            the fewest processes. Empty hides all GPUs.

    Raises:
        RefusedError: If a number is below 1.
    """

    def __init__(
        self, jobs: int | None = None, threads: int | None = None, gpus: Sequence[str] = ()
    ) -> None:
        for name, value in (("jobs", jobs), ("threads", threads)):
            if value is not None and value < 1:
                raise RefusedError(f"{name}={value} is out of range.", "Allowed: 1 or more.")
        cores = usable_cores()
        self.slots = jobs or len(gpus) or cores
        self.threads = threads or max(1, cores // self.slots)
        self.gpus = tuple(gpus)

    def run(self, jobs: Sequence[Job], on_event: OnEvent, stopping: Callable[[], bool]) -> None:
        """Run jobs; see :class:`rlzoo.benchmark.job.Executor`."""
        waiting, running = deque(jobs), list[tuple[Worker, str]]()
        while waiting or running:
            if stopping():
                for worker, _ in running:
                    worker.stop()
                while waiting:
                    on_event(Event("ended", waiting.popleft(), outcome=Outcome("stopped")))
            while waiting and len(running) < self.slots:
                job = waiting.popleft().with_threads(self.threads)
                gpu = self._free_gpu([used for _, used in running])
                try:
                    worker = Worker(job, {"CUDA_VISIBLE_DEVICES": gpu})
                except OSError as error:
                    why = f"the worker was not started: {error}"
                    on_event(Event("ended", job, outcome=Outcome("failed", error=why)))
                    continue
                running.append((worker, gpu))
                place = f"process {worker.pid}" + (f", GPU {gpu}" if gpu else "")
                on_event(Event("started", job, place))
            time.sleep(_PAUSE)
            running = [entry for entry in running if not _has_ended(entry[0], on_event)]

    def close(self) -> None:
        """Nothing to do."""

    def _free_gpu(self, used: Sequence[str]) -> str:
        return min(self.gpus, key=used.count, default="")


def _has_ended(worker: Worker, on_event: OnEvent) -> bool:
    outcome = worker.poll()
    if outcome is None:
        return False
    on_event(Event("ended", worker.job, outcome=outcome))
    return True
