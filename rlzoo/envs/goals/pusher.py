"""Block pusher: a point pushes a box to a place, and goes to another one itself."""

from __future__ import annotations

import importlib
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.envs.goals.base import GoalEnv, Observation

POINT_RADIUS, BOX_HALF = 0.1, 0.3
STEP = 0.2
"""Displacement of the point that an action of 1 asks for."""

_SUBSTEP = 4
"""Of 0.025 s with one evaluation each, in place of the page's 0.1 s of Runge-Kutta with four: in
0.1 s a point moves so deep into the box that the contact may push the box aside."""

_MOST_SUBSTEPS = 40
_SETTLED = 1e-3
_LEAST_GAP = 0.5

_MODEL = f"""
<mujoco model="block pusher">
  <option timestep="0.025" integrator="implicitfast" gravity="0 0 0"/>
  <visual><global offwidth="480" offheight="480"/></visual>
  <default>
    <joint type="slide" damping="15"/>
    <geom condim="1"/>
  </default>
  <worldbody>
    <light pos="0 0 4" dir="0 0 -1"/>
    <camera name="above" pos="0 0 5" fovy="45"/>
    <geom type="plane" size="3 3 0.1" pos="0 0 -0.3" rgba="0.9 0.9 0.88 1"
      contype="0" conaffinity="0"/>
    <site name="goal point" type="sphere" size="0.1" rgba="0.8 0.24 0.2 0.3"/>
    <site name="goal box" type="box" size="0.3 0.3 0.1" rgba="0.25 0.4 0.8 0.3"/>
    <body name="point">
      <joint name="point x" axis="1 0 0"/>
      <joint name="point y" axis="0 1 0"/>
      <geom type="sphere" size="{POINT_RADIUS}" mass="0.42" rgba="0.8 0.24 0.2 1"/>
    </body>
    <body name="box">
      <joint name="box x" axis="1 0 0"/>
      <joint name="box y" axis="0 1 0"/>
      <geom type="box" size="{BOX_HALF} {BOX_HALF} 0.1" mass="1" rgba="0.25 0.4 0.8 1"/>
    </body>
  </worldbody>
  <actuator>
    <position joint="point x" kp="150"/>
    <position joint="point y" kp="150"/>
  </actuator>
</mujoco>
"""


class BlockPusher(GoalEnv):
    """Push a box around on a plane; section 4.5 of the page.

    An action in [-1, 1]^2 asks for a displacement of the point of 0.2 times itself. A servo makes
    it, in up to 40 substeps of 0.1 s, until all is at rest. The box slides and does not turn.

    ``observation``: positions of point and box, velocity of the box, 6 numbers. Goals: positions of
    point and box, 4 numbers, uniform in [-1, 1]^4 where the two have a distance of at least 0.5
    along an axis. Every episode starts with the point at (0, 0) and the box at (1, 0).

    The paper's own model does not run with today's MuJoCo (its box sinks into the floor), so its
    curves are not those of this task.

    Args:
        distance_threshold: Success is a distance in all four numbers below this one.
        render_mode: None or ``"rgb_array"``.

    ``reset(options={"goal": (x, y, box x, box y)})`` sets the goal of the episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - as in Gymnasium

    def __init__(self, distance_threshold: float = 0.3, render_mode: str | None = None) -> None:
        wide = spaces.Box(-np.inf, np.inf, (6,), np.float32)
        super().__init__(wide, spaces.Box(-np.inf, np.inf, (4,), np.float32), distance_threshold)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.render_mode = render_mode
        self._model = mujoco.MjModel.from_xml_string(_MODEL)
        self._data = mujoco.MjData(self._model)
        self._goal = np.zeros(4)
        self._renderer: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode with a new goal, or the one in the options."""
        super().reset(seed=seed)
        asked = self.asked_goal(options)
        self._goal = self._draw_goal() if asked is None else asked
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:] = (0, 0, 1, 0)
        mujoco.mj_forward(self._model, self._data)
        return self._observe(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move the point; actions beyond [-1, 1] are clipped."""
        data = self._data
        data.ctrl[:] = data.qpos[:2] + STEP * np.clip(np.asarray(action, np.float64), -1, 1)
        for _ in range(_MOST_SUBSTEPS):
            mujoco.mj_step(self._model, data, _SUBSTEP)
            if np.abs(data.qvel).max() < _SETTLED:
                break
        observation = self._observe()
        reached = bool(self.success(observation["achieved_goal"], observation["desired_goal"]))
        return observation, float(reached) - 1, False, False, {"is_success": reached}

    def render(self) -> NDArray[np.uint8] | None:
        """Return the scene from above, ``[480, 480, 3]``."""
        if self.render_mode is None:
            return None
        if self._renderer is None:  # needs OpenGL
            module = importlib.import_module("gymnasium.envs.mujoco.mujoco_rendering")
            self._renderer = module.MujocoRenderer(
                self._model, self._data, width=480, height=480, camera_name="above"
            )
        self._model.site_pos[:, :2] = self._goal.reshape(2, 2)
        mujoco.mj_forward(self._model, self._data)
        image: NDArray[np.uint8] = self._renderer.render("rgb_array")
        return image

    def close(self) -> None:
        """Close what draws."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _draw_goal(self) -> NDArray[np.float64]:
        while True:
            goal = self.np_random.uniform(-1, 1, 4)
            if np.abs(goal[:2] - goal[2:]).max() >= _LEAST_GAP:
                return goal

    def _observe(self) -> Observation:
        positions = self._data.qpos.astype(np.float32)
        return {
            "observation": np.concatenate([positions, self._data.qvel[2:]]).astype(np.float32),
            "achieved_goal": positions,
            "desired_goal": self._goal.astype(np.float32),
        }
