"""Four Rooms behind SB3's ``VecEnv``: all points in one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from rlzoo.envs.goals.base import Observation
from rlzoo.envs.goals.rooms import FourRooms

_SHARED = (
    "render_mode", "spec", "distance_threshold", "evaluation_goals", "training_goals", "goals",
    "maze",
)  # fmt: skip
_METHODS = ("compute_reward", "success", "goal_distance")


class FourRoomsVecEnv(VecEnv):
    """``n_envs`` environments, to the bit as SB3's ``DummyVecEnv`` of :class:`FourRooms`.

    Same-step resets with the true last observation in ``infos[i]["terminal_observation"]``.
    ``set_options([{"goal": ...}, ...])`` before a reset sets the goals of the next episodes: with
    as many copies as ``evaluation_goals``, one pass of T steps measures the coverage.

    Args:
        env: The environment that is multiplied; as made by ``make_env``, with its time limit.
        n_envs: Number of environments.
        monitor: Put return and length of finished episodes into the infos, as SB3's ``Monitor``.
    """

    def __init__(self, env: gym.Env[Any, Any], n_envs: int, monitor: bool = True) -> None:
        inner: Any = env.unwrapped
        self._env: FourRooms = inner
        self.spec = env.spec
        self.max_steps = env.spec.max_episode_steps if env.spec else None
        super().__init__(n_envs, self._env.observation_space, self._env.action_space)
        self.monitor = monitor
        self._began = time.time()
        self._generators: list[np.random.Generator | None] = [None] * n_envs
        self._positions, self._goals = np.zeros((n_envs, 2)), np.zeros((n_envs, 2))
        self._steps, self._returns = np.zeros(n_envs, np.int64), np.zeros(n_envs)
        self._cells = np.zeros(n_envs, np.int64)
        self._actions: NDArray[Any] = np.zeros((n_envs, 2), np.float32)

    def reset(self) -> Observation:
        """Begin a new episode in every environment; with seeds set, from these.

        Returns:
            ``[N, 2]`` for each of the three parts.
        """
        for index, seed in enumerate(self._seeds):
            if seed is not None or self._generators[index] is None:
                self._generators[index] = np_random(seed)[0]
            # One less: an episode takes the next one.
            self._cells[index] = self._cells[index] if seed is None else seed - 1
        options = list(self._options)
        self._reset_seeds()
        self._reset_options()
        for index in range(self.num_envs):
            self._restart(index, options[index])
        return self._observe()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for :meth:`step_wait`.

        Args:
            actions: ``[N, 2]``; clipped to [-1, 1].

        Raises:
            ValueError: If the shape is wrong.
        """
        actions = np.asarray(actions, np.float32)
        if actions.shape != (self.num_envs, 2):
            raise ValueError(f"Actions of shape {actions.shape}; needed: ({self.num_envs}, 2).")
        if self._env.action_noise:
            actions = actions + np.stack([self._env.draw_noise(r) for r in self._drawing()])
        self._actions = np.clip(actions, -1, 1)

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step; where an episode is over, the next one has begun."""
        self._positions = self._env.maze.move(self._positions, self._actions)
        self._steps += 1
        observations = self._observe()
        reached = self._env.success(observations["achieved_goal"], observations["desired_goal"])
        rewards = reached.astype(np.float32) - 1
        self._returns += rewards
        cut = self._steps >= (self.max_steps or np.inf)
        infos: list[dict[str, Any]] = [
            {"is_success": success, "TimeLimit.truncated": truncated}
            for success, truncated in zip(reached.tolist(), cut.tolist(), strict=True)
        ]
        over = np.flatnonzero(cut).tolist()
        for index in over:
            row = {name: part[index].copy() for name, part in observations.items()}
            infos[index]["terminal_observation"] = row
            if self.monitor:
                infos[index]["episode"] = self._score(index)
            self._restart(index)
        return self._observe() if over else observations, rewards, cut, infos

    def close(self) -> None:
        """Nothing is open."""

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return None for every environment: images are drawn with ``backend="gymnasium"``."""
        return [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute that all environments share, such as ``evaluation_goals``.

        Raises:
            AttributeError: If it belongs to the state of one of them, or does not exist.
        """
        if attr_name not in _SHARED:
            raise AttributeError(_refusal(f"attribute {attr_name!r}"))
        value = self.spec if attr_name == "spec" else getattr(self._env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(_refusal(f"attribute {attr_name!r} to set"))

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call ``compute_reward``, ``success`` or ``goal_distance``, once per environment.

        Raises:
            AttributeError: For other methods.
        """
        if method_name not in _METHODS:
            raise AttributeError(_refusal(f"method {method_name!r}"))
        method = getattr(self._env, method_name)
        return [method(*method_args, **method_kwargs) for _ in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return whether the environments record their episodes, when asked about ``Monitor``."""
        wrapped = self.monitor and issubclass(wrapper_class, Monitor)
        return [wrapped for _ in self._get_indices(indices)]

    def _observe(self) -> Observation:
        here = self._positions.astype(np.float32)
        return {
            "observation": here,
            "achieved_goal": here.copy(),
            "desired_goal": self._goals.astype(np.float32),
        }

    def _restart(self, index: int, options: dict[str, Any] | None = None) -> None:
        """Begin an episode, from the environment's own generator."""
        rng = self._drawing()[index]
        asked = self._env.asked_goal(options)
        self._cells[index] += 1
        cell = int(self._cells[index])
        self._goals[index] = self._env.draw_goal(rng, cell) if asked is None else asked
        self._positions[index], self._steps[index], self._returns[index] = 0, 0, 0
        self.reset_infos[index] = {}

    def _drawing(self) -> list[np.random.Generator]:
        """Return the generators, one per environment."""
        made = [rng for rng in self._generators if rng is not None]
        if len(made) < self.num_envs:
            raise RuntimeError("Call reset() before the first step.")
        return made

    def _score(self, index: int) -> dict[str, float]:
        elapsed = round(time.time() - self._began, 6)
        score, length = float(self._returns[index]), int(self._steps[index])
        return {"r": round(score, 6), "l": length, "t": elapsed}


def _refusal(what: str) -> str:
    return f'Four Rooms in a batch has no {what}; make_vec(..., backend="gymnasium") has.'
