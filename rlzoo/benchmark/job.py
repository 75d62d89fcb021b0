"""A cell of a suite on its way to a worker, and what comes back. Plain data, no torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from rlzoo.benchmark.suite import Cell

FORMAT, VERSION = "rlzoo-cell", 1

FAILED = "rlzoo: the cell failed:"
"""The line in the output of a worker after which comes why."""


def facts_of(cell: Cell) -> dict[str, Any]:
    """Return a cell as plain JSON; equal cells give equal facts."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(cell)))  # tuples become lists
    for name in ("base", "variant", "like"):  # cells of most suites, and of earlier versions
        if not plain[name]:
            del plain[name]
    return {"format": FORMAT, "version": VERSION, **plain}


def cell_of(facts: dict[str, Any]) -> Cell:
    """Return the cell of :func:`facts_of`.

    Raises:
        ValueError: If the facts are not those of a cell of this version.
    """
    if (facts.get("format"), facts.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"not a cell of version {VERSION}")
    given = {name: value for name, value in facts.items() if name not in ("format", "version")}
    given["overrides"] = tuple(given.get("overrides", ()))
    try:
        return Cell(**given)
    except TypeError as error:
        raise ValueError(str(error)) from None


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file, None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Job:
    """A cell and all that a worker needs to run it.

    Args:
        cell: What to train.
        run_dir: Its run folder, absolute. Beside it lie ``<name>.log``, the output of the worker,
            and ``<name>.cell.json``, the cell that the folder belongs to.
        device: As for ``rlzoo train``.
        threads: Torch threads on the CPU.
    """

    cell: Cell
    run_dir: Path
    device: str = "cpu"
    threads: int = 1

    @property
    def log(self) -> Path:
        """What the workers of this cell printed."""
        return self.run_dir.with_name(self.run_dir.name + ".log")

    @property
    def cell_file(self) -> Path:
        """The cell that the run folder belongs to."""
        return self.run_dir.with_name(self.run_dir.name + ".cell.json")

    @property
    def command(self) -> str:
        """The command that trains, or measures, this cell alone."""
        cell = self.cell
        if cell.like is not None:
            of = {"--size": cell.size, "--agents": cell.agent, "--envs": cell.env}
            words = [word for pair in of.items() for word in pair]
            return shlex.join(["rlzoo", "benchmark", cell.suite, *words, f"--seeds={cell.seed}"])
        options = {
            "--env": cell.env_id, "--dataset": cell.dataset, "--preset": cell.preset_to_take,
            "--steps": cell.steps, "--seed": cell.seed, "--eval-freq": cell.eval_freq,
            "--eval-episodes": cell.eval_episodes, "--device": self.device,
            "--threads": self.threads,
        }  # fmt: skip
        words = ["rlzoo", "train", cell.agent]
        for name, value in options.items():
            words += [] if value is None else [name, str(value)]
        return shlex.join([*words, *(f"--set={override}" for override in cell.overrides)])

    def with_threads(self, threads: int) -> Job:
        """Return the same job for another number of threads."""
        return replace(self, threads=threads)

    def to_json(self) -> str:
        """Return one line of JSON."""
        facts = {"run_dir": str(self.run_dir), "device": self.device, "threads": self.threads}
        return json.dumps({**facts, "cell": facts_of(self.cell)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the job of :meth:`to_json`.

        Raises:
            ValueError: If it is something else.
        """
        try:
            facts = json.loads(text)
            cell, run_dir = cell_of(facts["cell"]), Path(facts["run_dir"])
            return cls(cell, run_dir, str(facts["device"]), int(facts["threads"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        status: ``"stopped"`` if it was asked to: there is nothing to record.
        result: The contents of ``result.json`` if it is ok.
        error: Why it failed, in one line.
    """

    status: Literal["ok", "failed", "stopped"]
    result: dict[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Event:
    """What an executor tells while it works.

    Args:
        kind: ``"started"`` (again after a lost node), ``"ended"`` (exactly once per job),
            ``"output"`` (lines that the worker printed on another machine) or ``"note"``.
        job: The job, None for a note.
        where: Of ``started``: process, GPU, node.
        outcome: Of ``ended``.
        text: Of ``output`` and ``note``.
    """

    kind: Literal["started", "ended", "output", "note"]
    job: Job | None = None
    where: str = ""
    outcome: Outcome | None = None
    text: str = ""


OnEvent = Callable[[Event], None]


class Executor(Protocol):
    """Where jobs run."""

    @property
    def slots(self) -> int:
        """How many jobs run at the same time, for the estimate of the remaining time."""

    def close(self) -> None:
        """Give back what it holds."""

    def run(self, jobs: Sequence[Job], on_event: OnEvent, stopping: Callable[[], bool]) -> None:
        """Run jobs; every one ends exactly once, whatever happens to its worker.

        Args:
            jobs: What to run, in this order.
            on_event: Called in the thread of the caller.
            stopping: Asked all the time; once it is true nothing new is started, and workers are
                asked to leave a checkpoint and end.
        """
