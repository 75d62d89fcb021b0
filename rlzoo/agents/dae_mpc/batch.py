"""Batch mode: fit to a fixed data set, and choose alpha without an environment (page, 2.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from tqdm import tqdm

from rlzoo.agents.dae_mpc.fitting import error_quantile, prediction_error
from rlzoo.agents.dae_mpc.memory import Stored, from_buffer, from_dataset
from rlzoo.core.dataset_buffer import TransitionsLike
from rlzoo.errors import FailedError, RefusedError

if TYPE_CHECKING:
    from rlzoo.agents.dae_mpc.dae_mpc import DAEMPC

FIRST_ALPHA, GROWTH, TRIALS = 1e-3, 2.0, 24
N_STATES = 64  # held-out states that plans are made from
N_STRETCHES = 20
QUANTILE = 0.95


@dataclass(frozen=True)
class OfflineFit:
    """What a fit to a data set found; errors in normalised units.

    Args:
        model_mse: Error of one predicted step on held-out data.
        error_q95: Quantile of the denoiser's error on held-out data; None without a denoiser.
        alpha: Weight of the penalty that is used.
        trials: ``(alpha, median penalty per window of the plans)`` of the rule, in order.
    """

    model_mse: float
    error_q95: float | None
    alpha: float
    trials: tuple[tuple[float, float], ...] = ()


def fit_offline(
    agent: DAEMPC,
    dataset: TransitionsLike | ReplayBuffer,
    gradient_steps: int,
    alpha: float | Literal["rule"] | None,
    held_out: float,
    progress_bar: bool,
) -> OfflineFit:
    """Fit an agent; see ``DAEMPC.fit_offline``."""
    policy = agent.policy
    data = _read(agent, dataset)
    kept = _held_out(len(data), held_out)
    learned, held = data.where(~kept), data.where(kept)
    held = held if len(held) else learned
    policy.set_training_mode(True)
    prepared = agent._prepare(learned, measure=True)
    per_epoch = -(-len(learned) // agent.batch_size)
    with tqdm(total=gradient_steps, disable=not progress_bar, unit="step") as bar:
        agent._fit(
            prepared, -(-gradient_steps // per_epoch), gradient_steps,
            on_step=lambda step, _: _advance(bar, step),
        )  # fmt: skip
    policy.set_training_mode(False)
    unseen = agent._prepare(held, measure=False)
    quantile = None
    if policy.denoiser is not None:
        quantile = float(error_quantile(policy.denoiser, unseen.windows, QUANTILE))
    trials: tuple[tuple[float, float], ...] = ()
    if alpha == "rule":
        trials = choose_alpha(agent, held)
    elif alpha is not None:
        agent.set_alpha(alpha)
    return OfflineFit(
        float(prediction_error(policy.dynamics, unseen)), quantile, agent.alpha, trials
    )


def _advance(bar: Any, step: int) -> None:
    bar.update(step - bar.n)


def _held_out(n: int, share: float) -> th.Tensor:
    """Return which rows are not learned from, booleans ``[n]``: the ends of equal stretches.

    Stretches, since windows need rows that follow each other; many, since data sets are sorted.
    """
    length = -(-n // N_STRETCHES)
    return th.arange(n) % length >= length - int(share * length)


def _read(agent: DAEMPC, dataset: TransitionsLike | ReplayBuffer) -> Stored:
    if isinstance(dataset, ReplayBuffer):
        data = from_buffer(dataset)
    else:
        data = from_dataset(dataset, agent.device)
    widths = (data.observations.shape[1], data.actions.shape[1])
    mine = (agent.policy.task.n_observations, agent.policy.task.n_actions)
    if widths != mine or not len(data):
        raise RefusedError(
            f"Data of {len(data)} rows with {widths[0]} observations and {widths[1]} actions.",
            f"This {type(agent).__name__} was made for {mine[0]} and {mine[1]}.",
            "Take data of the same environment and version.",
        )
    return data


def plan_errors(agent: DAEMPC, start: th.Tensor) -> th.Tensor:
    """Return the denoiser's error of every window of the plans made from states ``[B, S]``.

    Returns:
        ``[H - w + 1, B]``, without hinge or target.
    """
    policy = agent.policy
    with th.no_grad():
        decided, _ = policy.decide(start, None, None, deterministic=True)
        return policy.errors(policy.dynamics.rollout(start, decided.plans.unsqueeze(2)).pairs)


def choose_alpha(agent: DAEMPC, held: Stored) -> tuple[tuple[float, float], ...]:
    """Raise alpha until plans look like data: no environment is asked (page, 2.6, d).

    Alpha grows by factors of two from 1e-3 until the median error of the windows of plans made from
    held-out states falls below the 95th percentile of the error on held-out data.

    Args:
        agent: Has been fitted; its alpha is set.
        held: Data that it has not learned from.

    Returns:
        ``(alpha, median error)`` of every trial; the last is the one that was taken.

    Raises:
        RefusedError: If there is no denoiser.
        FailedError: If no alpha is enough.
    """
    policy = agent.policy
    if policy.denoiser is None:
        raise RefusedError("There is no denoiser to tell what is familiar.", "Allowed: dae=True.")
    unseen = agent._prepare(held, measure=False)
    limit = float(error_quantile(policy.denoiser, unseen.windows, QUANTILE))
    every = max(len(held) // N_STATES, 1)
    start = held.observations[::every][:N_STATES]
    alpha, trials = FIRST_ALPHA, []
    for _ in range(TRIALS):
        agent.set_alpha(alpha)
        median = float(plan_errors(agent, start).median())
        trials.append((alpha, median))
        if median < limit:
            return tuple(trials)
        alpha *= GROWTH
    raise FailedError(
        f"Plans stay unfamiliar whatever alpha is, up to {agent.alpha:g}.",
        f"Median error of their windows {trials[-1][1]:.3g}, limit {limit:.3g}.",
        "Plan with a shorter horizon, or choose alpha yourself.",
    )
