"""``rlzoo train``: from a request to a trained, evaluated, logged agent in a run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.agents.registry import AgentSpec, get_agent
from rlzoo.config.resolve import ResolvedConfig, dump, resolve
from rlzoo.core import checkpoint
from rlzoo.core.checkpoint import library_versions
from rlzoo.core.device import configure_cpu, resolve_device
from rlzoo.core.finite import NonFiniteError
from rlzoo.core.safe_zip import save_model
from rlzoo.core.seeding import check_seed, stream
from rlzoo.data.recipes import default_for
from rlzoo.data.transitions import Transitions
from rlzoo.envs import make_vec
from rlzoo.envs.checks import check_action_space, check_env_id, policy_for
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
        data_mean: Mean return of the data set, None for online agents.
    """

    run_dir: Path
    record: dict[str, Any]
    model: BaseAlgorithm
    data_mean: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def settings_of(request: TrainRequest, spec: AgentSpec, device_type: str) -> ResolvedConfig:
    """Return the checked settings of a request; its own options win over every file."""
    options = {
        "steps": request.steps,
        "eval_freq": request.eval_freq,
        "eval_episodes": request.eval_episodes,
        "n_envs": request.n_envs,
        "dataset": request.dataset,
    }
    given = [f"run.{name}={value}" for name, value in options.items() if value is not None]
    overrides = [*request.overrides, *given]
    return resolve(
        spec, request.env_id, request.preset, overrides, device_type, request.config_file
    )


def train(request: TrainRequest, progress: Progress | None = None) -> TrainResult:
    """Train an agent.

    Raises:
        RefusedError: For anything wrong with the request; nothing was trained.
        FailedError: If training broke off; the state is in the run folder.
    """
    progress = progress or Silent()
    spec, seed = get_agent(request.agent), check_seed(request.seed)
    if request.env_id is not None:
        check_env_id(request.env_id)
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
        check_action_space(spec, vec.action_space, config.env_id)
        with RunDirectory.create(path) as run:
            progress.message(
                f"{spec.name} on {config.env_id}, preset {config.preset} "
                f"({config.preset_source}), device {device}, {threads} threads, "
                f"{run_settings.steps:,} {_unit(spec)}."
            )
            return _train_in(run, request, spec, config, vec, str(device), progress)
    finally:
        vec.close()


def _unit(spec: AgentSpec) -> str:
    return "updates" if spec.needs_data else "environment steps"


def _train_in(
    run: RunDirectory, request: TrainRequest, spec: AgentSpec, config: ResolvedConfig,
    vec: VecEnv, device: str, progress: Progress,
) -> TrainResult:  # fmt: skip
    run.write_text(run.config, dump(config))
    settings = config.run_settings()
    data = _dataset(spec, config, progress) if spec.needs_data else None
    model = _make_model(spec, config, vec, data, request.seed, device)
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
    summary = ("return_mean", "return_std", "episodes", "normalized")
    record = {
        **manifest,
        "total_timesteps": model.num_timesteps,
        "final": {name: getattr(final, name) for name in summary},
        "best": None if best is None else {**{n: getattr(best[1], n) for n in summary}, "step": best[0]},
        "curve": [[step, point.return_mean] for step, point in evaluation.curve],
        "wall_seconds": round(seconds, 3),
        "steps_per_second": round(model.num_timesteps / max(seconds - evaluation.seconds, 1e-9), 2),
    }  # fmt: skip
    run.write_json(run.result, record)
    run.write_json(run.manifest, {**manifest, "status": "finished"})
    mean = None if data is None else data.return_statistics()["mean"]
    return TrainResult(run.path, record, model, mean)


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
    model: BaseAlgorithm = spec.load_class()(
        policy_for(vec.observation_space), vec, seed=seed, device=device, **arguments
    )
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
