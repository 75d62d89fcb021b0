"""Run forward: ``rlzoo/PETSHalfCheetah-v0`` and ``rlzoo/Ant30-v0``.

Both put the mean forward velocity of the last step before Gymnasium's observation: with it the
reward is a function of the next observation and the action. It is what a model predicts, and not
what it should be given.
"""

from __future__ import annotations

import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from rlzoo.envs.pets.base import Step, Vector

_NOISE = 0.001
_GEAR = 30.0  # Gymnasium: 150


class PETSHalfCheetah(HalfCheetahEnv):
    """Gymnasium's cheetah with observation and start of PETS; page of DAE-MPC, section 4.

    ``observation``: mean forward velocity of the step (0 at the start), then height, pitch, six
    angles, and nine velocities; 18 numbers. Reward: that velocity ``- 0.1 |a|^2``. Starts with
    noise N(0, 0.001).

    Args:
        render_mode: As in Gymnasium.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        EzPickle.__init__(self, render_mode=render_mode)
        self.observation_space = Box(-np.inf, np.inf, (18,), np.float64)

    def step(self, action: NDArray[np.float32]) -> Step:
        """Apply six torques in [-1, 1]."""
        observation, reward, _, _, info = super().step(action)
        return (
            _with_velocity(info["x_velocity"], observation),
            np.float64(reward),
            False,
            False,
            info,
        )

    def reset_model(self) -> Vector:
        """Start near rest."""
        draw = self.np_random.normal
        self.set_state(
            self.init_qpos + draw(0, _NOISE, self.model.nq),
            self.init_qvel + draw(0, _NOISE, self.model.nv),
        )
        return _with_velocity(0.0, self._get_obs())


class Ant30(AntEnv):
    """Gymnasium's ant with weak motors (gear 30), rewarded for forward velocity and nothing else.

    ``observation``: mean forward velocity of the step (0 at the start), then Gymnasium's 27 numbers
    without contact forces; 28 numbers. It may fall over: episodes end at the time limit only.

    Args:
        render_mode: As in Gymnasium.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(
            ctrl_cost_weight=0, contact_cost_weight=0, healthy_reward=0,
            terminate_when_unhealthy=False, include_cfrc_ext_in_observation=False,
            render_mode=render_mode,
        )  # fmt: skip
        EzPickle.__init__(self, render_mode=render_mode)
        self.observation_space = Box(-np.inf, np.inf, (28,), np.float64)
        self.model.actuator_gear[:, 0] = _GEAR

    def step(self, action: NDArray[np.float32]) -> Step:
        """Apply eight torques in [-1, 1]."""
        observation, reward, _, _, info = super().step(action)
        return (
            _with_velocity(info["x_velocity"], observation),
            np.float64(reward),
            False,
            False,
            info,
        )

    def reset_model(self) -> Vector:
        """Start as Gymnasium's ant does."""
        return _with_velocity(0.0, super().reset_model())


def _with_velocity(velocity: float, observation: Vector) -> Vector:
    return np.concatenate([[velocity], observation])
