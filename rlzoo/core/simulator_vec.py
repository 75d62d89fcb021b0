"""Any :class:`~rlzoo.core.simulator.Simulator` behind SB3's ``VecEnv``: all episodes in a batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from rlzoo.core.arguments import AT_LEAST_ONE, check_range
from rlzoo.core.simulator import Simulator


class SimulatorVecEnv(VecEnv):
    """``n_envs`` episodes of a simulator, in float64, with a generator per environment.

    Same-step resets with the true last observation in ``infos[i]["terminal_observation"]``. A state
    that is not finite, as a learnt model may give, ends the episode with reward 0, in the last
    finite observation.

    Args:
        simulator: The task.
        n_envs: Number of environments.
        max_steps: Time limit; None takes that of the task.
        monitor: Put return and length of finished episodes into the infos, as SB3's ``Monitor``.
        spec: Of the Gymnasium environment that this stands for, if any.

    Attributes:
        states: ``[N, S]``, float64.

    Raises:
        RefusedError: If there is no environment.
    """

    def __init__(
        self,
        simulator: Simulator,
        n_envs: int = 1,
        max_steps: int | None = None,
        monitor: bool = True,
        spec: EnvSpec | None = None,
    ) -> None:
        check_range("n_envs", n_envs, AT_LEAST_ONE)
        self.render_mode = None
        self.simulator, self.spec, self.monitor = simulator, spec, monitor
        self.max_steps = max_steps or simulator.max_steps
        super().__init__(n_envs, simulator.observation_space, simulator.action_space)
        self._began = time.time()
        self._generators: list[np.random.Generator | None] = [None] * n_envs
        self.states = th.zeros(0)
        self._seen = np.zeros((n_envs, *self.observation_space.shape), np.float32)  # type: ignore[misc]
        self._steps, self._returns = np.zeros(n_envs, np.int64), np.zeros(n_envs)
        self._actions = th.zeros(0)

    def reset(self) -> NDArray[np.float32]:
        """Begin a new episode in every environment; with seeds set, from these.

        Returns:
            Observations ``[N, O]``.
        """
        for index, seed in enumerate(self._seeds):
            if seed is not None or self._generators[index] is None:
                self._generators[index] = np_random(seed)[0]
        self._reset_seeds()
        self._reset_options()
        self.states = self._starts(list(range(self.num_envs)))
        self._steps[:], self._returns[:] = 0, 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._seen = _array(self.simulator.observe(self.states))
        return self._seen.copy()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for :meth:`step_wait`.

        Args:
            actions: ``[N, A]``; the task clips them. ``[N]`` where actions are discrete.

        Raises:
            ValueError: If the shape is wrong, or a discrete action does not exist.
            RuntimeError: Before the first reset.
        """
        shape = (self.num_envs, *self.action_space.shape)  # type: ignore[misc]
        if np.shape(actions) != shape:
            raise ValueError(f"Actions of shape {np.shape(actions)}; needed: {shape}.")
        if not len(self.states):
            raise RuntimeError("Call reset() before the first step.")
        if isinstance(self.action_space, spaces.Discrete):
            chosen = np.asarray(actions, np.int64) - int(self.action_space.start)
            if not ((chosen >= 0) & (chosen < self.action_space.n)).all():
                raise ValueError(f"Actions {actions}; needed: those of {self.action_space}.")
            self._actions = th.from_numpy(np.eye(int(self.action_space.n))[chosen])
        else:
            self._actions = th.from_numpy(np.asarray(actions, np.float64))

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step; where an episode is over, the next one has begun."""
        with th.no_grad():
            self.states, seen, reward, ended = self.simulator.step(self.states, self._actions)
        finite = (seen.float().isfinite().all(-1) & reward.isfinite()).numpy()
        observations = np.where(finite[:, None], _array(seen), self._seen)
        rewards = np.where(finite, _array(reward), np.float32(0))
        terminated = ended.numpy() | ~finite
        self._steps += 1
        self._returns += rewards
        cut = (self._steps >= self.max_steps) & ~terminated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": late} for late in cut.tolist()]
        dones = terminated | cut
        over = np.flatnonzero(dones).tolist()
        for index in over:
            infos[index]["terminal_observation"] = observations[index].copy()
            if self.monitor:
                infos[index]["episode"] = self._score(index)
        if over:
            self._restart(over, observations)
        self._seen = observations
        return observations.copy(), rewards, dones, infos

    def close(self) -> None:
        """Nothing is open."""

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return None for every environment: images are drawn with ``backend="gymnasium"``."""
        return [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return ``simulator``, ``spec`` or ``render_mode``, which all environments share.

        Raises:
            AttributeError: For anything else.
        """
        if attr_name not in ("simulator", "spec", "render_mode"):
            raise AttributeError(_refusal(f"attribute {attr_name!r}"))
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

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

    def _starts(self, indices: list[int]) -> th.Tensor:
        """Draw one start from the generator of each of these environments."""
        drawing = [self._generators[index] for index in indices]
        starts = [self.simulator.start(rng) for rng in drawing if rng is not None]
        return th.from_numpy(np.stack(starts))

    def _restart(self, indices: list[int], observations: NDArray[np.float32]) -> None:
        starts = self._starts(indices)
        self.states[indices] = starts
        observations[indices] = _array(self.simulator.observe(starts))
        self._steps[indices], self._returns[indices] = 0, 0
        for index in indices:
            self.reset_infos[index] = {}

    def _score(self, index: int) -> dict[str, float]:
        elapsed = round(time.time() - self._began, 6)
        score, length = float(self._returns[index]), int(self._steps[index])
        return {"r": round(score, 6), "l": length, "t": elapsed}


def _array(values: th.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = values.float().numpy()
    return found


def _refusal(what: str) -> str:
    return f'A batch has no {what}; make_vec(..., backend="gymnasium") has.'
