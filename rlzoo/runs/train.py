"""``rlzoo train``: from a request to a trained, evaluated, logged agent in a run folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stable_baselines3.common.vec_env import VecEnv

from rlzoo.agents.registry import AGENTS, AgentSpec, get_agent
from rlzoo.config.resolve import ResolvedConfig, dump, resolve
from rlzoo.core.device import configure_cpu, resolve_device
from rlzoo.core.seeding import check_seed
from rlzoo.data.recipes import get_recipe
from rlzoo.envs import make_vec
from rlzoo.envs.checks import check_action_space, check_env_id
from rlzoo.envs.training import TrainingVecEnv
from rlzoo.errors import RefusedError
from rlzoo.runs.callbacks import OnEvaluation
from rlzoo.runs.directory import RunDirectory, default_path
from rlzoo.runs.progress import Progress, Silent
from rlzoo.runs.training import Training, TrainResult, unit_of

__all__ = ["TrainRequest", "TrainResult", "environments", "settings_of", "train"]


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
        eval_epsilon: Share of random actions in evaluations.
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
    eval_epsilon: float | None = None
    n_envs: int | None = None
    threads: int | None = None
    command: str = ""


def settings_of(request: TrainRequest, spec: AgentSpec, device_type: str) -> ResolvedConfig:
    """Return the checked settings of a request; its own options win over every file."""
    options = {
        "steps": request.steps,
        "eval_freq": request.eval_freq,
        "eval_episodes": request.eval_episodes,
        "eval_epsilon": request.eval_epsilon,
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


def train(
    request: TrainRequest,
    progress: Progress | None = None,
    on_evaluation: OnEvaluation | None = None,
) -> TrainResult:
    """Train an agent.

    Args:
        request: What to train.
        progress: Where messages and the bar go.
        on_evaluation: Gets step and mean return of every evaluation; False stops the training.

    Raises:
        RefusedError: For anything wrong with the request; nothing was trained.
        StoppedError: If a signal asked for an end; there is a checkpoint to continue from. Its
            ``number`` is 0 if ``on_evaluation`` asked for it.
        FailedError: If training broke off; the state is in the run folder.
    """
    progress = progress or Silent()
    spec, seed = get_agent(request.agent), check_seed(request.seed)
    if request.dataset is not None and not (spec.needs_data or spec.demonstrations):
        learners = ", ".join(
            name for name, other in AGENTS.items() if other.needs_data or other.demonstrations
        )
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
    path = request.run_dir or default_path(
        Path("runs"), config.env_id, spec.name, config.preset, seed
    )
    with environments(config, seed) as vec:
        fitting = {name: other.action_spaces for name, other in AGENTS.items()}
        check_action_space(spec.action_spaces, vec, spec.name, fitting)
        with RunDirectory.create(path) as run:
            progress.message(
                f"{spec.name} on {config.env_id}, preset {config.preset} "
                f"({config.preset_source}), device {device}, {threads} threads, "
                f"{config.run_settings().steps:,} {unit_of(spec)}."
            )
            if request.env_id is None and spec.paper_env:
                progress.message(_other_env(spec))
            training = Training(
                run, spec, config, vec, seed, str(device), request.command, progress,
                on_evaluation=on_evaluation,
            )  # fmt: skip
            return training.run_to_end()


@contextlib.contextmanager
def environments(config: ResolvedConfig, seed: int) -> Iterator[VecEnv]:
    """Make the training environments of a run, and close them at the end."""
    settings = config.run_settings()
    inner = make_vec(
        config.env_id, settings.n_envs, seed, processes=settings.processes, training=True,
        **settings.env_kwargs,
    )  # fmt: skip
    vec = TrainingVecEnv(inner, settings.env_timeout)
    try:
        yield vec
    finally:
        vec.close()


def _other_env(spec: AgentSpec) -> str:
    """Return a line that names the environment of the paper, and what is missing for it."""
    line = f"As in the paper: rlzoo train {spec.name} --env {spec.paper_env}"
    try:
        check_env_id(spec.paper_env)
    except RefusedError as error:
        return f"{line}. {error.todo}"
    return line


def _env_of(dataset: str | None) -> str | None:
    """Return the environment of a recipe; other data sets say theirs when they are loaded."""
    try:
        return None if dataset is None else get_recipe(dataset).env_id
    except RefusedError:
        return None
