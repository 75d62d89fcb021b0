"""Small environments with discrete actions: four rooms on a grid, and Catch.

They are registered by ``import rlzoo.envs`` as ``rlzoo/FourRoomsGrid-v0`` and ``rlzoo/Catch-v0``.
Chance comes from the seeded generator of the environment only, so that seed and actions lead to the
same state again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.core.arguments import UNIT, Range, check_range
from rlzoo.errors import RefusedError

FOUR_ROOMS = """
#############
#.....#.....#
#.....#.....#
#...........#
#.....#.....#
#.....#.....#
##.####.....#
#.....###.###
#.....#.....#
#.....#..G..#
#...........#
#.....#.....#
#############
"""
"""Walls ``#``, free cells ``.`` and the goal ``G``; rows from the top, 13 x 13."""

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Row and column of the actions up, right, down, left."""

_COLOURS = np.array([[40, 40, 40], [255, 255, 255], [0, 150, 60], [200, 30, 30]], np.uint8)
_WALL, _FREE, _GOAL, _AGENT = range(4)


class GridTable(NamedTuple):
    """A grid as a table.

    Args:
        cells: Row and column of every free cell, ``[S, 2]``, row by row.
        successors: Cell that an action leads to, ``[S, 4]``; a blocked move stays in place.
        goal: Index of the goal.
    """

    cells: NDArray[np.int64]
    successors: NDArray[np.int64]
    goal: int


def read_grid(text: str) -> GridTable:
    """Return the table of a drawn grid, whose border is wall, with one goal."""
    board = np.array([list(line) for line in text.strip().splitlines()])
    cells = np.argwhere(board != "#")
    index = np.full(board.shape, -1)
    index[tuple(cells.T)] = np.arange(len(cells))
    ahead = cells[:, None] + np.array(MOVES)
    reached = index[ahead[..., 0], ahead[..., 1]]
    successors = np.where(reached < 0, np.arange(len(cells))[:, None], reached)
    return GridTable(cells, successors, int(index[board == "G"][0]))


def four_rooms() -> GridTable:
    """Return the table of four rooms: 104 cells, doors (3, 6), (10, 6), (6, 2), (7, 9)."""
    return read_grid(FOUR_ROOMS)


class FourRoomsGrid(gym.Env[np.int64, np.int64]):
    """Find the goal in four rooms; the observation is the index of the cell.

    Start: any cell but the goal, all equally likely. Reward: 1 at the goal, which ends the episode,
    else 0. Actions: 0 up, 1 right, 2 down, 3 left; a move into a wall stays in place.

    Args:
        slip: Probability that the move is one of the four at random instead.
        render_mode: None or ``"rgb_array"``.

    Raises:
        RefusedError: If an argument is out of range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's

    def __init__(
        self, slip: Annotated[float, Range(0, 1)] = 0.0, render_mode: str | None = None
    ) -> None:
        check_range("slip", slip, UNIT)
        self.slip, self.render_mode = slip, render_mode
        self.table = four_rooms()
        self.observation_space = spaces.Discrete(len(self.table.cells))
        self.action_space = spaces.Discrete(len(MOVES))
        self.cell = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Start in a random cell."""
        super().reset(seed=seed)
        start = int(self.np_random.integers(len(self.table.cells) - 1))
        self.cell = start + (start >= self.table.goal)
        return np.int64(self.cell), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Move."""
        if self.slip and self.np_random.random() < self.slip:
            action = self.np_random.integers(len(MOVES))
        self.cell = int(self.table.successors[self.cell, action])
        found = self.cell == self.table.goal
        return np.int64(self.cell), float(found), found, False, {}

    def render(self) -> NDArray[np.uint8] | None:
        """Return the board as an image, ``[208, 208, 3]``."""
        if self.render_mode is None:
            return None
        rows, columns = self.table.cells.max(0) + 2
        board = np.full((rows, columns), _WALL)
        board[tuple(self.table.cells.T)] = _FREE
        board[tuple(self.table.cells[self.table.goal])] = _GOAL
        board[tuple(self.table.cells[self.cell])] = _AGENT
        return _enlarge(_COLOURS[board])


class Catch(gym.Env[NDArray[Any], np.int64]):
    """Catch the falling ball, as in bsuite: 10 rows, 5 columns, one episode takes nine steps.

    The ball starts at the top in a random column, the paddle in the middle of the last row.
    Actions: 0 left, 1 stay, 2 right. Reward: 1 for a caught ball and -1 for a lost one in the last
    step, else 0. A random policy reaches about -0.6.

    Args:
        observation: ``"flat"``: float32 ``[50]``, the board row by row, zeros with ones at ball and
            paddle; ``"board"``: the same as ``[10, 5]``; ``"image"``: uint8 ``[1, 10, 5]``, 255.
        render_mode: None or ``"rgb_array"``.

    Raises:
        RefusedError: If the kind of observation is unknown.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - Gymnasium's
    rows, columns = 10, 5

    def __init__(
        self,
        observation: Literal["flat", "board", "image"] = "flat",
        render_mode: str | None = None,
    ) -> None:
        shapes = {"flat": (50,), "board": (10, 5), "image": (1, 10, 5)}
        if observation not in shapes:
            raise RefusedError(
                f"observation={observation!r} is unknown.", f"Allowed: {', '.join(shapes)}."
            )
        self.render_mode = render_mode
        self._is_image = observation == "image"
        high, kind = (255, np.uint8) if self._is_image else (1, np.float32)
        self.observation_space = spaces.Box(0, high, shapes[observation], kind)
        self.action_space = spaces.Discrete(3)
        self.row, self.ball, self.paddle = 0, 0, self.columns // 2

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Drop a ball."""
        super().reset(seed=seed)
        self.row, self.paddle = 0, self.columns // 2
        self.ball = int(self.np_random.integers(self.columns))
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Move the paddle; the ball falls by one row."""
        self.row += 1
        self.paddle = min(max(self.paddle + int(action) - 1, 0), self.columns - 1)
        end = self.row == self.rows - 1
        caught = 1.0 if self.ball == self.paddle else -1.0
        return self._observe(), caught if end else 0.0, end, False, {}

    def _observe(self) -> NDArray[Any]:
        space = self.observation_space
        board = np.zeros((self.rows, self.columns), space.dtype)
        board[self.row, self.ball] = board[-1, self.paddle] = 255 if self._is_image else 1
        return board.reshape(space.shape)

    def render(self) -> NDArray[np.uint8] | None:
        """Return the board as an image, ``[160, 80, 3]``."""
        if self.render_mode is None:
            return None
        board = np.full((self.rows, self.columns), _FREE)
        board[-1, self.paddle], board[self.row, self.ball] = _AGENT, _GOAL
        return _enlarge(_COLOURS[board])


def _enlarge(image: NDArray[np.uint8], size: int = 16) -> NDArray[np.uint8]:
    return image.repeat(size, 0).repeat(size, 1)


def register() -> None:
    """Register both; what is registered already stays as it is."""
    limits: dict[str, tuple[str, int | None]] = {
        "rlzoo/FourRoomsGrid-v0": ("FourRoomsGrid", 500),
        "rlzoo/Catch-v0": ("Catch", None),
    }
    for env_id, (name, limit) in limits.items():
        if env_id not in gym.registry:
            gym.register(env_id, f"{__name__}:{name}", max_episode_steps=limit)
