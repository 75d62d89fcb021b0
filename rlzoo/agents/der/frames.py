"""Replay of stacked images with every frame stored once: 0.7 GB per 100,000 Atari steps.

Row ``r`` holds the newest frame of its observation and, for observation and next observation, where
the frames of the stack are: in earlier rows, nowhere (blank, the padding after a reset), or in a
small ring of *extra* frames. Extras are the frames that no row has as its newest one: the last
observation of a truncated episode, and whatever else a stack shows after a reset, such as frames of
before a lost life. What is sampled is exactly what the agent saw.

Rows whose frames are overwritten lose their priority, so that they are never sampled.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.agents.der.prioritized import PrioritizedReplayBuffer
from rlzoo.agents.der.sum_tree import Indices
from rlzoo.errors import RefusedError

_BLANK, _OPEN = -1, np.iinfo(np.int32).min  # below _BLANK: extra frame number -2 - pointer
_MAX_EXTRAS = 8192


def default_stack(space: spaces.Space[Any]) -> int:
    """Return 4 for images with a multiple of four channels (four grey frames), else 1."""
    shape = space.shape or ()
    return 4 if len(shape) == 3 and shape[0] % 4 == 0 else 1


class FrameReplayBuffer(PrioritizedReplayBuffer):
    """:class:`PrioritizedReplayBuffer` for channel-first images that are stacks of frames.

    The next observation of a terminal row is not kept (zeros or older frames are returned): it is
    never bootstrapped from.

    Args:
        buffer_size: As in the parent, like all others but the last.
        observation_space: Box of ``[stack * c, height, width]``, oldest frame first.
        action_space: As in the parent.
        stack: Frames per observation, ``k``.
        kwargs: As in the parent.
    """

    row_arrays: ClassVar[tuple[str, ...]] = ("frames", "stacks", "next_stacks")
    rewritten_arrays: ClassVar[tuple[str, ...]] = ("max_priority", "n_added", "n_extras", "n_lost")

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *args: Any,
        stack: int = 4,
        **kwargs: Any,
    ) -> None:
        shape = observation_space.shape or ()
        if len(shape) != 3 or shape[0] % stack:
            raise RefusedError(
                f"Observations of shape {shape} are not stacks of {stack} frames.",
                "Allowed: channel-first images whose channels are a multiple of frame_stack.",
                "Set frame_stack=1.",
            )
        self.stack = stack
        self.frame_shape = (shape[0] // stack, *shape[1:])
        self._history = 2 * stack
        super().__init__(buffer_size, observation_space, action_space, *args, **kwargs)

    def _allocate_observations(self, shape: tuple[int, int]) -> None:
        dtype, k, n_envs = self.observation_space.dtype, self.stack, self.n_envs
        self.frames = np.zeros((*shape, *self.frame_shape), dtype)
        self.stacks = np.zeros((*shape, k), np.int32)
        self.next_stacks = np.full((*shape, k), _BLANK, np.int32)
        # Where rows are few, as many extras as the rows of a window can need.
        fewest = 2 * k * (self.n_steps + 2 * self._history) * n_envs
        n_extras = max(min(shape[0] * n_envs // 25, _MAX_EXTRAS), fewest)
        self.extra_frames = np.zeros((n_extras, *self.frame_shape), dtype)
        self.extra_rows = np.zeros(n_extras, np.int64)
        self.newest = np.zeros((n_envs, k, *self.frame_shape), dtype)
        self.newest_stack = np.full((n_envs, k), _BLANK, np.int32)
        self.n_extras = 0
        """Extra frames ever stored."""
        self.n_lost = 0
        """Rows before this one have lost frames to newer extras."""

    # ------------------------------------------------------------------- adding

    def _continues(self, row: int, env: int, observation: NDArray[Any]) -> bool:
        return np.array_equal(self.newest[env], observation.reshape(self.newest[env].shape))

    def _write_observations(
        self, row: int, obs: NDArray[Any], next_obs: NDArray[Any], going_on: NDArray[np.bool_]
    ) -> None:
        obs, next_obs = (x.reshape(self.newest.shape) for x in (obs, next_obs))
        if self.stack > 1 and not np.array_equal(obs[:, 1:], next_obs[:, :-1]):
            raise RefusedError(
                f"The observations are not stacks of {self.stack} frames, oldest first.",
                "In a step, each frame has to move by one place.",
                "Set frame_stack=1.",
            )
        for env in range(self.n_envs):
            if going_on[env]:
                pointers = self.newest_stack[env].copy()
                pointers[-1] = row
                self.next_stacks[row - 1, env] = pointers
            else:
                pointers = self._locate(row, env, obs[env])
            self.stacks[row, env] = pointers
            self.newest_stack[env, :-1], self.newest_stack[env, -1] = pointers[1:], _OPEN
        # Until the next row says where its newest frame is.
        self.next_stacks[row] = _BLANK
        self.frames[row], self.newest[...] = obs[:, -1], next_obs

    def _locate(self, row: int, env: int, obs: NDArray[Any]) -> NDArray[np.int32]:
        """Find the frames of the first observation after a reset, newest in ``row``."""
        pointers = np.full(self.stack, row, np.int32)
        for place in range(self.stack - 1):
            frame = obs[place]
            if not frame.any():
                pointers[place] = _BLANK
            elif not np.array_equal(frame, obs[-1]):
                pointers[place] = self._find_or_keep(row, env, frame)
        return pointers

    def _find_or_keep(self, row: int, env: int, frame: NDArray[Any]) -> int:
        """Find a frame in the last observation of the episode before, or store it."""
        for place in reversed(range(self.stack)):
            pointer = int(self.newest_stack[env, place])
            known = pointer != _BLANK and np.array_equal(self.newest[env, place], frame)
            if known and pointer == _OPEN:
                self.newest_stack[env, place] = pointer = self._keep(frame)
            # Not from afar: rows more than `_history` behind an overwritten frame count as safe.
            if known and self._age(row, pointer) <= self.stack:
                return pointer
        return self._keep(frame)

    def _age(self, row: int, pointer: int) -> int:
        """Rows between the one that stored a frame and ``row``, which is about to be added."""
        if pointer >= 0:
            return (row - pointer) % self.buffer_size
        return self.n_added - int(self.extra_rows[-2 - pointer])

    def _keep(self, frame: NDArray[Any]) -> int:
        """Store an extra frame and return its pointer; rows that used its place are lost."""
        place = self.n_extras % len(self.extra_frames)
        if self.n_extras >= len(self.extra_frames):
            self._lose(int(self.extra_rows[place]) + self._history)
        self.extra_frames[place], self.extra_rows[place] = frame, self.n_added
        self.n_extras += 1
        return -2 - place

    def _lose(self, until: int) -> None:
        """Take the priority of all rows up to one, counted from the first ever added."""
        first = max(self.n_lost, self.n_added - self.buffer_size)
        rows = np.arange(first, until + 1) % self.buffer_size
        self.n_lost = max(self.n_lost, until + 1)
        if len(rows):
            leaves = rows[:, None] * self.n_envs + np.arange(self.n_envs)
            self.sum_tree.set(leaves.ravel(), 0.0)

    def _close(self, row: int, env: int) -> None:
        if self.timeouts[row, env] and self.newest_stack[env, -1] == _OPEN:
            self.newest_stack[env, -1] = self._keep(self.newest[env, -1])
        if self.timeouts[row, env]:
            self.next_stacks[row, env] = self.newest_stack[env]

    # ----------------------------------------------------------------- sampling

    def _observations_at(self, rows: Indices, envs: Indices) -> NDArray[Any]:
        return self._stacked(self.stacks[rows, envs], envs)

    def _next_observations_at(self, rows: Indices, envs: Indices) -> NDArray[Any]:
        return self._stacked(self.next_stacks[rows, envs], envs)

    def _stacked(self, pointers: NDArray[np.int32], envs: Indices) -> NDArray[Any]:
        found = self.frames[np.maximum(pointers, 0), envs[:, None]]
        found[pointers == _BLANK] = 0
        extra = pointers < _BLANK
        if extra.any():
            found[extra] = self.extra_frames[-2 - pointers[extra]]
        return found.reshape(-1, *self.obs_shape)
