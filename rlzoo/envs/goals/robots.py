"""Wrappers that make the robots of gymnasium-robotics look the same in every back end."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.errors import RefusedError

MAZE_THRESHOLD = 0.45
"""PointMaze's, which is written into its code; Fetch has an attribute."""


class FetchPositionsOnly(gym.ObservationWrapper[Any, Any, Any]):
    """Keep only the first numbers of ``observation``, as the goalGAIL paper does with 10 of 25.

    Those are the positions of gripper and block, of the block relative to the gripper, and of one
    finger: no second finger, rotation, or velocity.

    Args:
        env: An environment with dict observations.
        count: How many numbers to keep.

    Raises:
        RefusedError: If there are not that many.
    """

    def __init__(self, env: gym.Env[Any, Any], count: int = 10) -> None:
        super().__init__(env)
        self.count = count
        self.observation_space = first_numbers_space(env.observation_space, count)

    def observation(self, observation: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the shorter observation."""
        return first_numbers(observation, self.count)


class Succeeding(gym.Wrapper[Any, Any, Any, Any]):
    """Put a Boolean ``is_success`` into the infos of all steps, and say the threshold.

    Fetch calls it ``is_success`` and gives a float, PointMaze calls it ``success``.
    """

    @property
    def distance_threshold(self) -> float:
        """Distance below which a goal is reached."""
        return float(getattr(self.env.unwrapped, "distance_threshold", MAZE_THRESHOLD))

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["is_success"] = bool(info.get("is_success", info.get("success")))
        return observation, reward, terminated, truncated, info


def first_numbers(observation: dict[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
    """Return the observation, of one or many, with a shorter part ``observation``."""
    return {**observation, "observation": observation["observation"][..., :count].copy()}


def first_numbers_space(space: Any, count: Any) -> spaces.Dict:
    """Return the space of :func:`first_numbers`.

    Raises:
        RefusedError: If the part ``observation`` does not have that many numbers.
    """
    part = space["observation"] if isinstance(space, spaces.Dict) else None
    size = part.shape[0] if isinstance(part, spaces.Box) and len(part.shape) == 1 else 0
    if not isinstance(part, spaces.Box) or not isinstance(count, int) or not 1 <= count <= size:
        raise RefusedError(
            f"positions_only={count!r} does not fit the observation space {space}.",
            f"Allowed: 1 to {size}; the paper's is 10 of the 25 of Fetch with a block.",
        )
    kept = spaces.Box(part.low[:count], part.high[:count], dtype=np.dtype(part.dtype).type)
    return spaces.Dict({**space.spaces, "observation": kept})
