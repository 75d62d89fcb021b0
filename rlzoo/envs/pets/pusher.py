"""Push a cylinder to a place, as in PETS: ``rlzoo/PETSPusher-v0``."""

from __future__ import annotations

import mujoco
import numpy as np
from gymnasium.envs.mujoco.pusher_v5 import PusherEnv
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from rlzoo.envs.pets.base import Step, Vector

_FRAME_SKIP = 4
_PAN_LIMIT = 2.0  # Gymnasium: 1.714602
_START, _NOISE = (-0.25, 0.15), 0.025


class PETSPusher(PusherEnv):
    """Gymnasium's pusher with observation, reward, start and length of PETS; page, section 4.

    ``observation``: seven angles, seven angular velocities, the tip, the object; 20 numbers. The
    goal does not move. ``action``: seven torques in [-2, 2]. Reward:
    ``-1.25 |object - goal|_1 - 0.5 |object - tip|_1 - 0.1 |a|^2``, of the state after the step
    (HoT: before it). The object starts near one place.

    Args:
        render_mode: As in Gymnasium.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(frame_skip=_FRAME_SKIP, render_mode=render_mode)
        EzPickle.__init__(self, render_mode=render_mode)
        self.observation_space = Box(-np.inf, np.inf, (20,), np.float64)
        self.model.joint("r_shoulder_pan_joint").range[1] = _PAN_LIMIT

    def step(self, action: NDArray[np.float32]) -> Step:
        """Apply seven torques."""
        self.do_simulation(action, self.frame_skip)
        observation = self._get_obs()
        if self.render_mode == "human":
            self.render()
        tip, thing = observation[14:17], observation[17:20]
        to_goal = np.abs(thing - self.get_body_com("goal")).sum()
        to_tip = np.abs(thing - tip).sum()
        effort = np.square(np.asarray(action, np.float64)).sum()
        reward = np.float64(-1.25 * to_goal - 0.5 * to_tip - 0.1 * effort)
        return observation, reward, False, False, {}

    def reset_model(self) -> Vector:
        """Put the object near its place, and the arm into its first posture."""
        qpos = self.init_qpos.copy()
        qpos[-4:-2] = self.np_random.normal(_START, _NOISE)
        qpos[-2:] = 0
        qvel = self.init_qvel + self.np_random.uniform(-0.005, 0.005, self.model.nv)
        qvel[-4:] = 0
        self.set_state(qpos, qvel)
        return self._get_obs()

    def _get_obs(self) -> Vector:
        # A step of MuJoCo leaves the bodies where they were before its last part.
        mujoco.mj_kinematics(self.model, self.data)
        bodies = [self.get_body_com(name) for name in ("tips_arm", "object")]
        return np.concatenate([self.data.qpos[:7], self.data.qvel[:7], *bodies])
