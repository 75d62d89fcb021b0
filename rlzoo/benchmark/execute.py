"""What runs inside of the process of one cell: ``python -m rlzoo.benchmark.execute JOB.json``.

With ``-`` the job is the first line of stdin, and the process ends with a checkpoint, as by
SIGTERM, when stdin is closed: whoever started it is gone, even by SIGKILL.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from rlzoo.benchmark.job import FAILED, Job, facts_of, read_json
from rlzoo.benchmark.measure import measure
from rlzoo.core.safe_files import remove, write_json_atomic
from rlzoo.errors import RefusedError, RlzooError
from rlzoo.runs.datasets import ensure_dataset, list_known, one_at_a_time
from rlzoo.runs.directory import LOCK, RunDirectory
from rlzoo.runs.progress import Progress
from rlzoo.runs.resume import ResumeRequest, resume
from rlzoo.runs.train import TrainRequest, train

PATIENCE = 60.0
"""Seconds that a worker waits for the one before it, which leaves its checkpoint after a kill."""


class Lines:
    """Progress as lines of a log."""

    def __init__(self) -> None:
        self._label, self._total = "", 0

    def message(self, text: str) -> None:
        """Write a line."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a task."""
        self._label, self._total = label, total
        self.message(f"{label}: {total:,} {unit}")

    def update(self, done: int, note: str = "") -> None:
        """Write a line if there is something to say."""
        if note:
            self.message(f"{self._label}: {done:,}/{self._total:,}, {note}")

    def stop(self) -> None:
        """Nothing to do."""


def run_job(job: Job, progress: Progress, patience: float = PATIENCE) -> dict[str, Any]:
    """Train the cell of a job, or go on with it, and return its ``result.json``.

    Args:
        job: What to train, and where.
        progress: Where messages go.
        patience: Seconds to wait while another process has the run folder.

    Raises:
        RefusedError, FailedError, StoppedError: As :func:`rlzoo.runs.train.train`.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return _run(job, progress)
        except RefusedError:
            # A lock that stays after the refusal is that of another process.
            if time.monotonic() > deadline or not (job.run_dir / LOCK).exists():
                raise
            time.sleep(0.5)


def _run(job: Job, progress: Progress) -> dict[str, Any]:
    run, facts = RunDirectory(job.run_dir), facts_of(job.cell)
    if job.run_dir.exists() and read_json(job.cell_file) not in (None, facts):
        aside = _set_aside(job.run_dir)
        progress.message(f"The suite has changed this cell; the earlier run is in {aside}.")
    write_json_atomic(job.cell_file, facts)
    if job.cell.like is not None:
        return measure(job, progress)
    if run.manifest.is_file() and run.config.is_file():
        try:
            return _go_on(job, progress)
        except RefusedError as error:
            if run.lock.exists():
                raise
            return _start_over(job, progress, error)
    _clear(run)
    return _train(job, progress)


def _go_on(job: Job, progress: Progress) -> dict[str, Any]:
    request = ResumeRequest(job.run_dir, agent=job.cell.agent, command=job.command)
    found = resume(request, progress)
    if found is not None:
        return found.record
    record: dict[str, Any] = json.loads(RunDirectory(job.run_dir).result.read_text("utf-8"))
    return record


def _start_over(job: Job, progress: Progress, why: RefusedError) -> dict[str, Any]:
    """Train from the beginning, because half of a result by other code is none."""
    aside = _set_aside(job.run_dir)
    progress.message(f"{' '.join(str(why).split())} It starts again; the earlier run: {aside}.")
    try:
        return _train(job, progress)
    except RefusedError:
        if not job.run_dir.exists():  # Not even a new run is possible: nothing is lost.
            aside.rename(job.run_dir)
        raise


def _train(job: Job, progress: Progress) -> dict[str, Any]:
    cell = job.cell
    if cell.dataset is not None:
        collect_once(cell.dataset, progress)
    request = TrainRequest(
        agent=cell.agent,
        env_id=cell.env_id,
        preset=cell.preset_to_take,
        dataset=cell.dataset,
        steps=cell.steps,
        seed=cell.seed,
        run_dir=job.run_dir,
        device=job.device,
        overrides=cell.overrides,
        eval_freq=cell.eval_freq,
        eval_episodes=cell.eval_episodes,
        threads=job.threads,
        command=job.command,
    )
    return train(request, progress).record


def collect_once(source: str, progress: Progress) -> None:
    """Collect a recipe if it is absent; processes of one machine do it one after the other.

    Raises:
        RefusedError: If there is no such data set.
    """
    if any(known.id == source and known.here for known in list_known()):
        return
    with one_at_a_time(source):
        ensure_dataset(source, progress)


def _set_aside(folder: Path) -> Path:
    names = (folder.with_name(f"{folder.name}.old-{n}") for n in itertools.count(1))
    aside = next(path for path in names if not path.exists())
    folder.rename(aside)
    return aside


def _clear(run: RunDirectory) -> None:
    """Remove what a run leaves that was killed before its manifest: nothing was trained."""
    if not run.path.is_dir():
        return
    for path in run.path.iterdir():
        if path == run.config or ".tmp-" in path.name:
            remove(path)


def _end_with_parent() -> None:
    """Wait until stdin is closed, and stop this process as SIGTERM does."""
    # Not sys.stdin: its lock would be held when the interpreter ends.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _read_line() -> str:
    """Return the first line of stdin without reading more than it."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


def main(argv: list[str]) -> int:
    """Run the job of a file, or of stdin for ``-``; return the exit code."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m rlzoo.benchmark.execute JOB.json | -\n")
        return 2
    try:
        job = Job.from_json(_read_line() if argv[0] == "-" else Path(argv[0]).read_text("utf-8"))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{FAILED}\n{argv[0]} is not a job: {error}\n")
        return 2
    if argv[0] == "-":
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run_job(job, Lines())
    except RlzooError as error:
        sys.stderr.write(f"{FAILED}\n{error}\n")
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        sys.stderr.write(f"{FAILED}\n{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
