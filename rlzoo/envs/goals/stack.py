"""Fetch, stack two cubes: the package's Pick and Place with a second cube."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from rlzoo.envs import compat
from rlzoo.envs.goals.base import check_goal, distance

try:
    _FetchEnv: Any = compat.import_quietly("gymnasium_robotics.envs.fetch.fetch_env").MujocoFetchEnv
except ImportError as _error:
    raise gym.error.DependencyNotInstalled(
        f'Fetch needs gymnasium-robotics ({_error}): pip install "rlzoo[goals]"'
    ) from _error
compat.integer_joints()

CUBE = 0.05
"""Edge of a cube in metres."""

_FROM_GRIPPER, _APART = 0.1, 0.08
_NAMES = ("object0", "object1")


class FetchStackTwo(_FetchEnv):  # type: ignore[misc]  # may be absent
    """Put cube 1 on cube 0, which stays where it is; section 4.3 of the page.

    ``observation``: positions of gripper, cube 0 and cube 1, both cubes relative to the gripper,
    one finger; 16 numbers. Goals: positions of both cubes, 6 numbers. Action: as in Fetch.

    Args:
        legacy_success: Goal and success of the paper's code: cube 1 half a cube above cube 0, and a
            distance in all six numbers below 0.08. That also accepts cube 1 lying *beside* cube 0.
            Otherwise it must be one cube above, and each cube within 0.05 of its place.
        distance_threshold: Another one.
        arguments: ``render_mode``, ``width``, ``height``.

    ``reset(options={"goal": ...})`` sets the goal of the episode.

    Attributes:
        goal_parts: Success is ``distance_threshold`` in each of so many parts of the goal.
    """

    initial_qpos: Any
    initial_qvel: Any

    def __init__(
        self,
        legacy_success: bool = False,
        distance_threshold: float | None = None,
        **arguments: Any,
    ) -> None:
        self.legacy_success = legacy_success
        self.goal_parts = 1 if legacy_success else len(_NAMES)
        super().__init__(
            model_path=os.path.join("fetch", "pick_and_place.xml"),
            has_object=True,
            block_gripper=False,
            n_substeps=20,
            gripper_extra_height=0.2,
            target_in_the_air=False,
            target_offset=0.0,
            obj_range=0.15,
            target_range=0.15,
            distance_threshold=distance_threshold or (0.08 if legacy_success else 0.05),
            reward_type="sparse",
            initial_qpos={
                "robot0:slide0": 0.405, "robot0:slide1": 0.48, "robot0:slide2": 0.0,
                "object0:joint": [1.25, 0.53, 0.4, 1, 0, 0, 0],
                "object1:joint": [1.25, 0.9, 0.4, 1, 0, 0, 0],
            },
            **arguments,
        )  # fmt: skip

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Begin an episode with the cubes somewhere on the table."""
        space: Any = self.observation_space["desired_goal"]
        asked = check_goal((options or {}).get("goal"), space)
        observation, info = super().reset(seed=seed)
        if asked is not None:
            self.goal = asked
            observation = self._get_obs()
        return observation, info

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """Return 0 for goals ``[..., 6]`` that are reached, else -1."""
        reached = self.success(np.asarray(achieved_goal), np.asarray(desired_goal))
        return float(reached) - 1.0 if reached.ndim == 0 else reached.astype(np.float32) - 1

    def success(self, achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which goals ``[..., 6]`` are reached, ``[...]``."""
        parts = (*achieved.shape[:-1], self.goal_parts, -1)
        away = distance(achieved.reshape(parts), desired.reshape(parts)).max(-1)
        return np.asarray(away < self.distance_threshold)

    # --- what the package's classes call ---------------------------------------------------------

    def _initialize_simulation(self) -> None:
        spec = mujoco.MjSpec.from_file(self.fullpath)
        first = spec.body("object0")
        second = spec.worldbody.add_body(name="object1", pos=first.pos + np.array([0, 0.2, 0]))
        joint, geom, site = first.joints[0], first.geoms[0], first.sites[0]
        second.add_joint(name="object1:joint", type=joint.type, damping=joint.damping)
        second.add_geom(
            name="object1", type=geom.type, size=geom.size, condim=geom.condim, mass=geom.mass,
            material=geom.material,
        )  # fmt: skip
        second.add_site(name="object1", type=site.type, size=site.size, rgba=site.rgba)
        target = spec.site("target0")
        spec.body("floor0").add_site(
            name="target1", type=target.type, size=target.size, rgba=(0, 1, 0, 1)
        )
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self._model_names = self._utils.MujocoModelNames(self.model)
        self.model.vis.global_.offwidth = self.width
        self.model.vis.global_.offheight = self.height
        self._env_setup(initial_qpos=self.initial_qpos)
        self.initial_time = self.data.time
        self.initial_qpos, self.initial_qvel = self.data.qpos.copy(), self.data.qvel.copy()

    def _reset_sim(self) -> bool:
        mujoco.mj_resetData(self.model, self.data)
        self.data.time = self.initial_time
        self.data.qpos[:], self.data.qvel[:] = self.initial_qpos, self.initial_qvel
        for name, place in zip(_NAMES, self._draw_places(), strict=True):
            joint = self._utils.get_joint_qpos(self.model, self.data, f"{name}:joint")
            joint[:2] = place
            self._utils.set_joint_qpos(self.model, self.data, f"{name}:joint", joint)
        mujoco.mj_forward(self.model, self.data)
        return True

    def _draw_places(self) -> list[NDArray[np.float64]]:
        gripper, places = self.initial_gripper_xpos[:2], list[NDArray[np.float64]]()
        while len(places) < len(_NAMES):
            place = gripper + self.np_random.uniform(-self.obj_range, self.obj_range, 2)
            far = np.linalg.norm(place - gripper) >= _FROM_GRIPPER
            if far and all(np.linalg.norm(place - other) >= _APART for other in places):
                places.append(place)
        return places

    def _sample_goal(self) -> NDArray[np.float64]:
        below = self._cubes()[0]
        above = below + np.array([0, 0, CUBE / 2 if self.legacy_success else CUBE])
        return np.concatenate([below, above])

    def _is_success(self, achieved_goal: Any, desired_goal: Any) -> bool:
        return bool(self.success(np.asarray(achieved_goal), np.asarray(desired_goal)))

    def _cubes(self) -> list[NDArray[np.float64]]:
        return [self._utils.get_site_xpos(self.model, self.data, name).copy() for name in _NAMES]

    def _get_obs(self) -> dict[str, NDArray[np.float64]]:
        gripper = self._utils.get_site_xpos(self.model, self.data, "robot0:grip").copy()
        cubes = self._cubes()
        names = self._model_names.joint_names
        finger = self._utils.robot_get_obs(self.model, self.data, names)[0][-2:-1]
        relative = [cube - gripper for cube in cubes]
        return {
            "observation": np.concatenate([gripper, *cubes, *relative, finger]),
            "achieved_goal": np.concatenate(cubes),
            "desired_goal": self.goal.copy(),
        }

    def _render_callback(self) -> None:
        floor = self.data.body("floor0").xpos
        for index, goal in enumerate(self.goal.reshape(2, 3)):
            self.model.site(f"target{index}").pos = goal - floor
        mujoco.mj_forward(self.model, self.data)
