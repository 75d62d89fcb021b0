"""envpool's environments, stepped in C++ threads, behind SB3's ``VecEnv``. Knows no family.

envpool begins the next episode in the step *after* the last one of an episode. SB3 wants it in the
same step, with the true last observation in ``infos[i]["terminal_observation"]``. Here the finished
copies are reset by their numbers as soon as the batch is there, so that no step is wasted and no
made-up transition is seen.

Always in envpool's synchronous mode: every step is one of all copies. In its asynchronous mode the
batches would depend on which thread is first, and no run could be repeated or resumed exactly.
"""

from __future__ import annotations

import importlib
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from rlzoo.core.arguments import AT_LEAST_ONE, check_range
from rlzoo.errors import RefusedError

SEED_BITS = 0x7FFF_FFFF
"""envpool takes seeds of 31 bits; of larger ones these are kept."""


@dataclass
class Batch:
    """What the pool said about a step of ``n`` copies, before any of them begins a new episode.

    Args:
        observations: ``[n, *shape]``, or a dict of such arrays.
        rewards: ``[n]``, float32.
        terminated: ``[n]``, bool.
        truncated: ``[n]``, bool.
        info: Everything else by name, ``[n, ...]`` each.
    """

    observations: Any
    rewards: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    info: dict[str, Any]


class EnvpoolVecEnv(VecEnv):
    """``n_envs`` copies of an envpool task.

    With seeds set, as SB3 and ``make_vec`` do, the next :meth:`reset` makes the pool anew, because
    envpool takes seeds in no other way (5 ms for ten copies of CoinRun or Atari). Every copy then
    depends on its own seed and actions only: not on the other copies, nor on the number of threads.

    A subclass may change what counts as the end of an episode, what happens then, and what the
    agent sees of observations, rewards and actions.

    Args:
        task: envpool's name of the task, such as ``"CoinrunEasy-v0"``.
        n_envs: Number of copies.
        num_threads: Threads that step them; None takes one less than the cores that this process
            may use, and at least one, which leaves a core for the agent.
        monitor: Put score and length of finished episodes into the infos, as SB3's ``Monitor``.
        info_keys: What of the pool's infos goes into those of every step.
        step_limit: Steps after which an episode is truncated here, if the task does not end it
            before.
        config: envpool's options of the task, such as a ``max_episode_steps`` of its own.

    Raises:
        RefusedError: If envpool is missing, or does not know the task or one of the options.
    """

    def __init__(
        self,
        task: str,
        n_envs: int = 1,
        *,
        num_threads: int | None = None,
        monitor: bool = True,
        info_keys: Sequence[str] = (),
        step_limit: int | None = None,
        **config: Any,
    ) -> None:
        for name, value in (("num_threads", num_threads), ("step_limit", step_limit)):
            if value is not None:
                check_range(name, value, AT_LEAST_ONE)
        self.task, self.monitor, self.info_keys = task, monitor, tuple(info_keys)
        self.step_limit = step_limit
        threads = num_threads or min(n_envs, max(1, _cores() - 1))
        self._config = {**config, "num_envs": n_envs, "num_threads": threads}
        self._envpool = import_envpool(task)
        spec = _make_spec(self._envpool, task, self._config)
        self._pool: Any = None
        self._under_way = False
        # Which copies of the pool these are: all of it, except in a vector of some of them.
        self._ids = np.arange(n_envs, dtype=np.int32)
        self._scores = _Scores(n_envs)
        super().__init__(n_envs, spec.gymnasium_observation_space, spec.gymnasium_action_space)

    # --- SB3's interface -------------------------------------------------------------------------

    def reset(self) -> VecEnvObs:
        """Begin a new episode in every copy; with seeds set, from these."""
        if self._under_way:
            self._receive()
        if self._pool is None or any(seed is not None for seed in self._seeds):
            self._make()
        observations, info = self._pool.reset(self._ids)
        self._scores.clear(self._ids)
        self.reset_infos = self._rows(info)
        self._reset_seeds()
        self._reset_options()
        first: VecEnvObs = self._after_reset(observations, info)
        return first

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Start a step, which C++ threads do while this one goes on.

        Args:
            actions: Shape ``[n_envs, *action shape]``.

        Raises:
            ValueError: If shape or range are wrong, which C++ would not notice.
        """
        actions = np.asarray(actions)
        self._check_actions(actions)
        self._pool.send(self._to_pool(actions), self._ids)
        self._under_way = True

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step; copies whose episode is over have begun the next one.

        Their ``infos[i]`` has ``terminal_observation``, ``TimeLimit.truncated`` and, with
        ``monitor``, ``episode``; what the pool says about the new episode is in ``reset_infos``.
        """
        batch = self._receive()
        if self.monitor:
            self._scores.add(batch.rewards, self._ids)
        over = batch.terminated | batch.truncated
        ends = self._ends(batch, over)
        cut = batch.truncated & ~batch.terminated
        infos = self._rows(batch.info, {"TimeLimit.truncated": cut})
        if True in ends.tolist():  # NumPy's own reductions cost microseconds on so few.
            for index in np.flatnonzero(ends):
                infos[index]["terminal_observation"] = _row(batch.observations, index)
                if self.monitor and over[index]:
                    infos[index]["episode"] = self._scores.finish(self._ids[index])
            self._restart(np.flatnonzero(ends).astype(np.int32), batch, over)
        return self._seen(batch.observations), self._reward(batch), ends, infos

    def close(self) -> None:
        """End the threads."""
        self._pool = None

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """Return None for every copy: a pool is not drawn; make one environment for that."""
        return [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return ``render_mode`` or ``spec``, which are None; copies in C++ have no attributes."""
        if attr_name not in ("render_mode", "spec"):
            raise AttributeError(f"{self.task} in envpool has no attribute {attr_name!r}")
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: copies in C++ have no attributes."""
        raise AttributeError(f"{self.task} in envpool has no attribute {attr_name!r} to set")

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Refuse: copies in C++ have no methods."""
        raise AttributeError(f"{self.task} in envpool has no method {method_name!r}")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return whether the copies record their episodes, when asked about ``Monitor``."""
        wrapped = self.monitor and issubclass(wrapper_class, Monitor)
        return [wrapped for _ in self._get_indices(indices)]

    # --- for subclasses --------------------------------------------------------------------------

    def _to_pool(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the pool's actions for those of the agent."""
        return actions

    def _reward(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Return the agent's rewards; the scores are those of the pool."""
        return batch.rewards

    def _ends(self, batch: Batch, over: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which episodes of the agent end; by default those that are over in the pool."""
        return over

    def _after_reset(self, observations: Any, info: dict[str, Any]) -> Any:
        """Return what the agent sees after a reset of all copies."""
        return observations

    def _seen(self, observations: Any) -> Any:
        """Return what the agent sees after a step."""
        return observations

    def _restart(
        self, ids: npt.NDArray[np.int32], batch: Batch, over: npt.NDArray[np.bool_]
    ) -> None:
        """Begin the next episode of some copies, and put its observation into the batch."""
        observations, info = self._pool.reset(self._ids[ids])
        _put(batch.observations, ids, observations)
        for index, row in zip(ids.tolist(), self._rows(info), strict=True):
            self.reset_infos[index] = row

    def _receive(self) -> Batch:
        """Wait for the step that is under way."""
        observations, rewards, terminated, truncated, info = self._pool.recv()
        self._under_way = False
        rewards = rewards.reshape(self.num_envs).astype(np.float32, copy=False)
        if self.step_limit is not None:
            truncated = truncated | (info["elapsed_step"] >= self.step_limit)
        return Batch(observations, rewards, terminated, truncated, info)

    # --- inside ----------------------------------------------------------------------------------

    def _make(self) -> None:
        """Make the pool; a copy without a seed gets one from the system."""
        self._pool = None  # Its threads and memory go first.
        given = (secrets.randbits(31) if seed is None else seed for seed in self._seeds)
        seeds = [int(seed) & SEED_BITS for seed in given]
        self._ids = np.arange(self.num_envs, dtype=np.int32)
        config = {**self._config, "num_envs": self.num_envs}
        self._pool = self._envpool.make_gymnasium(self.task, seed=seeds, **config)

    def _check_actions(self, actions: npt.NDArray[Any]) -> None:
        if self._pool is None:
            raise RuntimeError("Call reset() before the first step.")
        expected = (self.num_envs, *(self.action_space.shape or ()))
        if actions.shape != expected:
            raise ValueError(f"Actions of shape {actions.shape}; needed: {expected}.")
        space = self.action_space
        if isinstance(space, spaces.Discrete) and not (
            space.start <= actions.min() and actions.max() < space.start + space.n
        ):
            raise ValueError(f"Actions {actions} are not all in {space}.")

    def _rows(
        self, info: dict[str, Any], columns: dict[str, npt.NDArray[Any]] | None = None
    ) -> list[dict[str, Any]]:
        """Return one dict per copy of what is wanted of the pool's infos, as Python's numbers."""
        wanted = {**(columns or {}), **{name: info[name] for name in self.info_keys}}
        if not wanted:
            return [{} for _ in info["elapsed_step"]]
        values = zip(*(column.tolist() for column in wanted.values()), strict=True)
        return [dict(zip(wanted, row, strict=True)) for row in values]


class EnvpoolEnv(gym.Env[Any, Any]):
    """One copy with Gymnasium's interface, for what does not take vectors.

    Args:
        pool: A vector of one copy.
        render_mode: ``"rgb_array"`` returns frames of the pool's own size; None draws nothing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - as in Gymnasium

    def __init__(self, pool: EnvpoolVecEnv, render_mode: str | None = None) -> None:
        self.pool, self.render_mode = pool, render_mode
        self.observation_space, self.action_space = pool.observation_space, pool.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self.pool._seeds = [seed]
        observations = self.pool.reset()
        return _row(observations, 0), self.pool.reset_infos[0]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step; nothing begins by itself afterwards."""
        self.pool.step_async(np.asarray(action)[None])
        batch = self.pool._receive()
        return (
            _row(batch.observations, 0),
            float(batch.rewards[0]),
            bool(batch.terminated[0]),
            bool(batch.truncated[0]),
            self.pool._rows(batch.info)[0],
        )

    def render(self) -> Any:
        """Return the frame, ``[height, width, 3]`` uint8."""
        pool = self.pool._pool
        if pool is None or self.render_mode is None:
            return None
        pool._render_mode = self.render_mode  # as envpool's own ``make`` sets it
        return pool.render(0)[0]

    def close(self) -> None:
        """End the threads."""
        self.pool.close()


class _Scores:
    """Returns and lengths of the running episodes, as SB3's ``Monitor`` gives them."""

    def __init__(self, n: int) -> None:
        self._began = time.time()
        self.returns, self.lengths = np.zeros(n), np.zeros(n, np.int64)

    def clear(self, ids: npt.NDArray[np.int32]) -> None:
        self.returns[ids], self.lengths[ids] = 0, 0

    def add(self, rewards: npt.NDArray[np.float32], ids: npt.NDArray[np.int32]) -> None:
        self.returns[ids] += rewards
        self.lengths[ids] += 1

    def finish(self, index: Any) -> dict[str, float]:
        score, length = float(self.returns[index]), int(self.lengths[index])
        self.returns[index], self.lengths[index] = 0, 0
        return {"r": round(score, 6), "l": length, "t": round(time.time() - self._began, 6)}


def import_envpool(what: str) -> Any:
    """Import envpool.

    Args:
        what: What needs it, for the message.

    Raises:
        RefusedError: If it is not installed.
    """
    try:
        return importlib.import_module("envpool")
    except ImportError as error:
        raise RefusedError(
            f"{what!r} needs {error.name or 'envpool'!r}: {error}.",
            "envpool has wheels for Linux only.",
            'Install it with: pip install "rlzoo[coinrun]"',
        ) from error


def _make_spec(envpool: Any, task: str, config: dict[str, Any]) -> Any:
    if task not in envpool.list_all_envs():
        raise RefusedError(f"envpool {envpool.__version__} has no task {task!r}.")
    try:
        return envpool.make_spec(task, **config)
    except (TypeError, ValueError, AssertionError) as error:
        raise RefusedError(
            f"{task!r} in envpool: {str(error).splitlines()[0]}", f"Given: {config}."
        ) from error


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _row(observations: Any, index: Any) -> Any:
    """Return a copy of one observation of a batch."""
    if isinstance(observations, dict):
        return {name: _row(part, index) for name, part in observations.items()}
    return observations[index].copy()


def _put(observations: Any, ids: npt.NDArray[np.int32], some: Any) -> None:
    """Replace the rows ``ids`` of a batch of observations."""
    if isinstance(observations, dict):
        for name, part in observations.items():
            _put(part, ids, some[name])
    else:
        observations[ids] = some
