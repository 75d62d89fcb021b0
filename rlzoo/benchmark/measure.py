"""Policies that are measured and not trained: the floor of a table, evaluated as its agents are."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from rlzoo.agents.registry import get_agent
from rlzoo.benchmark.job import Job
from rlzoo.core.checkpoint import library_versions
from rlzoo.core.safe_files import write_json_atomic
from rlzoo.core.tasks.scores import describe_scale
from rlzoo.runs.directory import RunDirectory
from rlzoo.runs.policies import load_policy
from rlzoo.runs.progress import Progress
from rlzoo.runs.provenance import commit, machine
from rlzoo.runs.splits import Splits, Where, metrics_of
from rlzoo.runs.train import TrainRequest, settings_of


def measure(job: Job, progress: Progress) -> dict[str, Any]:
    """Evaluate the policy of a cell as the final policy of an agent, and write ``result.json``.

    Splits that differ in greedy or drawn actions only are left out: such a policy draws always.

    Args:
        job: A cell with an agent that it is ``like``.
        progress: Where messages go.

    Returns:
        The contents of ``result.json``.

    Raises:
        RefusedError: As :func:`rlzoo.runs.train.train`, for settings and environments.
    """
    cell, started = job.cell, time.monotonic()
    request = TrainRequest(
        cell.like or "", cell.env_id, cell.preset_to_take, seed=cell.seed,
        overrides=cell.overrides, eval_episodes=cell.eval_episodes,
    )  # fmt: skip
    settings = settings_of(request, get_agent(request.agent), job.device).run_settings()
    others = {n: s for n, s in settings.eval_splits.items() if "deterministic" not in s}
    settings = replace(settings, eval_splits=others)
    episodes = settings.final_eval_episodes or settings.eval_episodes
    policy = load_policy(cell.agent, cell.env_id)
    policy.set_random_seed(cell.seed)
    place, splits = Where.of(cell.env_id, settings), Splits(cell.env_id, settings)
    vec = place.make(episodes, settings.eval_envs)
    progress.message(f"Measuring {cell.agent} on {cell.env}: {episodes:,} episodes.")
    try:
        splits.check(vec)
        found = place.evaluate(policy, vec, episodes, cell.seed, "final", settings.eval_epsilon)
        of_splits = splits.evaluate(policy, cell.seed, "final", episodes, final=True)
        found = replace(found, splits=of_splits)
    finally:
        vec.close()
        splits.close()
    result = {
        "agent": cell.agent, "preset": cell.preset, "env": cell.env_id, "seed": cell.seed,
        "total_timesteps": 0, "final": found.summary(), "curve": [],
        "metrics": metrics_of(found),
        "splits": {name: split.summary() for name, split in of_splits.items()},
        "evaluation": {
            "policy": cell.agent, "episodes": episodes, "epsilon": settings.eval_epsilon,
            "n_envs": vec.num_envs, "scale": describe_scale(cell.env_id),
            "splits": splits.describe(),
        },
        "device": "cpu", "machine": machine(torch.device("cpu")), "versions": library_versions(),
        "commit": commit(), "command": job.command,
        "wall_seconds": round(time.monotonic() - started, 3),
    }  # fmt: skip
    job.run_dir.mkdir(parents=True, exist_ok=True)
    write_json_atomic(RunDirectory(job.run_dir).result, result)
    return result
