"""After a training: a fresh policy in the learnt world model, and what it reaches in reality."""

from __future__ import annotations

import importlib
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from rlzoo.agents.registry import AGENTS, AgentSpec
from rlzoo.core.safe_zip import save_model
from rlzoo.errors import RefusedError
from rlzoo.runs.directory import RunDirectory
from rlzoo.runs.outputs import run_logger
from rlzoo.runs.progress import Progress
from rlzoo.runs.signals import StopNowError, StopSignals

FOLDER, MODEL = "dream", "dream_model.zip"
"""Curve of the dream, and the policy that was trained in it, below the folder of a run."""
LEARNT = "learnt"


def check_agent(spec: AgentSpec) -> None:
    """Refuse an agent without a world model.

    Raises:
        RefusedError: If it has none.
    """
    if not spec.dreams:
        dreamers = ", ".join(name for name, other in AGENTS.items() if other.dreams)
        raise RefusedError(
            f"{spec.name} learns no world model, so that nothing can be trained in it.",
            f"Agents with one: {dreamers}.",
            "Leave --then-dream (run.then_dream) out.",
        )


def check_model(spec: AgentSpec, model: BaseAlgorithm, kind: str = LEARNT) -> None:
    """Refuse a model that has no world model, or whose task is not known without its dynamics.

    Args:
        spec: The agent.
        model: The model.
        kind: ``"learnt"``, or ``"predicted"``, for which only the task must be known.

    Raises:
        RefusedError: If it cannot dream.
    """
    dreamer: Any = model
    if kind == LEARNT:
        dreamer.dream_env().close()
    else:
        _module(spec, "deployment").task_of(model)


def train_in_dream(
    spec: AgentSpec, model: BaseAlgorithm, run: RunDirectory, generations: int, kind: str,
    seed: int, progress: Progress, stop: StopSignals,
) -> dict[str, Any]:  # fmt: skip
    """Train a fresh policy in the frozen world model of an agent, and play it in the real task.

    The mean return in the dream is logged per generation in ``dream/`` of the run, and the policy
    is ``dream_model.zip``. What it does depends on model and seed alone, so that it is repeated
    when a run goes on.

    Args:
        spec: The agent.
        model: As it is after its training.
        run: Its run folder.
        generations: Of the fresh policy.
        kind: Of the world model, ``"learnt"`` or ``"predicted"``.
        seed: Of the run.
        progress: Where messages and the bar go.
        stop: A signal breaks it off.

    Returns:
        ``return_mean``, ``return_std`` and ``episodes`` in the real task; ``dream_return_mean`` and
        ``dream_return_std`` in the dream; ``generations``.

    Raises:
        StopNowError: If a signal asked for an end.
    """
    dream: Any = None
    if kind != LEARNT:
        progress.message("Training a world model to predict, on the data of a model-free agent.")
        with stop.at_once():
            dream = _module(spec, "supervised").predicted_dream(model, seed=seed)
    logger = run_logger(run.path / FOLDER, progress.message)
    progress.start("training in the dream", generations, "generations")

    def on_generation(number: int, score: float) -> None:
        logger.record("dream/pop_mean", score)
        logger.record("dream/generation", number)
        logger.dump(number)
        told = number == generations or number % max(generations // 10, 1) == 0
        progress.update(number, f"return in the dream {score:.0f}" if told else "")
        if stop.requested is not None:
            raise StopNowError

    dreamer: Any = model
    try:
        result = dreamer.train_in_dream(
            generations=generations, seed=seed, on_generation=on_generation, dream=dream
        )
    finally:
        progress.stop()
        logger.close()
    save_model(result.agent, run.path / MODEL)
    found = result.summary()
    record = {
        "return_mean": found["real_return_mean"],
        "return_std": found["real_return_std"],
        "episodes": int(found["n_episodes"]),
        "dream_return_mean": found["dream_return_mean"],
        "dream_return_std": found["dream_return_std"],
        "generations": generations,
        "world_model": kind,
    }
    for name in ("return_mean", "dream_return_mean"):
        model.logger.record(f"dream/{name}", record[name])
    model.logger.record("time/total_timesteps", model.num_timesteps, exclude="tensorboard")
    model.logger.dump(model.num_timesteps)
    return record


def _module(spec: AgentSpec, name: str) -> Any:
    """Return a module beside the class of an agent that dreams."""
    return importlib.import_module(f"{spec.class_path.partition(':')[0]}.{name}")


def metrics_of(record: dict[str, Any] | None) -> dict[str, float]:
    """Return what a record's ``metrics`` get of :func:`train_in_dream`; nothing of None."""
    if record is None:
        return {}
    return {
        "deployed_return": record["return_mean"],
        "dream_return": record["dream_return_mean"],
    }
