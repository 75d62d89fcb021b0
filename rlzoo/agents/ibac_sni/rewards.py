"""Rewards divided by the running deviation of the discounted return, as ``VecNormalize`` does.

In the agent instead of a wrapper, so that environments, their episode statistics and evaluations
keep the rewards of the task, and a checkpoint of the agent has all of it. The statistics are plain
numbers, which every file format of rlzoo and SB3 keeps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd

CLIP, EPSILON = 10.0, 1e-8


def new_statistics() -> dict[str, float]:
    """Return those before the first reward, with the small count that SB3 begins with."""
    return {"mean": 0.0, "var": 1.0, "count": 1e-4}


def scale_rewards(
    rewards: NDArray[Any],
    starts: NDArray[Any],
    returns: NDArray[np.float64],
    statistics: dict[str, float],
    gamma: float,
) -> tuple[NDArray[np.float32], NDArray[np.float64], dict[str, float]]:
    """Take one step of all environments into account.

    Nothing is changed in place: whoever keeps the state of the start of a rollout keeps it.

    Args:
        rewards: ``[n_envs]``.
        starts: Whether this was the first step of an episode, ``[n_envs]``.
        returns: Discounted returns so far, ``[n_envs]``.
        statistics: From :func:`new_statistics`.
        gamma: Discount factor.

    Returns:
        The scaled rewards, the new returns and the new statistics.
    """
    returns = gamma * np.where(starts, 0.0, returns) + rewards
    moments = RunningMeanStd(shape=())
    moments.mean, moments.var = np.array(statistics["mean"]), np.array(statistics["var"])
    moments.count = statistics["count"]
    moments.update(returns)
    scaled = np.clip(rewards / np.sqrt(moments.var + EPSILON), -CLIP, CLIP).astype(np.float32)
    found = {"mean": float(moments.mean), "var": float(moments.var), "count": moments.count}
    return scaled, returns, found
