"""From a suite to records: what is done stays, what is missing or failed is run, once each.

The folder of a benchmark holds ``results.jsonl``, to which only the driver adds, and
``results/<agent>/<env>/seed_<n>``, ordinary run folders. It may be killed at any time: what has a
result is not run again, and what was started goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlzoo.benchmark.estimate import Estimator, Tracker
from rlzoo.benchmark.job import Event, Executor, Job, Outcome, facts_of, read_json
from rlzoo.benchmark.progress import Observer
from rlzoo.benchmark.suite import SUITE_COPY, Cell, Key, Suite, cells, known_suites, load_suite
from rlzoo.core.safe_files import write_atomic
from rlzoo.errors import RefusedError, RlzooError
from rlzoo.report import records
from rlzoo.report.records import Record
from rlzoo.runs.directory import RunDirectory, safe_name
from rlzoo.runs.progress import Progress, Silent
from rlzoo.runs.signals import StopSignals

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class BenchmarkRequest:
    """What ``rlzoo benchmark`` was asked for.

    Args:
        suite: Name of a suite, or path of a ``.yaml`` file.
        size: Size of the suite.
        agents: Keep only these; None keeps all.
        envs: Keep only these.
        seeds: Take these instead of the ones of the size.
        presets: Keep only these presets; None keeps all.
        out: Folder; by default ``runs/bench/<suite>/<size>``.
        resume: Go on with what is in the folder; otherwise it may not hold records.
        device: As for ``rlzoo train``.
    """

    suite: str
    size: str = "smoke"
    agents: Sequence[str] | None = None
    envs: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    presets: Sequence[str] | None = None
    out: Path | None = None
    resume: bool = True
    device: str = "cpu"


@dataclass(frozen=True)
class Plan:
    """What a request means, given what is in its folder.

    Args:
        request: The request.
        suite: The suite.
        out: Folder of the benchmark, absolute.
        cells: All cells.
        records: The record that counts of each cell that has one.
        estimator: Knows the speed of earlier cells.
        problems: Lines of ``results.jsonl`` that were skipped, with the reason.
    """

    request: BenchmarkRequest
    suite: Suite
    out: Path
    cells: tuple[Cell, ...]
    records: dict[Key, Record]
    estimator: Estimator
    problems: tuple[str, ...]

    def job(self, cell: Cell) -> Job:
        """Return the job of a cell."""
        return Job(cell, cell.run_dir(self.out), self.request.device)

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell has a result, and the suite still means the same by it."""
        record = self.records.get(cell.key)
        if record is None or record.status != "ok":
            return False
        return self._is_of(cell, record.total_timesteps)

    def _is_of(self, cell: Cell, steps: int | None) -> bool:
        now_other = read_json(self.job(cell).cell_file) not in (None, facts_of(cell))
        return not now_other and (steps is None or steps >= cell.steps)

    def status(self, cell: Cell) -> str:
        """Return ``done``, ``failed``, ``started`` or ``missing``."""
        if self.is_done(cell):
            return "done"
        record = self.records.get(cell.key)
        if record is not None and record.status == "failed":
            return "failed"
        return "started" if (self.job(cell).run_dir / "manifest.json").is_file() else "missing"

    def finished_result(self, cell: Cell) -> dict[str, Any] | None:
        """Return the result of a run that ended when nobody was there to record it."""
        job = self.job(cell)
        result = read_json(job.run_dir / "result.json")
        if not isinstance(result, dict) or read_json(job.cell_file) != facts_of(cell):
            return None
        steps = result.get("total_timesteps")
        return result if isinstance(steps, int) and self._is_of(cell, steps) else None


@dataclass(frozen=True)
class Summary:
    """How a benchmark ended.

    Args:
        done: Cells with a result.
        failed: Cells without one that were tried, with their records.
        missing: Cells that were not tried to the end.
        signal: The signal that ended it early, None if none did.
    """

    done: int
    failed: tuple[Record, ...]
    missing: int
    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """128 + signal, 1 if a cell has no result, otherwise 0."""
        if self.signal is not None:
            return 128 + self.signal
        return 1 if self.failed or self.missing else 0


def make_plan(request: BenchmarkRequest) -> Plan:
    """Return what a request means; nothing is written.

    Raises:
        RefusedError: For an unknown suite, size, agent, environment, or a seed out of range.
    """
    suite = load_suite(request.suite)
    found = cells(suite, request.size, request.agents, request.envs, request.seeds, request.presets)
    out = request.out or Path("runs", "bench", safe_name(suite.name), safe_name(request.size))
    out = out.expanduser().absolute()
    if not request.resume and (out / RESULTS).exists():
        raise RefusedError(
            f"{out} has records already.", "", "Go on with --resume, or give another --out."
        )
    folders = {cell.run_dir(out) for cell in found}
    if len(folders) < len(found):
        raise RefusedError(f"Two cells of {suite.name} have the same run folder.")
    read = records.read(out / RESULTS)
    keys = {cell.key for cell in found}
    # Records of other libraries are compared with ours but do not replace them.
    ours = [record for record in read.records if record.source == "rlzoo"]
    counting = {key: record for key, record in records.latest(ours).items() if key in keys}
    other_sizes = (path for path in out.parent.glob(f"*/{RESULTS}") if path.parent != out)
    earlier = records.read(sorted(other_sizes)).records
    estimator = Estimator(record for record in [*earlier, *ours] if record.suite == suite.name)
    return Plan(request, suite, out, tuple(found), counting, estimator, tuple(read.problems))


def run(
    request: BenchmarkRequest,
    executor: Executor,
    observer: Observer,
    data_progress: Progress | None = None,
) -> Summary:
    """Run what is missing or failed, and record every cell once.

    Args:
        request: What to run.
        executor: Where.
        observer: Who is told.
        data_progress: Where the collection of data sets reports.

    Raises:
        RefusedError: As :func:`make_plan`; or if the folder is in use or cannot be written.
    """
    out = make_plan(request).out
    with _Folder.claim(out):
        plan = make_plan(request)  # Another driver may have ended in between.
        _keep_suite(request.suite, out)
        for problem in plan.problems:
            observer.message(problem)
        done = [cell.key for cell in plan.cells if plan.is_done(cell)]
        tracker = Tracker(plan.cells, done, plan.estimator, executor.slots)
        recorder = _Recorder(plan, observer, tracker)
        recorder.harvest()
        to_do = [cell for cell in plan.cells if cell.key in tracker.waiting]
        without_data = _collect(to_do, data_progress or Silent())
        observer.begin(tracker)
        try:
            with StopSignals(observer.message) as stop:
                for cell in to_do:
                    if cell.dataset in without_data:
                        recorder.end(plan.job(cell), without_data[cell.dataset])
                jobs = [plan.job(cell) for cell in to_do if cell.dataset not in without_data]
                executor.run(jobs, recorder, lambda: stop.requested is not None)
        finally:
            observer.finish()
        failed = tuple(recorder.failed)
        missing = tracker.total - len(tracker.done) - len(failed)
        return Summary(len(tracker.done), failed, missing, stop.requested)


def _keep_suite(name_or_path: str, out: Path) -> None:
    """Copy a suite of one's own beside its records, so that a leaderboard knows what it is."""
    if name_or_path not in known_suites():
        write_atomic(out / SUITE_COPY, Path(name_or_path).read_text(encoding="utf-8"))


def _collect(to_do: Sequence[Cell], progress: Progress) -> dict[str | None, Outcome]:
    """Collect the data sets that are absent; return those that cannot be had, with the reason."""
    from rlzoo.benchmark.execute import collect_once  # imports torch; not every run has data

    failures: dict[str | None, Outcome] = {}
    for name in dict.fromkeys(cell.dataset for cell in to_do):
        if name is None:
            continue
        try:
            collect_once(name, progress)
        except (RlzooError, OSError) as error:
            why = f"data set {name}: {' '.join(str(error).split())}"
            failures[name] = Outcome("failed", error=why)
    return failures


class _Recorder:
    """Turns events of an executor into records and messages."""

    def __init__(self, plan: Plan, observer: Observer, tracker: Tracker) -> None:
        self._plan, self._observer, self._tracker = plan, observer, tracker
        self.failed: list[Record] = []

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if event.job is None:
            self._observer.message(event.text)
        elif event.kind == "started":
            self._tracker.started(event.job.cell)
            self._observer.started(event.job.cell, event.where)
        elif event.kind == "output":
            with contextlib.suppress(OSError), open(event.job.log, "a", encoding="utf-8") as log:
                log.write(event.text)
        elif event.outcome is not None:
            self.end(event.job, event.outcome)

    def harvest(self) -> None:
        """Record runs that ended after an earlier driver was killed."""
        for cell in list(self._tracker.waiting.values()):
            result = self._plan.finished_result(cell)
            if result is not None:
                self.end(self._plan.job(cell), Outcome("ok", result))

    def end(self, job: Job, outcome: Outcome) -> None:
        """Record how a job ended."""
        record = None if outcome.status == "stopped" else self._record(job, outcome)
        if record is not None:
            try:
                records.append(self._plan.out / RESULTS, record)
            except OSError as error:  # the run folder has the result: the next call records it
                why = f"its record was not written: {error.strerror or error}"
                record = _failure(job, self._plan.out, why)
            if record.status == "failed":
                self.failed.append(record)
        self._tracker.ended(job.cell, record)
        self._observer.ended(job.cell, record)

    def _record(self, job: Job, outcome: Outcome) -> Record:
        cell, out = job.cell, self._plan.out
        if outcome.status == "failed" or outcome.result is None:
            return _failure(job, out, outcome.error or "there is no result")
        try:
            return records.from_result(
                outcome.result, cell.suite, cell.size, agent=cell.agent, preset=cell.preset,
                env=cell.env, seed=cell.seed, run_dir=_inside(job.run_dir, out),
            )  # fmt: skip
        except RefusedError as error:
            return _failure(job, out, error.given)


def _failure(job: Job, out: Path, why: str) -> Record:
    cell = job.cell
    return Record(
        suite=cell.suite, size=cell.size, agent=cell.agent, preset=cell.preset, env=cell.env,
        seed=cell.seed, status="failed", error=why, dataset=cell.dataset, command=job.command,
        run_dir=_inside(job.run_dir, out), date=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _inside(path: Path, folder: Path) -> str:
    """Return a path below a folder without it, so that the folder may be moved."""
    return path.relative_to(folder).as_posix()


class _Folder(RunDirectory):
    """The folder of a benchmark, with the lock of a run folder."""

    @classmethod
    def claim(cls, path: Path) -> _Folder:
        """Make it if it is missing, and lock it.

        Raises:
            RefusedError: If it is in use or cannot be written.
        """
        folder = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder._take()
        except OSError as error:
            raise RefusedError(
                f"Benchmark folder {str(path)[:120]} cannot be used: {error.strerror or error}.",
                "It must be a folder that can be made and written.",
                "Give another one with --out.",
            ) from None
        except RefusedError as error:
            raise RefusedError(
                error.given.replace("Run folder", "Benchmark folder"),
                "Two benchmarks never share a folder.",
                error.todo.replace("--run-dir", "--out"),
            ) from None
        return folder
