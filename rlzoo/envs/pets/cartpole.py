"""Swing up a pole on a cart, as in PETS: ``rlzoo/PETSCartPole-v0``."""

from __future__ import annotations

import numpy as np

from rlzoo.envs.pets.base import OwnModelEnv, Vector

LENGTH = 0.6
_NOISE = 0.1


class PETSCartPole(OwnModelEnv):
    """The hanging pole is to stand; page of DAE-MPC, section 4.

    ``observation``: position, angle (0 hangs), and their velocities; 4 numbers. ``action``: force
    in [-3, 3] times 100 N. Reward: ``exp(-|tip - (0, 0.6)|^2 / 0.36) - 0.01 a^2``, at most 1.
    Starts at rest with noise N(0, 0.1) on all four numbers.

    Args:
        render_mode: As in Gymnasium.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__("cartpole.xml", 2, 4, "side", render_mode)

    def reset_model(self) -> Vector:
        """Start near rest."""
        noise = self.np_random.normal(0, _NOISE, (2, 2))
        self.set_state(self.init_qpos + noise[0], self.init_qvel + noise[1])
        return self._get_obs()

    def _get_obs(self) -> Vector:
        return np.concatenate([self.data.qpos, self.data.qvel])

    def _reward(self, observation: Vector, action: Vector) -> float:
        position, angle = observation[:2]
        tip = np.array([position - LENGTH * np.sin(angle), -LENGTH * np.cos(angle)])
        distance = np.square(tip - (0, LENGTH)).sum()
        return float(np.exp(-distance / LENGTH**2) - 0.01 * np.square(action).sum())
