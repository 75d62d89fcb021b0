"""MultiRoom for many environments at once, as masked writes into arrays.

The same lines run on NumPy arrays, which are fastest for up to some hundred environments, and on
torch tensors of any device. A step draws no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch as th

from rlzoo.envs.multiroom.env import DOOR, EMPTY, GOAL, Level, agent_cell

_FORWARD, _TOGGLE = 2, 5
_TURNS = (3, 1, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Levels:
    """Levels side by side, as NumPy arrays or as tensors of one device.

    Args:
        cells: ``[L, 3, W * H]`` uint8; see :class:`~rlzoo.envs.multiroom.env.Level`.
        positions: ``[L]`` int64.
        directions: ``[L]`` int64.
        rooms: ``[L]`` int64.
    """

    cells: Any
    positions: Any
    directions: Any
    rooms: Any

    @classmethod
    def stack(cls, levels: Sequence[Level], device: str | None = None) -> Levels:
        """Put levels together; on a torch device, or as NumPy arrays without one."""
        cells, positions, directions, rooms = zip(*levels, strict=True)
        arrays = (np.stack(cells), *map(np.array, (positions, directions, rooms)))
        return cls(*(_array(values, device) for values in arrays))

    def __getitem__(self, which: Any) -> Levels:
        """Return some of the levels."""
        parts = (self.cells, self.positions, self.directions, self.rooms)
        return Levels(*(values[which] for values in parts))


class Outcome(NamedTuple):
    """What a step led to; ``[N]`` each.

    Args:
        rewards: float64.
        terminated: bool; at the goal.
        truncated: bool; at the last step that is allowed, also where that one reached the goal.
    """

    rewards: Any
    terminated: Any
    truncated: Any


class Simulator:
    """The state of N environments.

    All must be placed by :meth:`place` before the first step.

    Args:
        n_envs: N.
        grid_size: Width and height.
        max_steps: Steps after which an episode is truncated.
        legacy_agent_code: See :class:`~rlzoo.envs.multiroom.env.MultiRoom`.
        device: A torch device, such as ``"cuda"``; None computes with NumPy.

    Attributes:
        observations: ``[N, 3, W, H]`` uint8; steps change it in place.
        steps: Steps of the running episodes, ``[N]``.
        rooms: Numbers of rooms, ``[N]``.
    """

    def __init__(
        self,
        n_envs: int,
        grid_size: int,
        max_steps: int,
        legacy_agent_code: bool = True,
        device: str | None = None,
    ) -> None:
        size = grid_size * grid_size
        self._where = np.where if device is None else th.where
        self._max_steps = max_steps

        def table(values: Any, kind: Any = np.int64) -> Any:
            return _array(np.asarray(values, kind), device)

        # Right, down, left, up: x is the slow index of a cell.
        self._ahead = table((grid_size, 1, -grid_size, -1))
        self._turns = table(_TURNS)
        self._agent = table([agent_cell(d, legacy_agent_code) for d in range(4)], np.uint8).T
        self._reward_at = table([1 - 0.9 * (t / max_steps) for t in range(max_steps + 1)], float)
        self.observations = table(np.zeros((n_envs, 3, grid_size, grid_size)), np.uint8)
        self._flat = self.observations.reshape(-1)  # a view
        first = np.arange(n_envs) * 3 * size
        self._planes = table(np.arange(3)[:, None] * size + first)  # [3, N]: cell 0 of each plane
        self._under = table(np.zeros((3, n_envs)), np.uint8)  # what the agent stands on
        self._position, self._direction, self.steps, self.rooms = (
            table(np.zeros(n_envs)) for _ in range(4)
        )

    def place(self, envs: Any, levels: Levels) -> None:
        """Begin new episodes.

        Args:
            envs: Indices of the environments, ``[K]``.
            levels: K levels, in arrays of the kind of the simulator.
        """
        width, height = self.observations.shape[-2:]
        self.observations[envs] = levels.cells.reshape(-1, 3, width, height)
        self._position[envs], self._direction[envs] = levels.positions, levels.directions
        self.rooms[envs], self.steps[envs] = levels.rooms, 0
        here = self._planes[:, envs] + levels.positions
        self._under[:, envs] = self._flat[here]
        self._flat[here] = self._agent[:, levels.directions]

    def step(self, actions: Any) -> Outcome:
        """Take a step in every environment; episodes that are over wait for :meth:`place`.

        Args:
            actions: ``[N]`` integers from 0 to 6, which are not checked.
        """
        flat, planes, position = self._flat, self._planes, self._position
        ahead = position + self._ahead[self._direction]
        in_front = planes + ahead
        # Rooms have walls all around, so there always is a cell in front, and it is another one.
        objects, _, states = flat[in_front]
        door, forward = objects == DOOR, actions == _FORWARD
        won = forward & (objects == GOAL)
        # A door that is open has the state 0, a closed one 1, and none is locked.
        free = (objects == EMPTY) | (door & (states == 0)) | won
        flat[in_front[2]] = states ^ (door & (actions == _TOGGLE))
        flat[planes + position] = self._under
        self._position = position = self._where(forward & free, ahead, position)
        here = planes + position
        self._under = flat[here]
        self._direction = (self._direction + self._turns[actions]) & 3
        flat[here] = self._agent[:, self._direction]
        self.steps += 1
        return Outcome(self._reward_at[self.steps] * won, won, self.steps >= self._max_steps)


def _array(values: Any, device: str | None) -> Any:
    return values if device is None else th.as_tensor(values, device=device)
