"""``rlzoo tune``: from a request to a study, its trials, and the best settings as a file."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlzoo.agents.registry import AGENTS, AgentSpec, get_agent
from rlzoo.config.resolve import CONSTRUCTOR, ResolvedConfig, Value, dump
from rlzoo.core.device import resolve_device
from rlzoo.core.safe_files import write_atomic
from rlzoo.core.seeding import check_seed
from rlzoo.data.recipes import default_for, get_recipe
from rlzoo.envs.checks import check_action_space, check_env_id
from rlzoo.errors import FailedError, RefusedError, did_you_mean
from rlzoo.runs.datasets import ensure_dataset
from rlzoo.runs.directory import safe_name
from rlzoo.runs.progress import Progress, Silent
from rlzoo.runs.provenance import plain_settings
from rlzoo.runs.signals import StoppedError
from rlzoo.runs.train import TrainRequest, environments, settings_of
from rlzoo.tune.space import Dimension, load_space, without
from rlzoo.tune.study import PRUNERS, Study, TrialRow, load_optuna
from rlzoo.tune.trial import Plan, work
from rlzoo.tune.workers import work_together

_HEADER = "# Best settings that rlzoo tune found"
_EVALUATIONS = 10
"""Evaluations of a trial that would have fewer; pruning needs some."""


@dataclass(frozen=True)
class TuneRequest:
    """What ``rlzoo tune`` was asked for.

    Args:
        request: The training of every trial; ``seed`` is that of the first trial and of the search.
        study: Folder of the study; one per environment and agent below ``runs/tune`` by default.
        trials: Number of trials of the whole study, those of earlier calls included.
        jobs: Processes.
        pruner: ``median``, ``hyperband`` or ``none``.
        timeout: Seconds after which no trial begins; None for no limit.
        space: File of the search space; that of the agent by default.
        out: Where the best settings are written; ``best.yaml`` in the study by default.
    """

    request: TrainRequest
    study: Path | None = None
    trials: int = 20
    jobs: int = 1
    pruner: str = "median"
    timeout: float | None = None
    space: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class TuneResult:
    """What a search found.

    Args:
        folder: Folder of the study.
        rows: Its trials, in the order of their numbers.
        best: The best complete trial.
        config: File with its settings.
    """

    folder: Path
    rows: list[TrialRow]
    best: TrialRow
    config: Path


def tune(request: TuneRequest, progress: Progress | None = None) -> TuneResult:
    """Search for good settings.

    Raises:
        RefusedError: For anything wrong with the request, or if Optuna is missing.
        StoppedError: If a signal asked for an end; the study can be continued.
        FailedError: If no trial was completed.
    """
    progress = progress or Silent()
    load_optuna()
    base, spec = request.request, get_agent(request.request.agent)
    _check(request, spec)
    config, base = _settings(base, spec, request.pruner)
    space = without(load_space(spec, request.space), base.overrides)
    folder = request.study or Path("runs/tune") / safe_name(config.env_id) / spec.name
    out = request.out or folder / "best.yaml"
    _refuse_other(out)
    if spec.needs_data:  # once, not by every process
        ensure_dataset(config.run_settings().dataset or default_for(config.env_id), progress)
    settings = config.run_settings()
    make_study = functools.partial(
        Study, folder, _facts(config, space), space, base.seed,
        settings.steps // settings.eval_freq, request.pruner,
    )  # fmt: skip
    study = make_study()
    deadline = None if request.timeout is None else time.time() + request.timeout
    plan = Plan(base, settings.steps, settings.eval_freq, request.trials, deadline)
    progress.message(_announcement(request, study, space))
    try:
        if request.jobs > 1:
            work_together(plan, make_study, request.jobs, progress)
        else:
            work(plan, study, progress, progress.message)
    except (StoppedError, KeyboardInterrupt) as error:
        raise _stopped(error, study, config, base, out) from None
    return _result(study, config, base, out)


def best_of(rows: Sequence[TrialRow]) -> TrialRow | None:
    """Return the complete trial with the highest return; the earliest of equals."""
    complete = [row for row in rows if row.state == "complete" and row.value is not None]
    return max(complete, key=lambda row: (row.value, -row.number), default=None)


def write_best(
    best: TrialRow, study: Study, config: ResolvedConfig, base: TrainRequest, out: Path
) -> None:
    """Write the settings of a trial as a file for ``rlzoo train --config``.

    It has everything that is not a default of the constructor, so that later changes of the
    shipped configurations do not reach it.
    """
    overrides = tuple(d.override(_plain(best.settings[d.key], d)) for d in study.space)
    request = replace(base, overrides=(*base.overrides, *overrides))
    device = resolve_device(base.device)
    full = settings_of(request, get_agent(base.agent), device.type)
    tuned = {d.key.removeprefix("run.").split(".")[0] for d in study.space}
    told = f"tuned, trial {best.number}"

    def chosen(values: dict[str, Value]) -> dict[str, Value]:
        return {
            name: Value(value.value, told if name in tuned else value.source)
            for name, value in values.items()
            if value.source not in (CONSTRUCTOR, "default")
        }

    short = replace(full, agent=chosen(full.agent), run=chosen(full.run))
    done = sum(row.state in ("complete", "pruned", "failed") for row in study.rows())
    write_atomic(
        out,
        f"{_HEADER}: trial {best.number} of {done} of {study.folder},\n"
        f"# return {best.value:,.2f}, seed {best.seed}, {config.run_settings().steps:,} steps.\n"
        f"# rlzoo train {base.agent} --config {out}\n{dump(short)}",
    )


def _plain(value: Any, dimension: Dimension) -> Any:
    return json.dumps(value, sort_keys=True) if dimension.kind == "choice" else value


def _check(request: TuneRequest, spec: AgentSpec) -> None:
    for name, value in (("trials", request.trials), ("jobs", request.jobs)):
        if value < 1:
            raise RefusedError(f"--{name} {value} is out of range.", "Allowed: 1 and more.")
    if request.timeout is not None and not request.timeout > 0:
        raise RefusedError(f"--timeout {request.timeout} is out of range.", "Allowed: above 0.")
    if request.pruner not in PRUNERS:
        raise RefusedError(
            f"Unknown pruner {request.pruner!r}. {did_you_mean(request.pruner, PRUNERS)}".strip(),
            f"Pruners: {', '.join(PRUNERS)}.",
        )
    if request.request.dataset is not None and not spec.needs_data:
        raise RefusedError(f"{spec.name} learns from its environment, not from a data set.")


def _settings(
    base: TrainRequest, spec: AgentSpec, pruner: str
) -> tuple[ResolvedConfig, TrainRequest]:
    """Return the settings that all trials share, and the request that gives them."""
    check_seed(base.seed)
    env_id = base.env_id
    if env_id is None and base.dataset is not None and base.dataset.startswith("rlzoo/"):
        env_id = get_recipe(base.dataset).env_id
    if env_id is not None:
        check_env_id(env_id)
    base = replace(base, env_id=env_id)
    device = resolve_device(base.device)
    config = settings_of(base, spec, device.type)
    check_env_id(config.env_id)
    settings = config.run_settings()
    if base.eval_freq is None and pruner != "none":
        often = min(settings.eval_freq, max(1, settings.steps // _EVALUATIONS))
        base = replace(base, eval_freq=often)
    # Preset and environment are those of now, whatever a trial changes.
    base = replace(base, env_id=config.env_id, preset=config.preset)
    config = settings_of(base, spec, device.type)
    with environments(config, base.seed) as vec:
        fitting = {name: other.action_spaces for name, other in AGENTS.items()}
        check_action_space(spec.action_spaces, vec, spec.name, fitting)
    return config, base


def _facts(config: ResolvedConfig, space: Sequence[Dimension]) -> dict[str, Any]:
    """Return what trials of one study have in common."""
    tuned = {d.key.removeprefix("run.").split(".")[0] for d in space}
    settings = {
        name: value
        for name, value in plain_settings(config).items()
        if name.split(".", 1)[1] not in tuned
    }
    return {
        "agent": config.agent_name,
        "env": config.env_id,
        "preset": config.preset,
        "settings": settings,
    }


def _refuse_other(out: Path) -> None:
    """Refuse to replace a file that rlzoo tune did not write, before hours of work."""
    if out.is_dir():
        raise RefusedError(f"{out} is a folder.", todo="Give a file with --out.")
    if out.exists() and not out.read_bytes().startswith(_HEADER.encode()):
        raise RefusedError(
            f"{out} exists and was not written by rlzoo tune.", todo="Give another --out."
        )


def _announcement(request: TuneRequest, study: Study, space: Sequence[Dimension]) -> str:
    ended = sum(row.state in ("complete", "pruned", "failed") for row in study.rows())
    before = f", {ended} of them made before" if ended else ""
    return (
        f"Study {study.folder}: {request.trials} trials{before}, pruner {request.pruner}, "
        f"searching {', '.join(d.key for d in space)}."
    )


def _stopped(
    error: BaseException, study: Study, config: ResolvedConfig, base: TrainRequest, out: Path
) -> StoppedError:
    number = error.number if isinstance(error, StoppedError) else 2
    rows = study.rows()
    best = best_of(rows)
    ended = sum(row.state in ("complete", "pruned", "failed") for row in rows)
    said = f"Stopped after {ended} trials."
    if best is not None:
        write_best(best, study, config, base, out)
        said += f" The best so far is trial {best.number}, return {best.value:,.1f}: {out}"
    return StoppedError(number, said, todo="The same command continues the study.")


def _result(study: Study, config: ResolvedConfig, base: TrainRequest, out: Path) -> TuneResult:
    rows = study.rows()
    best = best_of(rows)
    if best is None:
        failed = [row for row in rows if row.state == "failed"]
        reason = f" The last one: {failed[-1].error}." if failed else ""
        raise FailedError(
            f"No trial was completed; {len(failed)} of {len(rows)} failed.{reason}",
            todo=f"Their folders are in {study.folder / 'trials'}; the same command goes on.",
        )
    write_best(best, study, config, base, out)
    return TuneResult(study.folder, rows, best, out)


def threads_for(jobs: int, threads: int | None) -> int | None:
    """Return torch threads per process, so that all processes together have one per core."""
    if threads is not None or jobs <= 1:
        return threads
    return max(1, (os.cpu_count() or 1) // jobs)
