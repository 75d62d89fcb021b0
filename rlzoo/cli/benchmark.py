"""``rlzoo benchmark``."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlzoo.errors import RefusedError

if TYPE_CHECKING:
    from rlzoo.benchmark.driver import BenchmarkRequest, Plan, Summary
    from rlzoo.benchmark.job import Executor
    from rlzoo.benchmark.progress import Observer
    from rlzoo.runs.progress import Progress


class Where(StrEnum):
    """Executors."""

    local = "local"
    ray = "ray"


def benchmark(
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="Name of a suite, or path of a .yaml file.")
    ],
    size: Annotated[
        str, typer.Option(metavar="NAME", help="Size of the suite: smoke, small, paper …")
    ] = "smoke",
    agents: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these agents of the suite.")
    ] = None,
    envs: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these environments of the suite.")
    ] = None,
    presets: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these presets of the suite.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1", help="These seeds instead of the suite's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder; by default runs/bench/<suite>/<size>."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Cells at the same time; by default what fits."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Threads per cell; by default cores / jobs, in Ray 1."
        ),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="0,1|none|SHARE",
            help="Local: numbers of GPUs, taken in turn; default all. Ray: GPUs per cell, as 0.5.",
        ),
    ] = None,
    executor: Annotated[
        Where, typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = Where.local,
    address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Of a running Ray cluster: auto, host:port.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(help="Run what is missing or failed in the folder; otherwise refuse it."),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells with estimated time; run nothing.")
    ] = False,
    json_lines: Annotated[
        bool, typer.Option("--json", help="One JSON object per event on stdout.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only failures and a line.")] = False,
) -> None:
    """Run a suite: every agent, environment and seed once; calling it again does only the rest."""
    from rlzoo.benchmark.driver import BenchmarkRequest, make_plan, run

    if address is not None and executor is not Where.ray:
        raise RefusedError("--address is for --executor ray.")
    request = BenchmarkRequest(
        suite=suite,
        size=size,
        agents=_names(agents, "--agents"),
        envs=_names(envs, "--envs"),
        seeds=_integers(seeds),
        presets=_names(presets, "--presets"),
        out=out,
        resume=resume,
    )
    plan = make_plan(request)
    if dry_run:
        slots = jobs or _default_slots(executor)
        print(_cells_as_json(plan) if json_lines else _cells_as_table(plan, slots))
        return
    place, device = _executor(executor, plan, jobs, threads, gpus, address)
    try:
        observer, data = _observer(json_lines, quiet)
        summary = run(_on(request, device), place, observer, data)
    finally:
        place.close()
    if not json_lines:
        print(_summary(summary, plan.out))
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


def _names(text: str | None, option: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise RefusedError(f"{option} {text!r} has no name.", "Names with commas between them.")
    return names


def _integers(text: str | None) -> tuple[int, ...] | None:
    names = _names(text, "--seeds")
    try:
        return None if names is None else tuple(int(name) for name in names)
    except ValueError:
        raise RefusedError(f"--seeds {text!r} is not understood.", "Allowed: 0,1,2.") from None


def _executor(
    where: Where, plan: Plan, jobs: int | None, threads: int | None, gpus: str | None,
    address: str | None,
) -> tuple[Executor, str]:  # fmt: skip
    """Return the executor, and the device of the cells."""
    if where is Where.ray:
        from rlzoo.benchmark.ray_cluster import RayExecutor

        share = _share(gpus)
        place = RayExecutor(plan.out, address, jobs, threads or 1, share)
        return place, "cuda" if share else "cpu"
    from rlzoo.benchmark.local import LocalExecutor, visible_gpus

    found = visible_gpus() if gpus is None else (_names(gpus, "--gpus") or ())
    found = () if found == ("none",) else found
    return LocalExecutor(jobs, threads, found), "cuda" if found else "cpu"


def _share(text: str | None) -> float:
    """Return GPUs per cell of a Ray cluster."""
    try:
        share = 0.0 if text in (None, "none") else float(text or "")
    except ValueError:
        share = -1.0
    if not 0 <= share < float("inf"):
        raise RefusedError(
            f"--gpus {text!r} is not understood.", "With Ray: GPUs per cell, as 1 or 0.5, or none."
        )
    return share


def _on(request: BenchmarkRequest, device: str) -> BenchmarkRequest:
    from dataclasses import replace

    return replace(request, device=device)


def _observer(json_lines: bool, quiet: bool) -> tuple[Observer, Progress]:
    from rlzoo.benchmark.progress import Bar, JsonLines, Quiet
    from rlzoo.cli.console import ConsoleProgress
    from rlzoo.runs.progress import Silent

    if json_lines:
        return JsonLines(), Silent()
    return (Quiet(), Silent()) if quiet else (Bar(), ConsoleProgress())


def _default_slots(where: Where) -> int:
    from rlzoo.benchmark.local import usable_cores

    return usable_cores() if where is Where.local else 1


def _cells_as_json(plan: Plan) -> str:
    """Return one line per cell."""
    return "\n".join(
        json.dumps(
            {
                "event": "cell",
                "cell": asdict(cell),
                "status": plan.status(cell),
                "seconds": plan.estimator.seconds(cell),
                "run_dir": str(cell.run_dir(plan.out)),
            }
        )
        for cell in plan.cells
    )


def _cells_as_table(plan: Plan, slots: int) -> str:
    from rlzoo.benchmark.estimate import Tracker, duration
    from rlzoo.report.tables import text_table

    columns = ("agent", "preset", "env", "seed", "data", "steps", "evaluation", "status", "time")
    rows = [
        (cell.agent, cell.preset, cell.env, str(cell.seed), cell.dataset or "-",
         f"{cell.steps:,}", f"{cell.eval_episodes} per {cell.eval_freq:,}", plan.status(cell),
         duration(plan.estimator.seconds(cell)))
        for cell in plan.cells
    ]  # fmt: skip
    done = [cell.key for cell in plan.cells if plan.is_done(cell)]
    tracker = Tracker(plan.cells, done, plan.estimator, slots)
    known = sum(plan.estimator.seconds(cell) is not None for cell in tracker.waiting.values())
    lines = [
        f"{plan.suite.name}: {plan.suite.title}, size {plan.request.size}, in {plan.out}",
        text_table(columns, rows, right=("seed", "steps", "time")),
        f"{len(plan.cells)} cells, {len(done)} done, {len(tracker.waiting)} to run",
    ]
    left = tracker.remaining() if tracker.waiting else 0.0
    lines[-1] += f": {duration(left)} with {slots} at a time, without collecting data."
    if known < len(tracker.waiting):
        lines.append("The time of an agent is known once a cell of it has a record.")
    return "\n".join([*lines, *plan.problems])


def _summary(summary: Summary, out: Path) -> str:
    numbers = [f"{summary.done} done", f"{len(summary.failed)} failed"]
    if summary.missing:
        numbers.append(f"{summary.missing} missing")
    lines = [f"{', '.join(numbers)}. Records: {out / 'results.jsonl'}"]
    if summary.exit_code:
        lines.append("The same command again runs only what failed or is missing.")
    lines.append(f"Table: rlzoo leaderboard show {out}")
    return "\n".join(lines)
