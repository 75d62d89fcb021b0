"""``rlzoo train``: from a request to a trained, evaluated, logged agent in a run folder."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.agents.registry import AGENTS, AgentSpec, get_agent
from rlzoo.config.resolve import ResolvedConfig, dump, resolve
from rlzoo.core import checkpoint
from rlzoo.core.checkpoint import library_versions
from rlzoo.core.device import configure_cpu, resolve_device
from rlzoo.core.finite import NonFiniteError
from rlzoo.core.safe_zip import save_model
from rlzoo.core.seeding import check_seed, stream
from rlzoo.data.recipes import default_for, get_recipe
from rlzoo.data.transitions import Transitions
from rlzoo.envs import make_vec
from rlzoo.envs.checks import check_action_space, check_env_id, policy_for
from rlzoo.errors import RefusedError
from rlzoo.runs.callbacks import (
    CheckpointCallback,
    EvaluationCallback,
    ProgressCallback,
    state_of,
)
from rlzoo.runs.datasets import ensure_dataset
from rlzoo.runs.directory import RunDirectory, default_path
from rlzoo.runs.evaluate import evaluate, make_eval_env
from rlzoo.runs.progress import Progress, Silent
from rlzoo.runs.provenance import commit, machine


@dataclass(frozen=True)
class TrainRequest:
    """What ``rlzoo train`` was asked for; None leaves a choice to the configuration.

    Args:
        agent: Name in the registry.
        env_id: Environment id.
        preset: Name of a preset.
        dataset: Recipe id, Minari id or path, for agents that need data.
        steps: Environment steps, or gradient steps of an offline agent.
        seed: Seed in [0, 2**32 - 1].
        run_dir: Run folder; by default a new one under ``runs/``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …
        overrides: ``"key=value"`` strings.
        config_file: YAML file of settings.
        eval_freq: Steps between evaluations.
        eval_episodes: Episodes per evaluation.
        n_envs: Environments side by side.
        threads: Torch threads on the CPU.
        command: The command line, for the record.
    """

    agent: str
    env_id: str | None = None
    preset: str | None = None
    dataset: str | None = None
    steps: int | None = None
    seed: int = 0
    run_dir: Path | None = None
    device: str = "auto"
    overrides: tuple[str, ...] = ()
    config_file: Path | None = None
    eval_freq: int | None = None
    eval_episodes: int | None = None
    n_envs: int | None = None
    threads: int | None = None
    command: str = ""


@dataclass
class TrainResult:
    """What training left behind.

    Args:
        run_dir: The run folder.
        record: The contents of ``result.json``.
        model: The trained agent.
        data_returns: ``mean`` and ``std`` of the returns of the data set, None for online agents.
        curve: Step, mean and standard deviation of every evaluation of the training.
    """

    run_dir: Path
    record: dict[str, Any]
    model: BaseAlgorithm
    data_returns: dict[str, float] | None = None
    curve: list[tuple[int, float, float]] = field(default_factory=list)


def settings_of(request: TrainRequest, spec: AgentSpec, device_type: str) -> ResolvedConfig:
    """Return the checked settings of a request; its own options win over every file."""
    options = {
        "steps": request.steps,
        "eval_freq": request.eval_freq,
        "eval_episodes": request.eval_episodes,
        "n_envs": request.n_envs,
        "dataset": request.dataset,
    }
    # JSON is YAML: a path that looks like a number or has a '#' in it stays text.
    given = [f"run.{n}={json.dumps(value)}" for n, value in options.items() if value is not None]
    overrides = [*request.overrides, *given]
    return resolve(
        spec, request.env_id, request.preset, overrides, device_type, request.config_file
    )


def show_settings(request: TrainRequest) -> str:
    """Return the settings that :func:`train` would take as YAML, each with its source.

    Raises:
        RefusedError: As :func:`train`, for anything that the settings or names tell.
    """
    if request.env_id is not None:
        check_env_id(request.env_id)
    device = resolve_device(request.device)
    return dump(settings_of(request, get_agent(request.agent), device.type))


def train(request: TrainRequest, progress: Progress | None = None) -> TrainResult:
    """Train an agent.

    Raises:
        RefusedError: For anything wrong with the request; nothing was trained.
        FailedError: If training broke off; the state is in the run folder.
    """
    progress = progress or Silent()
    spec, seed = get_agent(request.agent), check_seed(request.seed)
    if request.dataset is not None and not spec.needs_data:
        learners = ", ".join(name for name, other in AGENTS.items() if other.needs_data)
        raise RefusedError(
            f"{spec.name} learns from its environment, not from a data set.",
            f"Agents that learn from data: {learners}.",
        )
    env_id = request.env_id or _env_of(request.dataset)
    if env_id is not None:
        check_env_id(env_id)
        request = replace(request, env_id=env_id)
    device = resolve_device(request.device)
    threads = configure_cpu(request.threads)
    config = settings_of(request, spec, device.type)
    check_env_id(config.env_id)
    run_settings = config.run_settings()
    path = request.run_dir or default_path(
        Path("runs"), config.env_id, spec.name, config.preset, seed
    )
    vec = make_vec(config.env_id, run_settings.n_envs, seed, **run_settings.env_kwargs)
    try:
        fitting = {name: other.action_spaces for name, other in AGENTS.items()}
        check_action_space(spec.action_spaces, vec, spec.name, fitting)
        with RunDirectory.create(path) as run:
            progress.message(
                f"{spec.name} on {config.env_id}, preset {config.preset} "
                f"({config.preset_source}), device {device}, {threads} threads, "
                f"{run_settings.steps:,} {_unit(spec)}."
            )
            return _train_in(run, request, spec, config, vec, str(device), progress)
    finally:
        vec.close()


def _env_of(dataset: str | None) -> str | None:
    """Return the environment of a recipe; other data sets say theirs when they are loaded."""
    try:
        return None if dataset is None else get_recipe(dataset).env_id
    except RefusedError:
        return None


def _unit(spec: AgentSpec) -> str:
    return "updates" if spec.needs_data else "environment steps"


def _train_in(
    run: RunDirectory, request: TrainRequest, spec: AgentSpec, config: ResolvedConfig,
    vec: VecEnv, device: str, progress: Progress,
) -> TrainResult:  # fmt: skip
    settings = config.run_settings()
    data = _dataset(spec, config, progress) if spec.needs_data else None
    model = _make_model(spec, config, vec, data, request.seed, device)
    # From here on nothing is refused: a folder that holds files is one of a run that was started.
    run.write_text(run.config, dump(config))
    manifest = _manifest(request, config, data, model)
    run.write_json(run.manifest, {**manifest, "status": "running"})
    model.set_logger(configure(str(run.path), ["csv", "tensorboard"]))

    eval_env = make_eval_env(config.env_id, settings.eval_episodes, **settings.env_kwargs)
    evaluation = EvaluationCallback(
        eval_env, config.env_id, settings.eval_freq, settings.eval_episodes, request.seed, progress
    )
    checkpoints = CheckpointCallback(run, settings.checkpoint_freq, evaluation, progress)
    bar = ProgressCallback(progress, settings.steps, _unit(spec))
    progress.start(f"training {spec.name}", settings.steps, _unit(spec))
    started = time.monotonic()
    try:
        model.learn(settings.steps, callback=CallbackList([evaluation, checkpoints, bar]))
        model.logger.close()
        seconds = time.monotonic() - started
        final = evaluate(
            model, eval_env, config.env_id, settings.eval_episodes, request.seed, "final"
        )
    except NonFiniteError as error:
        aside = checkpoint.save_aside(run.path, error.step, state_of(model, evaluation))
        run.write_json(run.manifest, {**manifest, "status": "failed", "error": str(error)})
        error.todo = f"The bad state is in {aside}; earlier checkpoints are untouched."
        raise
    finally:
        progress.stop()
        eval_env.close()
    save_model(model, run.model)
    best = evaluation.best
    record = {
        **manifest,
        "total_timesteps": model.num_timesteps,
        "final": final.summary(),
        "best": None if best is None else {**best[1].summary(), "step": best[0]},
        "curve": [[step, point.return_mean] for step, point in evaluation.curve],
        "wall_seconds": round(seconds, 3),
        "steps_per_second": round(model.num_timesteps / max(seconds - evaluation.seconds, 1e-9), 2),
    }  # fmt: skip
    run.write_json(run.result, record)
    run.write_json(run.manifest, {**manifest, "status": "finished"})
    returns = None if data is None else data.return_statistics()
    curve = [(step, point.return_mean, point.return_std) for step, point in evaluation.curve]
    return TrainResult(run.path, record, model, returns, curve)


def _dataset(spec: AgentSpec, config: ResolvedConfig, progress: Progress) -> Transitions:
    source = config.run_settings().dataset or default_for(config.env_id)
    data = ensure_dataset(source, progress)
    statistics = data.return_statistics()
    progress.message(
        f"Data set {data.dataset_id}: {len(data):,} transitions, {data.n_episodes:,} episodes, "
        f"return {statistics['mean']:.0f} +- {statistics['std']:.0f}."
    )
    return data


def _make_model(
    spec: AgentSpec, config: ResolvedConfig, vec: VecEnv, data: Transitions | None,
    seed: int, device: str,
) -> BaseAlgorithm:  # fmt: skip
    action_size = int(np.prod(vec.action_space.shape)) if vec.action_space.shape else None
    arguments = config.build(action_size)
    if data is not None:
        arguments["dataset"] = data
    cls, policy = spec.load_class(), policy_for(vec.observation_space)
    if policy not in cls.policy_aliases:
        raise RefusedError(
            f"{spec.name} has no {policy}, which the observations of {config.env_id} need.",
            f"It has: {', '.join(cls.policy_aliases)}.",
        )
    model: BaseAlgorithm = cls(policy, vec, seed=seed, device=device, **arguments)
    # The constructor seeded the environments with seed + index; the named streams win, so that
    # training and evaluation never share an initial state.
    vec._seeds = [stream(seed, "env", index) for index in range(vec.num_envs)]
    return model


def _manifest(
    request: TrainRequest, config: ResolvedConfig, data: Transitions | None, model: BaseAlgorithm
) -> dict[str, Any]:
    return {
        "agent": config.agent_name,
        "preset": config.preset,
        "env": config.env_id,
        "seed": request.seed,
        "dataset": None if data is None else data.dataset_id,
        "dataset_fingerprint": None if data is None else data.fingerprint,
        "device": str(model.device),
        "machine": machine(model.device),
        "versions": library_versions(),
        "commit": commit(),
        "command": request.command,
    }
