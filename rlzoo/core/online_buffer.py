"""A data set that interaction adds to: what was there stays, what is new goes behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from rlzoo.core.dataset_buffer import ACTION_LIMIT, DatasetBuffer, _Arrays


class OnlineBuffer(DatasetBuffer):
    """The data, then a ring of transitions; sampling is uniform over both together.

    Args:
        data: What is kept; it is copied.
        room: Transitions of the interaction that are kept, the newest ones.
    """

    def __init__(self, data: DatasetBuffer, room: int) -> None:
        self.n_data, self.room, self.n_added = data.size(), room, 0
        super(ReplayBuffer, self).__init__(
            self.n_data + room, data.observation_space, data.action_space, data.device, n_envs=1
        )
        self.optimize_memory_usage, self.handle_timeout_termination = False, True
        self.pos, self.full = 0, False
        self._arrays = _Arrays(
            *(th.cat([kept, kept.new_zeros(room, kept.shape[1])]) for kept in data.tensors.values())
        )
        # On the device, where a captured update reads it.
        self._filled = th.tensor(float(self.n_data), dtype=th.float64, device=self.device)

    def size(self) -> int:
        """Return the number of transitions, data included."""
        return self.n_data + min(self.n_added, self.room)

    @property
    def tensors(self) -> dict[str, th.Tensor]:
        """Data and what was added, by name; actions scaled to [-1, 1]."""
        return {name: array[: self.size()] for name, array in self._arrays._asdict().items()}

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Add one transition per environment; the oldest added one makes room, never the data.

        Args:
            obs: ``[n, *observation_shape]``.
            next_obs: As ``obs``; the last observation of an episode, not the first of the next.
            action: ``[n, *action_shape]`` in [-1, 1].
            reward: ``[n]``.
            done: ``[n]``; a time limit, as ``infos`` has it, is not stored as an end.
            infos: SB3's, one per environment.
        """
        n = len(reward)
        rows = self.n_data + (self.n_added + np.arange(n)) % self.room
        timeouts = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        added = _Arrays(
            observations=self._flat(obs, n),
            actions=self._flat(action, n).clamp_(-ACTION_LIMIT, ACTION_LIMIT),
            rewards=self._flat(reward, n),
            dones=self._flat(done * ~timeouts, n),
            next_observations=self._flat(next_obs, n),
        )
        index = th.as_tensor(rows, device=self.device)
        for storage, values in zip(self._arrays, added, strict=True):
            storage[index] = values
        self.n_added += n
        self._filled.fill_(self.size())

    def _flat(self, array: NDArray[Any], n: int) -> th.Tensor:
        # A copy: SB3 hands over arrays that it goes on writing to.
        return th.tensor(np.reshape(array, (n, -1)), dtype=th.float32, device=self.device)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Return transitions drawn uniformly from data and additions, as ``DatasetBuffer`` does."""
        uniform = th.rand(batch_size, dtype=th.float64, device=self.device)
        return self._rows((uniform * self._filled).long(), env)
