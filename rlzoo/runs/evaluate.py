"""Evaluation: undiscounted return of a policy over whole episodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.core.seeding import get_states, seed_everything, set_states, stream
from rlzoo.data.scores import normalized_score
from rlzoo.envs import make_vec

MAX_EVAL_ENVS = 10


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        return_mean: Mean undiscounted return.
        return_std: Standard deviation over episodes (population).
        episodes: Number of episodes.
        length_mean: Mean length in steps.
        normalized: 100 (R - random) / (expert - random) with D4RL's reference returns; None where
            there are none for the environment.
    """

    return_mean: float
    return_std: float
    episodes: int
    length_mean: float
    normalized: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """Return the fields that ``result.json`` has."""
        names = ("return_mean", "return_std", "episodes", "normalized")
        return {name: getattr(self, name) for name in names}


def make_eval_env(env_id: str, episodes: int, **env_kwargs: Any) -> VecEnv:
    """Make the environments of an evaluation: as many as episodes, at most ten."""
    return make_vec(env_id, n_envs=min(episodes, MAX_EVAL_ENVS), **env_kwargs)


def evaluate(
    model: PolicyPredictor,
    env: VecEnv,
    env_id: str,
    episodes: int,
    seed: int,
    name: str | int = "eval",
    deterministic: bool = True,
) -> Evaluation:
    """Run whole episodes.

    Initial states and whatever the policy draws depend on ``seed`` and ``name`` only, and the
    global generators are left as they were: evaluating more often does not change a training.

    Args:
        model: Anything with SB3's ``predict``.
        env: From :func:`make_eval_env`.
        env_id: Id of the environment, for the normalised score.
        episodes: Number of episodes.
        seed: Seed of the run.
        name: Name of the evaluation, which keeps its streams apart from those of training.
        deterministic: Passed to ``predict``.
    """
    returns, lengths = run_episodes(model, env, episodes, seed, name, deterministic)
    mean = float(np.mean(returns))
    return Evaluation(
        return_mean=mean,
        return_std=float(np.std(returns)),
        episodes=len(returns),
        length_mean=float(np.mean(lengths)),
        normalized=normalized_score(env_id, mean),
    )


def run_episodes(
    model: PolicyPredictor,
    env: VecEnv,
    episodes: int,
    seed: int,
    name: str | int = "eval",
    deterministic: bool = True,
    first: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Run whole episodes as :func:`evaluate` does.

    Args:
        model: Anything with SB3's ``predict``.
        env: From :func:`make_eval_env`.
        episodes: Number of episodes.
        seed: Seed of the run.
        name: Name of the evaluation.
        deterministic: Passed to ``predict``.
        first: Number of the first episode; those of an evaluation start as these do one by one.

    Returns:
        Undiscounted returns and lengths, each ``[episodes]``.
    """
    # VecEnv.seed adds the index of the environment; named streams do not overlap.
    env._seeds = [stream(seed, "eval", name, first + index) for index in range(env.num_envs)]
    states = get_states()
    seed_everything(stream(seed, "eval", name, *(("from", first) if first else ())))
    try:
        found = evaluate_policy(
            model, env, episodes, deterministic=deterministic, return_episode_rewards=True
        )
    finally:
        set_states(states)
    returns, lengths = (np.asarray(values, dtype=np.float64) for values in found)
    return returns, lengths
