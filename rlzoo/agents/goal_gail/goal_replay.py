"""Replay of whole episodes on the device, and demonstrations in the same form.

Rows are stored on the host as in SB3's buffers, so that checkpoints write them once. On a CPU the
tensors that are sampled are those very arrays; on another device they are a copy to which new rows
are sent once per cycle. Which episodes there are, and how far each goes until its first success,
is worked out anew from the rows before every cycle.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from rlzoo.agents.goal_gail.relabel import EpisodeStore, GoalBatch, Success, sample
from rlzoo.core.dataset_buffer import FileLike, scale_actions
from rlzoo.core.goal_episodes import GoalEpisodes
from rlzoo.core.safe_files import replacing
from rlzoo.errors import RefusedError

_ROWS = (
    "observations", "next_observations", "achieved_goals", "next_achieved_goals",
    "desired_goals", "actions", "dones", "timeouts",
)  # fmt: skip
_SENT = _ROWS[:6]


class GoalReplayBuffer(ReplayBuffer):
    """Episodes of goal-conditioned environments; sampling relabels and judges success anew.

    Args:
        buffer_size: Transitions over all environments.
        observation_space: Dict of ``observation``, ``achieved_goal`` and ``desired_goal``.
        action_space: Box; actions are stored scaled to [-1, 1].
        device: Where samples are drawn.
        n_envs: Number of environments.
        success: When a transition counts as the last before the goal.
    """

    in_place = True
    """On the CPU: sample from the arrays themselves instead of a copy; False for tests only."""

    # For rlzoo.core.replay_files, beside the names that it knows.
    row_arrays: ClassVar[tuple[str, ...]] = _ROWS
    rewritten_arrays: ClassVar[tuple[str, ...]] = ("n_added", "n_fresh")

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        n_envs: int = 1,
        *,
        success: Success,
    ) -> None:
        # Not ReplayBuffer's: it has no room for a dict.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage, self.handle_timeout_termination = False, True
        self.success = success
        self.n_added = 0
        """Rows ever added: calls of ``add``."""
        self.n_fresh = 0
        """Rows added since :meth:`take_fresh`."""
        shape = (self.buffer_size, n_envs)
        sizes = {key: int(np.prod(space.shape or ())) for key, space in observation_space.items()}
        self.observations = np.zeros((*shape, sizes["observation"]), np.float32)
        self.next_observations = np.zeros_like(self.observations)
        self.achieved_goals = np.zeros((*shape, sizes["achieved_goal"]), np.float32)
        self.next_achieved_goals = np.zeros_like(self.achieved_goals)
        self.desired_goals = np.zeros_like(self.achieved_goals)
        self.actions = np.zeros((*shape, self.action_dim), np.float32)
        self.dones = np.zeros(shape, np.float32)
        self.timeouts = np.zeros(shape, np.float32)
        # Worked out from the rows; a tensor, so that checkpoints leave it out.
        self._reached = th.zeros(shape, dtype=th.bool)
        self._n_seen = 0
        self.store = self._make_store()

    def _make_store(self) -> EpisodeStore:
        flat = [self._tensor(getattr(self, name)).flatten(0, 1) for name in _SENT]
        capacity = self.buffer_size * self.n_envs
        table = [th.zeros(capacity, dtype=th.int64, device=self.device) for _ in range(3)]
        count = th.zeros((), dtype=th.int64, device=self.device)
        return EpisodeStore._make([*flat, *table, count, self.n_envs])

    def _tensor(self, array: NDArray[np.float32]) -> th.Tensor:
        """Return memory for an array on the device; on the CPU its own."""
        shared = th.from_numpy(array)
        return th.zeros_like(shared, device=self.device) if self._copies else shared

    @property
    def _copies(self) -> bool:
        return self.device.type != "cpu" or not self.in_place

    # ------------------------------------------------------------------- adding

    def add(  # type: ignore[override]
        self,
        obs: dict[str, NDArray[Any]],
        next_obs: dict[str, NDArray[Any]],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Add one transition of each environment; rewards are not kept, they change all the time.

        An episode that was broken off without ``done`` (a reset from outside) is noticed by its
        observation, and ends there.
        """
        row = self.pos
        observations = np.asarray(obs["observation"], np.float32)
        if self.n_added:
            broken = (self.next_observations[row - 1] != observations).any(axis=-1)
            broken &= self.dones[row - 1] == 0
            self.dones[row - 1][broken] = self.timeouts[row - 1][broken] = 1
        self.observations[row] = observations
        self.next_observations[row] = next_obs["observation"]
        self.achieved_goals[row] = obs["achieved_goal"]
        self.next_achieved_goals[row] = next_obs["achieved_goal"]
        self.desired_goals[row] = obs["desired_goal"]
        self.actions[row] = np.asarray(action).reshape(self.n_envs, self.action_dim)
        self.dones[row] = done
        self.timeouts[row] = [info.get("TimeLimit.truncated", False) for info in infos]
        self.pos = (row + 1) % self.buffer_size
        self.full = self.full or self.pos == 0
        self.n_added += 1
        self.n_fresh += 1

    def take_fresh(self) -> tuple[th.Tensor, th.Tensor]:
        """Return observations ``[n, do]`` and original goals ``[n, dg]`` that were added since."""
        rows = self._rows(min(self.n_fresh, self.size()))
        self.n_fresh = 0
        found = [np.concatenate([array[at] for at in rows]).reshape(-1, array.shape[-1])
                 for array in (self.observations, self.desired_goals)]  # fmt: skip
        return th.from_numpy(found[0]).to(self.device), th.from_numpy(found[1]).to(self.device)

    def _rows(self, n: int) -> list[slice]:
        """Return where the newest ``n`` rows lie, oldest first."""
        begin = self.pos - n
        if begin >= 0:
            return [slice(begin, self.pos)]
        return [slice(begin + self.buffer_size, self.buffer_size), slice(0, self.pos)]

    # ----------------------------------------------------------------- sampling

    def judge_by(self, success: Success) -> None:
        """Judge success in another way from now on, also for what is stored."""
        self.success, self._n_seen = success, 0

    def prepare(self) -> bool:
        """Send new rows to the device and look up the episodes; before a cycle of updates.

        Returns:
            Whether there is an episode to sample from.
        """
        # The newest row of last time again: its episode may have been broken off since.
        n_new = min(self.n_added - self._n_seen + 1, self.size())
        for at in self._rows(n_new):
            achieved = th.from_numpy(self.next_achieved_goals[at])
            self._reached[at] = self.success(achieved, th.from_numpy(self.desired_goals[at]))
            if self._copies:
                flat = slice(at.start * self.n_envs, at.stop * self.n_envs)
                for name, target in zip(_SENT, self.store[:6], strict=True):
                    target[flat].copy_(th.from_numpy(getattr(self, name)[at]).flatten(0, 1))
        self._n_seen = self.n_added
        starts, columns, lengths = self._episodes()
        for target, values in zip(self.store[6:9], (starts, columns, lengths), strict=True):
            target[: len(values)].copy_(th.from_numpy(values))
        self.store.n_episodes.fill_(len(starts))
        return len(starts) > 0

    def _episodes(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return first row, environment and usable length of every complete episode, by age."""
        columns, ends = self._in_order(self.dones > 0)
        # An episode begins behind the previous end of its environment.
        first_of_column = np.ones(len(ends), bool)
        first_of_column[1:] = columns[1:] != columns[:-1]
        starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
        starts[first_of_column] = 0
        whole = ~first_of_column if self.full else np.ones(len(ends), bool)  # its head is gone
        lengths = ends - starts + 1
        # Up to the first success: found by search in an order that runs through the columns.
        key = columns * self.buffer_size
        success_columns, success_rows = self._in_order(self._reached.numpy())
        success_keys = success_columns * self.buffer_size + success_rows
        at = np.searchsorted(success_keys, key + starts)
        found = np.append(success_keys, np.iinfo(np.int64).max // 2)[at] - key
        lengths = np.minimum(lengths, found - starts + 1)
        oldest = self.pos if self.full else 0
        order = np.argsort(ends, kind="stable")
        order = order[whole[order]]
        return (starts[order] + oldest) % self.buffer_size, columns[order], lengths[order]

    def _in_order(self, flags: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return environments and ages (0 is the oldest row) where a flag is set, by both."""
        rows, columns = np.nonzero(flags[: self.size()])
        ages = (rows - self.pos) % self.buffer_size if self.full else rows
        order = np.lexsort((ages, columns))
        return columns[order].astype(np.int64), ages[order].astype(np.int64)

    def fresh_episodes(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Give next achieved goals and goals, ``[L, dg]`` each, of what ended in fresh rows."""
        size = self.size()
        columns, ends = self._in_order(self.dones > 0)
        oldest = self.pos if self.full else 0
        for i in np.flatnonzero(ends >= size - self.n_fresh):
            same = i > 0 and columns[i - 1] == columns[i]
            rows = (
                np.arange(ends[i - 1] + 1 if same else 0, ends[i] + 1) + oldest
            ) % self.buffer_size
            yield (
                self.next_achieved_goals[rows, columns[i]],
                self.desired_goals[rows, columns[i]],
            )

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None, hindsight_p: float = 0.0
    ) -> GoalBatch:
        """Draw transitions; ``env`` is there for SB3's signature only.

        Raises:
            RefusedError: If no episode is complete yet.
        """
        if not self.prepare():
            raise RefusedError(
                f"Nothing can be sampled after {self.size()} steps.",
                "Transitions can be drawn when their episode has ended.",
            )
        return sample(self.store, batch_size, hindsight_p, self.success)

    # -------------------------------------------------------------------- files

    def save(self, path: FileLike) -> None:
        """Write the rows as ``.npz`` (no pickle) to a path or an open binary file."""
        arrays = {name: getattr(self, name)[: self.size()] for name in _ROWS}
        arrays["state"] = np.array([self.pos, self.full, self.n_added, self.n_fresh])
        if not isinstance(path, str | os.PathLike):
            np.savez(path, **arrays)
            return
        with replacing(path) as file:
            np.savez(file, **arrays)

    def restore(self, path: FileLike) -> None:
        """Read what :meth:`save` wrote for a buffer of the same sizes; nothing is unpickled.

        Raises:
            RefusedError: If the file is missing, damaged, or of another buffer.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                pos, full, n_added, n_fresh = (int(value) for value in file["state"])
                arrays = {name: file[name] for name in _ROWS}
            rows = self.buffer_size if full else pos
            if not 0 <= pos < self.buffer_size:
                raise ValueError(f"it goes on at row {pos} of {self.buffer_size}")
            for name, array in arrays.items():
                if array.shape != (rows, *getattr(self, name).shape[1:]):
                    raise ValueError(f"{name} has shape {list(array.shape)}")
        except Exception as error:  # NumPy and zipfile have a dozen of ways to say "damaged"
            raise RefusedError(
                f"{path} holds no replay buffer of this agent: {str(error)[:120]}",
                "Allowed: what save_replay_buffer() of an agent with the same buffer_size, "
                "environments and spaces wrote.",
            ) from error
        for name, array in arrays.items():
            getattr(self, name)[:rows] = array
        self.pos, self.full, self.n_added, self.n_fresh = pos, bool(full), n_added, n_fresh
        self._n_seen = 0


def demonstration_store(
    episodes: GoalEpisodes, action_space: spaces.Box, success: Success, device: th.device
) -> EpisodeStore:
    """Return demonstrations as a store to sample from; without actions these are zeros.

    Args:
        episodes: The demonstrations.
        action_space: Bounds by which actions are scaled to [-1, 1].
        success: As for the agent's own episodes.
        device: Where to put them.
    """
    n, horizon = len(episodes), episodes.horizon
    goals = np.repeat(episodes.desired_goals[:, None], horizon, axis=1)
    actions = np.zeros((n, horizon, *action_space.shape), np.float32)
    if episodes.actions is not None:
        actions = scale_actions(episodes.actions, action_space)
    states, achieved = episodes.observations, episodes.achieved_goals
    arrays = (states[:, :-1], states[:, 1:], achieved[:, :-1], achieved[:, 1:], goals, actions)
    reached = success(th.from_numpy(achieved[:, 1:].copy()), th.from_numpy(goals)).numpy()
    reached &= episodes.steps_taken
    first = np.where(reached.any(1), reached.argmax(1) + 1, horizon)
    table = (np.arange(n) * horizon, np.zeros(n), np.minimum(first, episodes.lengths))
    tensors = [th.tensor(array.reshape(n * horizon, -1), device=device) for array in arrays]
    tensors += [th.tensor(values.astype(np.int64), device=device) for values in table]
    return EpisodeStore._make([*tensors, th.tensor(n, device=device), 1])
