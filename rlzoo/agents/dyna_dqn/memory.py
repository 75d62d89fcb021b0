"""What planning reads from SB3's replay buffer: search control, the data of a fit, last rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from rlzoo.agents.dyna_dqn.transitions import Batch


@dataclass(frozen=True)
class BufferControl:
    """Search control: uniform over what is stored.

    Args:
        buffer: SB3's replay buffer.
        features: From observations to ``[B, D]``.
        gamma: Discount factor.
        normalizer: The environment's ``VecNormalize``, if it has one.
    """

    buffer: ReplayBuffer
    features: Callable[[th.Tensor], th.Tensor]
    gamma: float
    normalizer: VecNormalize | None = None

    def sample(self, n: int) -> Batch:
        """Draw stored transitions."""
        found = self.buffer.sample(n, self.normalizer)
        return self._batch(
            found.observations, found.actions, found.rewards, found.next_observations, found.dones
        )

    def rows(self, rows: NDArray[np.int64]) -> Batch:
        """Return stored transitions of every environment, those of one row after the other."""
        buffer, env = self.buffer, self.normalizer
        ends = buffer.dones[rows] * (1 - buffer.timeouts[rows])
        observations, following = (
            self._flat(buffer._normalize_obs(array[rows], env))
            for array in (buffer.observations, buffer.next_observations)
        )
        paid = buffer._normalize_reward(buffer.rewards[rows], env)
        actions, rewards, ends = (self._flat(x) for x in (buffer.actions[rows], paid, ends))
        return self._batch(observations, actions, rewards, following, ends)

    def everything(self) -> Batch:
        """Return all stored transitions."""
        return self.rows(np.arange(self.buffer.size()))

    def newest(self, n: int) -> Batch:
        """Return the last ``n`` rows, fewer where fewer are stored; oldest first."""
        n = min(n, self.buffer.size())
        return self.rows((self.buffer.pos - n + np.arange(n)) % self.buffer.buffer_size)

    def _flat(self, array: Any) -> th.Tensor:
        """Rows and environments become one dimension."""
        tensor = th.as_tensor(array).to(self.buffer.device)
        return tensor.reshape(tensor.shape[0] * tensor.shape[1], *tensor.shape[2:])

    def _batch(
        self, observations: Any, actions: th.Tensor, rewards: th.Tensor, following: Any,
        ends: th.Tensor,
    ) -> Batch:  # fmt: skip
        rewards = rewards.flatten().float()
        return Batch(
            self.features(observations), actions.flatten().long(), rewards,
            self.features(following), ends.flatten().float(),
            th.full_like(rewards, self.gamma), th.ones_like(rewards),
        )  # fmt: skip


def held_out(buffer: ReplayBuffer, share: float) -> th.Tensor:
    """Return which stored transitions are never learned from, booleans ``[size * n_envs]``.

    The choice belongs to the slot in the buffer, so that no refit learns what another one held out.
    """
    slots = np.random.default_rng(0).random((buffer.buffer_size, buffer.n_envs)) < share
    return th.as_tensor(slots[: buffer.size()].reshape(-1)).to(buffer.device)
