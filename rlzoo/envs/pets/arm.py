"""Reach a place with an arm of seven joints, as in PETS: ``rlzoo/Reacher7DoF-v0``."""

from __future__ import annotations

import numpy as np

from rlzoo.envs.pets.base import OwnModelEnv, Vector

_REST = (0.0, 0.25, 0.0)
_NOISE = 0.1


class Reacher7DoF(OwnModelEnv):
    """The middle between the finger tips is to be at the goal; page of DAE-MPC, section 4.

    ``observation``: seven angles, the goal, seven angular velocities; 17 numbers. ``action``: seven
    torques in [-20, 20]. Reward: ``-|end - goal|^2 - 0.01 |a|^2``. An episode starts in the same
    posture; its goal is (0, 0.25, 0) with noise N(0, 0.1) per axis.

    Args:
        render_mode: As in Gymnasium.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        self._goal = np.array(_REST)
        super().__init__("arm.xml", 2, 17, "front", render_mode)

    @property
    def end_effector(self) -> Vector:
        """Middle between the links of the finger tips, of the state that was simulated last."""
        tips = [self.data.body(side).xpos for side in ("left tip", "right tip")]
        middle: Vector = np.mean(tips, 0)
        return middle

    def reset_model(self) -> Vector:
        """Return to the first posture, with a new goal."""
        self._goal = self.np_random.normal(_REST, _NOISE)
        self.model.site("goal").pos[:] = self._goal
        self.set_state(self.init_qpos, self.init_qvel)
        return self._get_obs()

    def _get_obs(self) -> Vector:
        return np.concatenate([self.data.qpos, self._goal, self.data.qvel])

    def _reward(self, observation: Vector, action: Vector) -> float:
        miss = np.square(self._forward_end() - self._goal).sum()
        return float(-miss - 0.01 * np.square(action).sum())

    def _forward_end(self) -> Vector:
        """Return the end effector of the joint angles of now.

        A step of MuJoCo leaves the bodies where they were before its last part.
        """
        import mujoco

        mujoco.mj_kinematics(self.model, self.data)
        return self.end_effector
