"""Jobs on a Ray cluster: a task each, with its resources; a lost node costs its tasks a retry.

A task starts the same process as :mod:`rlzoo.benchmark.local`. With a folder that all nodes share
a retried job goes on from its checkpoint; otherwise it starts again, its output is sent to the
driver, and its run folder stays where it ran. Outcomes are the results of the tasks; the mailbox
carries only what is nice to have.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlzoo.benchmark.job import Event, Job, OnEvent, Outcome, read_json
from rlzoo.benchmark.ray_tasks import PAUSE, Tasks
from rlzoo.benchmark.worker import Worker
from rlzoo.core.safe_files import remove, write_json_atomic
from rlzoo.errors import RefusedError

RETRIES = 3
_KEPT_LETTERS = 10_000
_MAILBOX_SECONDS = 30.0
_KNOCK_SECONDS = 10.0


def import_ray() -> Any:
    """Return the module ``ray``.

    Raises:
        RefusedError: If it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise RefusedError(
            "Ray is not installed.", todo="pip install 'rlzoo[ray]', or --executor local."
        ) from None
    return ray


class Mailbox:
    """An actor that keeps what tasks say until the driver asks, and tells them when to stop."""

    def __init__(self) -> None:
        self._letters: list[tuple[int, str, str]] = []
        self._stopping = False

    def put(self, number: int, kind: str, text: str) -> bool:
        """Take a letter of a task; return whether the task should stop."""
        if kind != "alive":
            self._letters.append((number, kind, text))
            del self._letters[:-_KEPT_LETTERS]
        return self._stopping

    def take(self) -> list[tuple[int, str, str]]:
        """Return the letters since the last time."""
        letters, self._letters = self._letters, []
        return letters

    def stop(self) -> None:
        """Ask all tasks to stop."""
        self._stopping = True


def run_task(
    number: int, job_json: str, token_file: str, token: str, mailbox: Any
) -> dict[str, Any]:
    """Run a job on the node where this task is, and return its :class:`Outcome` as plain data.

    Args:
        number: Of the job, for the mailbox.
        job_json: The job.
        token_file: A file that the driver wrote; who can read it shares the driver's folder.
        token: What is in it.
        mailbox: Handle of the actor.
    """
    ray = import_ray()

    def write(kind: str, text: str) -> bool:
        try:
            return bool(ray.get(mailbox.put.remote(number, kind, text), timeout=_MAILBOX_SECONDS))
        except ray.exceptions.RayError:  # the outcome does not need the mailbox
            return False

    # While its main thread waits for Ray, a task lends its cores to others, which would then run
    # beside the process of this one. A second thread may wait.
    with ThreadPoolExecutor(1) as pool:

        def tell(kind: str, text: str) -> bool:
            return pool.submit(write, kind, text).result()

        return asdict(_run(job_json, token_file, token, tell))


def _run(job_json: str, token_file: str, token: str, tell: Callable[[str, str], bool]) -> Outcome:
    node = import_ray().get_runtime_context().get_node_id()[:8]
    if tell("started", f"node {node} ({platform.node()})"):
        return Outcome("stopped")
    shared = read_json(Path(token_file)) == token
    try:
        worker, sent = Worker(Job.from_json(job_json)), 0
    except OSError as error:
        return Outcome("failed", error=f"the worker was not started: {error}")
    while True:
        outcome = worker.poll()
        new = b"" if shared else worker.output(sent)
        sent += len(new)
        if tell("output" if new else "alive", new.decode(errors="replace")) and outcome is None:
            worker.stop()
        if outcome is not None:
            return outcome
        time.sleep(PAUSE)


def _knock(address: str | None) -> None:
    """Refuse an address where nobody listens; Ray itself tries for minutes.

    Raises:
        OSError: If there is no connection.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


class RayExecutor:
    """Runs jobs as tasks of a Ray cluster.

    Args:
        folder: Folder of the benchmark.
        address: Of a running cluster (``"auto"``, ``"host:port"``); None takes ``RAY_ADDRESS``, and
            starts Ray on this machine if there is none.
        jobs: Tasks at the same time; by default as many as the cluster has room for.
        cpus: Cores that a job reserves, and its threads.
        gpus: GPUs that a job reserves; may be a fraction.
        retries: How often a job starts again after its node or its Ray process was lost.

    Raises:
        RefusedError: If Ray is missing, or the cluster does not answer.
    """

    def __init__(
        self, folder: Path, address: str | None = None, jobs: int | None = None, cpus: int = 1,
        gpus: float = 0.0, retries: int = RETRIES,
    ) -> None:  # fmt: skip
        for name, value in (("jobs", jobs), ("threads", cpus)):
            if value is not None and value < 1:
                raise RefusedError(f"{name}={value} is out of range.", "Allowed: 1 or more.")
        self._ray, self._folder = import_ray(), folder
        self._jobs, self._cpus, self._gpus, self._retries = jobs, cpus, gpus, retries
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._connect(address)

    @property
    def slots(self) -> int:
        """How many jobs fit into the cluster as it is now."""
        total = self._ray.cluster_resources()
        room = int(total.get("CPU", 0) // self._cpus)
        if self._gpus > 0:
            room = min(room, int(total.get("GPU", 0) / self._gpus))
        return max(1, min(room, self._jobs or room))

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._ours:
            self._ray.shutdown()

    def run(self, jobs: Sequence[Job], on_event: OnEvent, stopping: Callable[[], bool]) -> None:
        """Run jobs; see :class:`rlzoo.benchmark.job.Executor`."""
        token, token_file = uuid.uuid4().hex, self._folder / "driver.token"
        write_json_atomic(token_file, token)
        self._say_what_is_missing(on_event)
        try:
            mailbox = self._mailbox()
            task = self._ray.remote(
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                max_retries=self._retries,
                scheduling_strategy="SPREAD",
            )(run_task)

            def submit(number: int, job: Job) -> Any:
                text = job.with_threads(self._cpus).to_json()
                return task.remote(number, text, str(token_file), token, mailbox)

            tasks = Tasks(self._ray, submit, mailbox, jobs, on_event)
            tasks.run(self._jobs or len(jobs), stopping)
        finally:
            with contextlib.suppress(OSError):
                remove(token_file)

    def _connect(self, address: str | None) -> None:
        try:
            _knock(address or os.environ.get("RAY_ADDRESS"))
            self._ray.init(
                address=address, include_dashboard=None if address else False,
                log_to_driver=False, logging_level="warning", configure_logging=True,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError) as error:  # OSError: ConnectionError as well
            why = " ".join(str(error).split())[:200]
            raise RefusedError(
                f"No Ray cluster answers at {address!r}: {why}",
                todo="Start one with: ray start --head, or leave --address out.",
            ) from None

    def _mailbox(self) -> Any:
        """Start the mailbox on the node of the driver, which no lost node takes away."""
        ray = self._ray
        # Not soft: Ray then takes another node now and then, also where this one has room.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        ray.get(mailbox.take.remote())  # it is there before the first task
        return mailbox

    def _say_what_is_missing(self, on_event: OnEvent) -> None:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        wanted = {"CPU": self._cpus, "GPU": self._gpus}
        fits = [all(node.get(name, 0) >= n for name, n in wanted.items()) for node in nodes]
        if not any(fits):
            text = (
                f"No node has {self._cpus} CPUs and {self._gpus:g} GPUs; waiting for one that has."
            )
            on_event(Event("note", text=text))
