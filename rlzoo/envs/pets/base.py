"""What the tasks with a MuJoCo model of this package share."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Step = tuple[Vector, np.float64, bool, bool, dict[str, Any]]

RENDER_MODES = ["human", "rgb_array", "depth_array", "rgbd_tuple"]
_ASSETS = Path(__file__).parent / "assets"


class OwnModelEnv(MujocoEnv, EzPickle):
    """Rewards the state after the step; episodes end at the time limit only.

    Args:
        model: File in ``assets``.
        frame_skip: Steps of the simulation per action.
        n_observations: Width of an observation.
        camera: Name of the camera that draws.
        render_mode: As in Gymnasium.
    """

    metadata: dict[str, Any] = {"render_modes": RENDER_MODES}  # noqa: RUF012 - as in Gymnasium

    def __init__(
        self, model: str, frame_skip: int, n_observations: int, camera: str, render_mode: str | None
    ) -> None:
        EzPickle.__init__(self, render_mode=render_mode)
        space = Box(-np.inf, np.inf, (n_observations,), np.float64)
        MujocoEnv.__init__(
            self, str(_ASSETS / model), frame_skip, space, render_mode=render_mode,
            camera_name=camera,
        )  # fmt: skip
        self.metadata = {**self.metadata, "render_fps": round(1 / self.dt)}

    @abstractmethod
    def _get_obs(self) -> Vector:
        """Return the observation."""

    @abstractmethod
    def _reward(self, observation: Vector, action: Vector) -> float:
        """Return the reward of the step that led to the observation."""

    def step(self, action: NDArray[np.float32]) -> Step:
        """Apply an action, in the units of the actuators."""
        self.do_simulation(action, self.frame_skip)
        observation = self._get_obs()
        if self.render_mode == "human":
            self.render()
        reward = self._reward(observation, np.asarray(action, np.float64))
        return observation, np.float64(reward), False, False, {}
