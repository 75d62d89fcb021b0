"""Fetch and PointMaze in envpool: the same tasks as in gymnasium-robotics, in C++."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from rlzoo.core.arguments import AT_LEAST_ONE, check_range
from rlzoo.envs.envpool_vec import EnvpoolEnv, EnvpoolVecEnv
from rlzoo.envs.goals.base import distance
from rlzoo.envs.goals.robots import MAZE_THRESHOLD, first_numbers, first_numbers_space
from rlzoo.errors import RefusedError

_METHODS = ("compute_reward",)


class GoalPoolVecEnv(EnvpoolVecEnv):
    """``n_envs`` copies of a Fetch or PointMaze task.

    Args:
        task: Id of the task, which is also envpool's name: ``"FetchPickAndPlace-v4"``.
        n_envs: Number of copies.
        max_episode_steps: Length of an episode; None takes the task's (50 for Fetch, 100 in the
            goalGAIL paper).
        positions_only: Keep only so many numbers of ``observation``; see
            :class:`~rlzoo.envs.goals.robots.FetchPositionsOnly`.
        spec: What ``get_attr("spec")`` is made from; its time limit is that of the copies.
        num_threads: See :class:`~rlzoo.envs.envpool_vec.EnvpoolVecEnv`.
        monitor: See there.
        config: envpool's options of the task, such as ``continuing_task`` of PointMaze.

    The infos of all steps have a Boolean ``is_success``. Goals cannot be chosen: ``set_options`` is
    refused at the next reset.

    Raises:
        RefusedError: If envpool is missing, or does not know an option.
    """

    def __init__(
        self,
        task: str,
        n_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        positions_only: int | None = None,
        spec: EnvSpec | None = None,
        num_threads: int | None = None,
        monitor: bool = True,
        **config: Any,
    ) -> None:
        if importlib.util.find_spec("envpool") is None:
            raise RefusedError(
                f"{task!r} needs 'envpool', which has wheels for Linux only.",
                "Elsewhere: env_kwargs backend='gymnasium', with gymnasium-robotics.",
                'Install both with: pip install "rlzoo[goals]"',
            )
        check_range("max_episode_steps", max_episode_steps, AT_LEAST_ONE)
        if max_episode_steps is not None:
            config["max_episode_steps"] = max_episode_steps
        self.spec: EnvSpec | None = None  # SB3 asks for it while the vector is made
        super().__init__(
            task, n_envs, num_threads=num_threads, monitor=monitor, info_keys=("is_success",),
            **config,
        )  # fmt: skip
        made = self._envpool.make_spec(task, **self._config).config
        self.distance_threshold = float(getattr(made, "distance_threshold", MAZE_THRESHOLD))
        self._is_maze, self._dense = task.startswith("PointMaze"), made.reward_type != "sparse"
        self.spec = copy.copy(spec or EnvSpec(task))
        self.spec.max_episode_steps = int(made.max_episode_steps)
        self._count = positions_only
        space: Any = self.observation_space
        if positions_only is not None:
            space = first_numbers_space(space, positions_only)
        self.observation_space = spaces.Dict(dict(space.spaces))  # in Gymnasium's order

    def reset(self) -> VecEnvObs:
        """Begin a new episode in every copy; with seeds set, from these.

        Raises:
            RefusedError: If options were set.
        """
        if any(self._options):
            self._reset_options()
            raise RefusedError(
                f"{self.task!r} in envpool takes no reset options.", "Its goals are drawn."
            )
        return super().reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step; copies whose episode is over have begun the next one."""
        observations, rewards, dones, infos = super().step_wait()
        if self._count is not None and dones.any():
            for index in np.flatnonzero(dones).tolist():
                last = infos[index]["terminal_observation"]
                infos[index]["terminal_observation"] = first_numbers(last, self._count)
        return observations, rewards, dones, infos

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """Return the rewards of goals, ``[...]`` for goals ``[..., dg]``, as the task does.

        0 or -1 for Fetch and 1 or 0 for PointMaze, or the dense ones of their Dense versions.
        """
        apart: NDArray[Any] = distance(np.asarray(achieved_goal), np.asarray(desired_goal))
        if self._dense:
            dense: NDArray[Any] = np.exp(-apart) if self._is_maze else -apart
            return dense
        near: NDArray[np.bool_] = apart <= self.distance_threshold
        return near.astype(np.float64) if self._is_maze else near.astype(np.float32) - 1

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return ``distance_threshold``, ``spec`` or ``render_mode``.

        Raises:
            AttributeError: For others; copies in C++ have no attributes.
        """
        if attr_name in ("distance_threshold", "spec"):
            return [getattr(self, attr_name) for _ in self._get_indices(indices)]
        return super().get_attr(attr_name, indices)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call ``compute_reward``, once per copy.

        Raises:
            AttributeError: For other methods.
        """
        if method_name not in _METHODS:
            return super().env_method(method_name, *method_args, indices=indices, **method_kwargs)
        method = getattr(self, method_name)
        return [method(*method_args, **method_kwargs) for _ in self._get_indices(indices)]

    def _to_pool(self, actions: NDArray[Any]) -> NDArray[Any]:
        clipped: NDArray[Any] = np.clip(actions, -1, 1)  # as gymnasium-robotics does
        return clipped

    def _after_reset(self, observations: Any, info: dict[str, Any]) -> Any:
        return self._seen(observations)

    def _seen(self, observations: Any) -> Any:
        return observations if self._count is None else first_numbers(observations, self._count)

    def _rows(
        self, info: dict[str, Any], columns: dict[str, NDArray[Any]] | None = None
    ) -> list[dict[str, Any]]:
        success = info["success" if self._is_maze else "is_success"]
        return super()._rows({**info, "is_success": np.asarray(success) > 0}, columns)


class GoalPoolEnv(EnvpoolEnv):
    """One copy with Gymnasium's interface; it draws nothing.

    Args:
        task: See :class:`GoalPoolVecEnv`.
        arguments: Others of it.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as in Gymnasium

    def __init__(self, task: str, **arguments: Any) -> None:
        pool = GoalPoolVecEnv(task, monitor=False, **arguments)
        super().__init__(pool)
        self.spec, self.distance_threshold = pool.spec, pool.distance_threshold
        self.compute_reward = pool.compute_reward

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Raises:
            RefusedError: If there are options.
        """
        if options:
            self.pool.set_options(options)
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step."""
        observation, *others = super().step(action)
        return self.pool._seen(observation), *others


def make_goal_env(spec: EnvSpec, monitor: bool, **arguments: Any) -> Any:
    """Make one copy of a registered task.

    Raises:
        RefusedError: As :class:`GoalPoolVecEnv`.
    """
    env = GoalPoolEnv(spec.id, spec=spec, **arguments)
    return Monitor(env) if monitor else env
