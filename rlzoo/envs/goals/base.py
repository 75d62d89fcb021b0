"""What rlzoo's own goal environments share: success, reward, spaces, goals that are asked for."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from rlzoo.errors import RefusedError

Observation = dict[str, NDArray[np.float32]]


class GoalEnv(gym.Env[Any, NDArray[np.float32]]):
    """Reach a goal: -1 for every step that does not end within ``distance_threshold`` of it.

    Episodes end at a time limit only, never at the goal, so that a policy learns to stay there and
    every episode has the same length. The infos of all steps have ``is_success``.

    Args:
        observation_space: Of the part ``observation``.
        goal_space: Of ``achieved_goal`` and ``desired_goal``.
        distance_threshold: Success is a distance below this one; see :meth:`goal_distance`.

    Raises:
        RefusedError: If the threshold is not above 0.
    """

    def __init__(
        self, observation_space: spaces.Box, goal_space: spaces.Box, distance_threshold: float
    ) -> None:
        if not 0 < distance_threshold < np.inf:
            raise RefusedError(
                f"distance_threshold={distance_threshold} is out of range.", "Allowed: above 0."
            )
        self.distance_threshold = distance_threshold
        self.goal_space = goal_space
        self.observation_space = goal_dict(observation_space, goal_space)

    def goal_distance(self, achieved: ArrayLike, desired: ArrayLike) -> NDArray[Any]:
        """Return the Euclidean distances ``[...]`` of goals ``[..., dg]``."""
        return distance(np.asarray(achieved), np.asarray(desired))

    def success(self, achieved: ArrayLike, desired: ArrayLike) -> NDArray[np.bool_]:
        """Return which goals ``[..., dg]`` are reached, ``[...]``."""
        reached: NDArray[np.bool_] = self.goal_distance(achieved, desired) < self.distance_threshold
        return reached

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """Return the rewards of goals, as SB3's ``HerReplayBuffer`` asks for them.

        Args:
            achieved_goal: ``[..., dg]``, those of the *next* observations.
            desired_goal: ``[..., dg]``.
            info: Not used.

        Returns:
            0 where the goal is reached, else -1: ``[...]`` float32, or a float for one goal.
        """
        reached = self.success(achieved_goal, desired_goal)
        return float(reached) - 1.0 if reached.ndim == 0 else reached.astype(np.float32) - 1

    def asked_goal(self, options: dict[str, Any] | None) -> NDArray[np.float64] | None:
        """Return the goal in the options of a reset, if there is one."""
        return check_goal((options or {}).get("goal"), self.goal_space)


def distance(achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[Any]:
    """Return ``|achieved - desired|`` over the last axis, the same to the bit for one and many."""
    squares = (achieved - desired) ** 2
    total = squares[..., 0]
    for index in range(1, squares.shape[-1]):  # NumPy's own sum depends on the memory layout.
        total = total + squares[..., index]
    return np.asarray(np.sqrt(total))


def goal_dict(observation: spaces.Box, goal: spaces.Box) -> spaces.Dict:
    """Return the space that Gymnasium's and SB3's goal environments have."""
    return spaces.Dict({"observation": observation, "achieved_goal": goal, "desired_goal": goal})


def check_goal(goal: Any, space: spaces.Box) -> NDArray[np.float64] | None:
    """Return a goal as an array; None stays None.

    Raises:
        RefusedError: If it is not one of the space, give or take rounding to float32.
    """
    if goal is None:
        return None
    values = np.asarray(goal, np.float64)
    if values.shape != space.shape or not space.contains(values.astype(np.float32)):
        raise RefusedError(f"{goal!r} is not a goal of this environment.", f"Goals: {space}.")
    return values
