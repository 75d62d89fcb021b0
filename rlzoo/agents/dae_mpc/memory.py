"""What a fit reads: transitions in the order of time, from a replay buffer or a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer

from rlzoo.core.dataset_buffer import DatasetBuffer, TransitionsLike, scale_actions


@dataclass(frozen=True)
class Stored:
    """Transitions, one environment after the other, each in the order of time.

    Args:
        observations: ``[n, S]``.
        actions: Scaled to [-1, 1], ``[n, A]``.
        rewards: ``[n]``.
        next_observations: ``[n, S]``; at the end of an episode its last observation.
    """

    observations: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    next_observations: th.Tensor

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def follows(self) -> th.Tensor:
        """Whether row i + 1 goes on from row i, booleans ``[n - 1]``.

        Read off the observations: it also holds where an episode was broken off without a mark.
        """
        return (self.next_observations[:-1] == self.observations[1:]).all(-1)

    def where(self, rows: slice | th.Tensor) -> Stored:
        """Return some of them: a slice, or booleans ``[n]``."""
        return Stored(
            self.observations[rows], self.actions[rows], self.rewards[rows],
            self.next_observations[rows],
        )  # fmt: skip


def from_buffer(buffer: ReplayBuffer, newest: int | None = None) -> Stored:
    """Return what a replay buffer holds.

    Args:
        buffer: SB3's buffer, or one that holds a data set.
        newest: So many of the latest rows (of every environment); None: all.
    """
    if isinstance(buffer, DatasetBuffer):
        found = buffer.tensors
        stored = Stored(
            found["observations"], found["actions"], found["rewards"].flatten(),
            found["next_observations"],
        )  # fmt: skip
        return stored if newest is None else stored.where(slice(len(stored) - newest, None))
    size = buffer.size()
    n = size if newest is None else min(newest, size)
    rows = (buffer.pos - n + np.arange(n)) % buffer.buffer_size

    def flat(array: NDArray[np.generic]) -> th.Tensor:
        tensor = th.as_tensor(array[rows]).to(buffer.device, th.float32)
        return tensor.flatten(2).transpose(0, 1).flatten(0, 1).contiguous()

    return Stored(
        flat(buffer.observations), flat(buffer.actions), flat(buffer.rewards[..., None]).flatten(),
        flat(buffer.next_observations),
    )  # fmt: skip


def from_dataset(data: TransitionsLike, device: th.device) -> Stored:
    """Return a data set, whose actions are in the units of the environment."""
    n = len(data.rewards)
    space = data.action_space
    if not isinstance(space, spaces.Box):
        raise TypeError(f"actions of {space}")

    def flat(array: NDArray[np.generic]) -> th.Tensor:
        return th.as_tensor(np.array(array.reshape(n, -1), np.float32)).to(device)

    return Stored(
        flat(data.observations), flat(scale_actions(data.actions, space)),
        flat(data.rewards).flatten(), flat(data.next_observations),
    )  # fmt: skip
