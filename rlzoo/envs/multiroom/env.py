"""MultiRoom in minigrid: one environment, and the generator of levels for the batched one."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray

from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, Range, check_range
from rlzoo.errors import RefusedError

try:
    _MultiRoomEnv: Any = importlib.import_module("minigrid.envs").MultiRoomEnv
except ImportError as _error:
    raise gym.error.DependencyNotInstalled(
        f'MultiRoom needs minigrid ({_error}): pip install "rlzoo[minigrid]"'
    ) from _error

N_ACTIONS = 7
"""0 turn left, 1 turn right, 2 forward, 3 pick up, 4 drop, 5 open or close a door, 6 done.

3, 4 and 6 do nothing here.
"""

EMPTY, DOOR, GOAL, AGENT = 1, 4, 8, 10
"""Minigrid's numbers of objects; 2 is a wall."""

LEGACY_AGENT = 255
"""The agent in the version of 2019, in which the paper's experiments were made."""

_EMPTY_CELL = (EMPTY, 0, 0)


class Level(NamedTuple):
    """The beginning of an episode.

    Args:
        cells: Object, colour and state of every cell without the agent, ``[3, W * H]`` uint8; the
            cell (x, y) is at ``x * H + y``.
        position: Where the agent starts.
        direction: 0 right, 1 down, 2 left, 3 up.
        rooms: Number of rooms.
    """

    cells: NDArray[np.uint8]
    position: int
    direction: int
    rooms: int


class MultiRoom(_MultiRoomEnv):  # type: ignore[misc]  # minigrid may be absent
    """Go through the rooms to the goal; every episode has a new level.

    Observation: uint8 ``[3, W, H]``: planes of objects, colours and states, channels first as
    rlzoo's and SB3's networks take images, and x before y as in minigrid. They are codes, not
    intensities: do not divide them by 255. The agent's cell holds (255, direction, 0).

    Reward: ``1 - 0.9 t / max_steps`` at the goal, which ends the episode, else 0. The infos have
    ``is_success`` and the number of ``rooms`` of the level, by which successes can be split.

    Args:
        min_rooms: Fewest rooms.
        max_rooms: Most rooms.
        room_size: Largest side of a room, walls included, at least 4.
        grid_size: Width and height.
        max_steps: Steps after which an episode is truncated; None takes 20 per room of
            ``max_rooms``.
        legacy_agent_code: Show the agent as the paper's version did; otherwise as minigrid does
            today, (10, 0, direction).
        num_levels: Draw from so many levels only; 0 for no limit.
        start_level: The first of them; level ``i`` is the one that the seed ``i`` gives.
        render_mode: None or ``"rgb_array"`` or ``"human"``.

    Raises:
        RefusedError: If an argument is out of range.
    """

    def __init__(
        self,
        min_rooms: int,
        max_rooms: int,
        room_size: int = 6,
        grid_size: int = 11,
        max_steps: int | None = None,
        legacy_agent_code: bool = True,
        num_levels: int = 0,
        start_level: int = 0,
        render_mode: str | None = None,
    ) -> None:
        for name, value, allowed in (
            ("min_rooms", min_rooms, AT_LEAST_ONE),
            ("max_rooms", max_rooms, Range(min_rooms)),
            ("room_size", room_size, Range(4)),
            ("grid_size", grid_size, Range(room_size + 1)),
            ("max_steps", max_steps, AT_LEAST_ONE),
            ("num_levels", num_levels, NON_NEGATIVE),
            ("start_level", start_level, NON_NEGATIVE),
        ):
            check_range(name, value, allowed, "MultiRoom")
        if start_level and not num_levels:
            raise RefusedError(
                f"start_level={start_level} without num_levels.", "All levels are drawn from then."
            )
        super().__init__(
            min_rooms, max_rooms, room_size, grid_size, grid_size, max_steps,
            render_mode=render_mode,
        )  # fmt: skip
        self.legacy_agent_code = legacy_agent_code
        self.num_levels, self.start_level = num_levels, start_level
        self.observation_space = spaces.Box(0, 255, (3, grid_size, grid_size), np.uint8)
        self.action_space = spaces.Discrete(N_ACTIONS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin an episode in a new level."""
        observation, _ = super().reset(seed=seed, options=options)
        return observation, {"rooms": len(self.rooms)}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Take one of the seven actions."""
        observation, reward, terminated, truncated, _ = super().step(action)
        info = {"is_success": reward > 0, "rooms": len(self.rooms)}
        return observation, float(reward), terminated, truncated, info

    def gen_obs(self) -> NDArray[np.uint8]:
        """Return the whole grid, in place of minigrid's view of the agent."""
        cells = self._cells()
        cells[:, int(self.agent_pos[0]) * self.height + int(self.agent_pos[1])] = agent_cell(
            self.agent_dir, self.legacy_agent_code
        )
        return cells.reshape(3, self.width, self.height)

    def level(self, rng: np.random.Generator) -> Level:
        """Draw one of all levels, as a reset does with this generator; the episode is lost."""
        self.np_random = rng
        super()._gen_grid(self.width, self.height)
        x, y = (int(part) for part in self.agent_pos)
        return Level(self._cells(), x * self.height + y, int(self.agent_dir), len(self.rooms))

    def draw_number(self, rng: np.random.Generator) -> int:
        """Draw the number of a level, where there is a finite number of them."""
        return self.start_level + int(rng.integers(self.num_levels))

    def _gen_grid(self, width: int, height: int) -> None:
        if not self.num_levels:
            super()._gen_grid(width, height)
            return
        own = self.np_random
        self.np_random = np_random(self.draw_number(own))[0]
        super()._gen_grid(width, height)
        self.np_random = own

    def _cells(self) -> NDArray[np.uint8]:
        # Several times as fast as Grid.encode, which visits the cells one by one.
        codes = [_EMPTY_CELL if cell is None else cell.encode() for cell in self.grid.grid]
        rows = np.array(codes, np.uint8).reshape(self.height, self.width, 3)
        return np.ascontiguousarray(rows.transpose(2, 1, 0)).reshape(3, -1)


def agent_cell(direction: int, legacy: bool) -> tuple[int, int, int]:
    """Return object, colour and state of the agent's cell."""
    return (LEGACY_AGENT, direction, 0) if legacy else (AGENT, 0, direction)
