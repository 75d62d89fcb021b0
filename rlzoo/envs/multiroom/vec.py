"""MultiRoom behind SB3's ``VecEnv``: all environments in one batched simulator."""

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

from rlzoo.envs.multiroom.env import N_ACTIONS, Level, MultiRoom
from rlzoo.envs.multiroom.simulator import Levels, Simulator


class MultiRoomVecEnv(VecEnv):
    """``n_envs`` environments, to the bit as SB3's ``DummyVecEnv`` of ``MultiRoom``.

    Same-step resets with the true last observation in ``infos[i]["terminal_observation"]``. The
    infos of an environment whose episode goes on are empty. Levels come from minigrid's generator,
    which takes most of the time once episodes are short (0.1 to 0.7 ms per level): where the same
    levels may come again, ``num_levels=100_000`` generates each of them only once.

    Args:
        env: The environment that is multiplied; it only generates levels.
        n_envs: Number of environments.
        monitor: Put return and length of finished episodes into the infos, as SB3's ``Monitor``.
    """

    def __init__(self, env: MultiRoom, n_envs: int, monitor: bool = True) -> None:
        self._env = env
        super().__init__(n_envs, env.observation_space, env.action_space)
        self.monitor = monitor
        self._began = time.time()
        self._known: dict[int, Level] = {}
        self._generators: list[np.random.Generator | None] = [None] * n_envs
        self._simulator = Simulator(n_envs, env.width, env.max_steps, env.legacy_agent_code)
        self._actions: NDArray[Any] = np.zeros(n_envs, np.int64)

    def reset(self) -> NDArray[np.uint8]:
        """Begin a new episode in every environment; with seeds set, from these.

        Returns:
            ``[N, 3, W, H]``.
        """
        for index, seed in enumerate(self._seeds):
            if seed is not None or self._generators[index] is None:
                self._generators[index] = np_random(seed)[0]
        self._reset_seeds()
        self._reset_options()
        self._restart(np.arange(self.num_envs))
        return self._observations()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for :meth:`step_wait`.

        Args:
            actions: ``[N]`` integers from 0 to 6.

        Raises:
            ValueError: If shape or range are wrong.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,):
            raise ValueError(f"Actions of shape {actions.shape}; needed: ({self.num_envs},).")
        if actions.min() < 0 or actions.max() >= N_ACTIONS:
            raise ValueError(f"Actions {actions} are not all in 0 to {N_ACTIONS - 1}.")
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step; where an episode is over, the next one has begun."""
        rewards, terminated, truncated = self._simulator.step(self._actions)
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        over = np.flatnonzero(dones)
        if len(over):
            for index in over.tolist():
                infos[index] = self._ended(index, rewards[index], terminated[index])
            self._restart(over)
        return self._observations(), rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Nothing is open."""

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return None for every environment: images are drawn with ``backend="gymnasium"``."""
        return [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute that all environments share, such as ``max_steps``.

        Raises:
            AttributeError: If it belongs to the state of one of them, or does not exist.
        """
        if attr_name not in _SHARED:
            raise AttributeError(_refusal(f"attribute {attr_name!r}"))
        value = getattr(self._env, attr_name)
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
        """Refuse.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(_refusal(f"method {method_name!r}"))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return whether the environments record their episodes, when asked about ``Monitor``."""
        wrapped = self.monitor and issubclass(wrapper_class, Monitor)
        return [wrapped for _ in self._get_indices(indices)]

    def _observations(self) -> NDArray[np.uint8]:
        copied: NDArray[np.uint8] = self._simulator.observations.copy()
        return copied

    def _ended(self, index: int, reward: float, terminated: np.bool_) -> dict[str, Any]:
        """Return the info of a last step, before the next episode begins."""
        info: dict[str, Any] = {
            "is_success": bool(terminated),
            "rooms": int(self._simulator.rooms[index]),
            "TimeLimit.truncated": not terminated,
            "terminal_observation": self._simulator.observations[index].copy(),
        }
        if self.monitor:  # Only the last step has a reward.
            elapsed = round(time.time() - self._began, 6)
            length = int(self._simulator.steps[index])
            info["episode"] = {"r": round(float(reward), 6), "l": length, "t": elapsed}
        return info

    def _restart(self, envs: NDArray[np.int64]) -> None:
        """Begin new episodes in some environments, each from its own generator."""
        generators = (self._generators[index] for index in envs.tolist())
        levels = [self._draw(rng) for rng in generators if rng is not None]
        self._simulator.place(envs, Levels.stack(levels))
        for index, level in zip(envs.tolist(), levels, strict=True):
            self.reset_infos[index] = {"rooms": level.rooms}

    def _draw(self, rng: np.random.Generator) -> Level:
        """Return the level of the next episode of the environment with this generator."""
        if not self._env.num_levels:
            return self._env.level(rng)
        number = self._env.draw_number(rng)
        if number not in self._known:
            self._known[number] = self._env.level(np_random(number)[0])
        return self._known[number]


_SHARED = (
    "render_mode", "spec", "max_steps", "width", "height", "legacy_agent_code", "num_levels",
    "start_level",
)  # fmt: skip


def _refusal(what: str) -> str:
    return f'MultiRoom in a batch has no {what}; make_vec(..., backend="gymnasium") has.'
