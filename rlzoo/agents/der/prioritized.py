"""Prioritised n-step replay: every entry that has a priority can be sampled, no draw is rejected.

An entry is *ripe* when its n-step window is complete: ``n`` rows follow it, or its episode has
ended before. Only ripe entries have a priority; those that are overwritten, or whose frames are,
lose it (:mod:`rlzoo.agents.der.frames`). A sum tree over the priorities therefore draws valid
entries only, whatever their distribution.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from rlzoo.agents.der.sum_tree import Indices, SumTree, Values
from rlzoo.errors import RefusedError


class PrioritizedSamples(NamedTuple):
    """A batch of n-step transitions; tensors on the device of the buffer, except ``indices``."""

    observations: th.Tensor
    actions: th.Tensor  # [B, 1]
    next_observations: th.Tensor  # after the window; meaningless where dones is 1
    dones: th.Tensor  # [B, 1], 1 where the window ended terminally
    rewards: th.Tensor  # [B, 1], sum of gamma^k r_k over the window
    discounts: th.Tensor  # [B, 1], gamma to the number of steps in the window
    probabilities: th.Tensor  # [B], float64
    indices: th.Tensor  # [B], int64, for update_priorities of whatever drew them


def importance_weights(probabilities: th.Tensor, size: int, beta: float | th.Tensor) -> th.Tensor:
    """Return ``(N P)^-beta`` over its largest value in the batch, float32."""
    weights = (size * probabilities) ** -beta
    return (weights / weights.max()).float()


class PrioritizedReplayBuffer(ReplayBuffer):
    """SB3's replay buffer with n-step windows and proportional priorities.

    Draws from NumPy's global generator, as SB3's buffers do.

    Args:
        buffer_size: Transitions over all environments.
        observation_space: Observation space.
        action_space: Action space.
        device: Where samples go.
        n_envs: Number of environments.
        optimize_memory_usage: Must be False; frame stacks have
            :class:`~rlzoo.agents.der.frames.FrameReplayBuffer`.
        handle_timeout_termination: Must be True: time limits do not end the bootstrap.
        n_steps: Length ``n`` of the windows.
        gamma: Discount factor.
        exponent: ``omega``; priorities are ``loss ** omega``, so 0 is uniform replay.
    """

    # Stored in full in every checkpoint, like the sum tree (rlzoo.core.replay_files).
    rewritten_arrays: ClassVar[tuple[str, ...]] = ("max_priority",)

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_steps: int = 1,
        gamma: float = 0.99,
        exponent: float = 0.5,
    ) -> None:
        if optimize_memory_usage or not handle_timeout_termination:
            raise RefusedError(
                f"{type(self).__name__}: optimize_memory_usage={optimize_memory_usage}, "
                f"handle_timeout_termination={handle_timeout_termination}.",
                "Allowed: False and True; image stacks are stored frame by frame in any case.",
            )
        # Not ReplayBuffer's: it would allocate observations twice.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage, self.handle_timeout_termination = False, True
        self.n_steps, self.gamma, self.exponent = n_steps, gamma, exponent
        self.max_priority = 1.0
        self.n_added = 0
        """Rows ever added, as many as calls of ``add``."""
        shape = (self.buffer_size, n_envs)
        dtype = self._maybe_cast_dtype(action_space.dtype)
        self.actions = np.zeros((*shape, self.action_dim), dtype)
        self.rewards = np.zeros(shape, np.float32)
        self.dones = np.zeros(shape, np.float32)
        self.timeouts = np.zeros(shape, np.float32)
        self._allocate_observations(shape)
        smallest = n_steps + 2 * self._history + 2
        if self.buffer_size < smallest:
            raise RefusedError(
                f"buffer_size={buffer_size} is too small for windows of {n_steps} steps "
                f"in {n_envs} environment{'s' if n_envs > 1 else ''}.",
                f"Allowed: {smallest * n_envs} or more.",
            )
        self.sum_tree = SumTree(self.buffer_size * n_envs)
        self.nodes = self.sum_tree.nodes  # by a name that checkpoints find
        self.unripe = np.zeros(n_envs, np.int64)
        """Newest rows of each environment that are not ripe yet."""

    # ------------------------------------------------------- observation storage

    _history = 0
    """Rows behind an overwritten one that may need it for their observation."""

    def _allocate_observations(self, shape: tuple[int, int]) -> None:
        dtype = self.observation_space.dtype
        self.observations = np.zeros((*shape, *self.obs_shape), dtype)
        self.next_observations = np.zeros((*shape, *self.obs_shape), dtype)

    def _continues(self, row: int, env: int, observation: NDArray[Any]) -> bool:
        """Whether an observation is the one that ``row`` led to."""
        return np.array_equal(self.next_observations[row, env], observation)

    def _write_observations(
        self, row: int, obs: NDArray[Any], next_obs: NDArray[Any], going_on: NDArray[np.bool_]
    ) -> None:
        self.observations[row], self.next_observations[row] = obs, next_obs

    def _close(self, row: int, env: int) -> None:
        """Hear that the episode of a row has ended with it."""

    def _observations_at(self, rows: Indices, envs: Indices) -> NDArray[Any]:
        return self.observations[rows, envs]

    def _next_observations_at(self, rows: Indices, envs: Indices) -> NDArray[Any]:
        return self.next_observations[rows, envs]

    # ------------------------------------------------------------------- adding

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Add one transition of each environment.

        An episode that was broken off without ``done`` (a reset from outside) is noticed by its
        observation, and counts as truncated: no window crosses the gap.
        """
        shape = (self.n_envs, *self.obs_shape)
        dtype = self.observation_space.dtype
        obs = np.asarray(obs, dtype).reshape(shape)
        next_obs = np.asarray(next_obs, dtype).reshape(shape)
        row, going_on = self.pos, self._cut_broken(obs)
        self._release_ended()
        self._write_observations(row, obs, next_obs, going_on)
        self.n_added += 1
        self.actions[row] = np.asarray(action).reshape(self.n_envs, self.action_dim)
        self.rewards[row] = reward
        self.dones[row] = done
        self.timeouts[row] = [info.get("TimeLimit.truncated", False) for info in infos]
        self.pos = (row + 1) % self.buffer_size
        self.full = self.full or self.pos == 0
        self._move_window(row)

    def _cut_broken(self, obs: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark what was broken off; return which environments go on in the same episode."""
        if self.size() == 0:
            return np.zeros(self.n_envs, np.bool_)
        last = self.pos - 1
        going_on: NDArray[np.bool_] = self.dones[last] == 0
        for env in np.flatnonzero(going_on):
            if not self._continues(last % self.buffer_size, int(env), obs[env]):
                self.dones[last, env] = self.timeouts[last, env] = 1
                going_on[env] = False
        return going_on

    def _release_ended(self) -> None:
        """Ripen the tails of episodes that ended after their last row was added."""
        if self.size() > 0:
            ended = np.flatnonzero((self.dones[self.pos - 1] > 0) & (self.unripe > 0))
            if len(ended):
                self._release(ended)

    def _release(self, envs: Indices) -> None:
        """Ripen all unripe rows of environments whose episode has ended."""
        last = (self.pos - 1) % self.buffer_size
        leaves = []
        for env in envs:
            self._close(last, int(env))
            rows = (last - np.arange(self.unripe[env])) % self.buffer_size
            leaves.append(rows * self.n_envs + env)
        self.unripe[envs] = 0
        self.sum_tree.set(np.concatenate(leaves), self.max_priority)

    def _move_window(self, row: int) -> None:
        """Take the priority of what was overwritten, and give one to what is ripe now."""
        gone = (row + np.arange(self._history + 1)) % self.buffer_size
        leaves = (gone[:, None] * self.n_envs + np.arange(self.n_envs)).ravel()
        values = np.zeros(len(leaves))
        self.unripe += 1
        # An entry at t is ripe with the row t + n, so at most one per environment becomes so.
        ripe = np.flatnonzero((self.unripe > self.n_steps) & (self.dones[row] == 0))
        if len(ripe):
            self.unripe[ripe] = self.n_steps
            oldest = (row - self.n_steps) % self.buffer_size
            leaves = np.concatenate([leaves, oldest * self.n_envs + ripe])
            values = np.concatenate([values, np.full(len(ripe), self.max_priority)])
        self.sum_tree.set(leaves, values)
        self._release_ended()

    # ----------------------------------------------------------------- sampling

    @property
    def can_sample(self) -> bool:
        """Whether there is a ripe entry."""
        self._release_ended()
        return self.sum_tree.total > 0

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> PrioritizedSamples:
        """Draw stratified: the mass is cut into equal segments, one uniform draw in each.

        Args:
            batch_size: Number ``B`` of entries; one may occur several times.
            env: Normalises observations and rewards, as in SB3.

        Raises:
            RefusedError: If nothing is ripe yet.
        """
        if not self.can_sample:
            raise RefusedError(
                f"Nothing can be sampled after {self.size()} steps.",
                f"An entry is ready {self.n_steps} steps later, or when its episode ends.",
            )
        total = self.sum_tree.total
        uniform = np.random.random(batch_size)  # noqa: NPY002 - SB3's generator
        leaves = self.sum_tree.find((np.arange(batch_size) + uniform) * (total / batch_size))
        return self._batch(leaves, self.sum_tree.get(leaves) / total, env)

    def _batch(
        self, leaves: Indices, probabilities: Values, env: VecNormalize | None
    ) -> PrioritizedSamples:
        rows, envs = np.divmod(leaves, self.n_envs)
        window = (rows[:, None] + np.arange(self.n_steps)) % self.buffer_size
        columns = envs[:, None]
        ends = self.dones[window, columns] > 0
        steps = np.where(ends.any(1), ends.argmax(1) + 1, self.n_steps)
        factors = self.gamma ** np.arange(self.n_steps)
        factors = factors * (np.arange(self.n_steps) < steps[:, None])
        rewards = self._normalize_reward(self.rewards[window, columns], env)
        last = (rows + steps - 1) % self.buffer_size
        dones = self.dones[last, envs] * (1 - self.timeouts[last, envs])
        column = (-1, 1)
        data: tuple[Any, ...] = (
            self._normalize_obs(self._observations_at(rows, envs), env),
            self.actions[rows, envs],
            self._normalize_obs(self._next_observations_at(last, envs), env),
            dones.reshape(column),
            (rewards * factors).sum(1, keepdims=True).astype(np.float32),
            (self.gamma**steps).reshape(column).astype(np.float32),
            probabilities,
        )
        tensors = [self.to_torch(array, copy=False) for array in data]
        return PrioritizedSamples(*tensors, th.from_numpy(leaves))  # type: ignore[call-arg]

    def update_priorities(self, indices: th.Tensor, losses: th.Tensor) -> None:
        """Set ``(loss + 1e-10) ** omega`` for sampled entries that still exist.

        Args:
            indices: As in the batch, ``[B]``.
            losses: Not weighted, not negative, ``[B]``, on any device.
        """
        leaves: Indices = indices.numpy()
        priorities = (losses.detach().cpu().double().numpy() + 1e-10) ** self.exponent
        alive = self.sum_tree.get(leaves) > 0
        self.sum_tree.set(leaves[alive], priorities[alive])
        self.max_priority = max(self.max_priority, float(priorities.max(initial=0.0)))
