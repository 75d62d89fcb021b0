"""The driver's side of Ray tasks: submits them, listens, and takes every outcome once."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rlzoo.benchmark.job import Event, Job, OnEvent, Outcome

PAUSE = 0.5
_LISTEN_SECONDS = 30.0


class Tasks:
    """Jobs, and the tasks that they became.

    Args:
        ray: The module.
        submit: Makes a task of a job and its number.
        mailbox: Handle of the actor to which tasks write.
        jobs: The jobs.
        on_event: Where events go.
    """

    def __init__(
        self,
        ray: Any,
        submit: Callable[[int, Job], Any],
        mailbox: Any,
        jobs: Sequence[Job],
        on_event: OnEvent,
    ) -> None:
        self._ray, self._submit, self._mailbox = ray, submit, mailbox
        self._jobs, self._on_event = jobs, on_event
        self._waiting = deque(range(len(jobs)))
        self._pending: dict[Any, int] = {}  # reference -> number
        self._started: set[int] = set()
        self._stopping = False

    def run(self, at_once: int, stopping: Callable[[], bool]) -> None:
        """Run all jobs, so many at the same time.

        Args:
            at_once: Number of tasks that are submitted and have not ended.
            stopping: As for :class:`rlzoo.benchmark.job.Executor`.
        """
        while self._waiting or self._pending:
            if stopping() and not self._stopping:
                self._stop()
            while self._waiting and len(self._pending) < at_once:
                number = self._waiting.popleft()
                self._pending[self._submit(number, self._jobs[number])] = number
            if not self._pending:
                continue
            ended, _ = self._ray.wait(
                list(self._pending), num_returns=len(self._pending), timeout=PAUSE
            )
            self._listen()
            for task in ended:
                job = self._jobs[self._pending.pop(task)]
                self._on_event(Event("ended", job, outcome=self._outcome(task)))

    def _stop(self) -> None:
        self._stopping = True
        self._mailbox.stop.remote()
        for task, number in self._pending.items():
            if number not in self._started:
                self._ray.cancel(task)
        while self._waiting:
            job = self._jobs[self._waiting.popleft()]
            self._on_event(Event("ended", job, outcome=Outcome("stopped")))

    def _listen(self) -> None:
        """Pass on what tasks wrote; without a mailbox there is nothing to pass on."""
        letters: list[tuple[int, str, str]] = []
        with contextlib.suppress(self._ray.exceptions.RayError):
            letters = self._ray.get(self._mailbox.take.remote(), timeout=_LISTEN_SECONDS)
        for number, kind, text in letters:
            job = self._jobs[number]
            if kind == "started":
                self._started.add(number)
                self._on_event(Event("started", job, text))
            else:
                self._on_event(Event("output", job, text=text))

    def _outcome(self, task: Any) -> Outcome:
        exceptions = self._ray.exceptions
        try:
            return Outcome(**self._ray.get(task))
        except exceptions.TaskCancelledError:
            return Outcome("stopped")
        except exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = f"Ray lost it: {type(error).__name__}: {' '.join(lines)[:400]}"
            return Outcome("stopped") if self._stopping else Outcome("failed", error=why)
