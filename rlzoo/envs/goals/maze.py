"""A point in four rooms: the map, and how points move in it, for any number of points at once.

Section 4.4 of the page: cells of size 1, walls one cell thick, world x = column - origin column and
y = row - origin row. The original pushes a point through MuJoCo with a stiff servo until it has
settled; here the point moves by the commanded displacement in short steps along x and y, and does
not move along an axis where its square of half-size 0.1 would overlap a wall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

RADIUS = 0.1
"""Half the side of the square that must not overlap a wall."""

STEP = 0.2
"""Displacement per axis of an action of 1."""

SUB_MOVES = 4
"""Parts of a step; 0.05 each, a twentieth of a wall."""

_POINTS_PER_CELL = 10


@dataclass(frozen=True)
class Maze:
    """Four rooms in a square, joined by one-cell doors.

    Args:
        size: Cells along a side, outer walls included; odd. The middle row and column are walls.
        doors: ``(row, column)`` of the four doors.
        origin: ``(row, column)`` of the cell whose centre is (0, 0), where every episode starts.
    """

    size: int
    doors: Sequence[tuple[int, int]]
    origin: tuple[int, int]
    walls: NDArray[np.bool_] = field(init=False, repr=False, compare=False)
    """``[size, size]``, by row and column."""
    cells: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    """Centres (x, y) of the free cells, ``[F, 2]``, row by row."""

    def __post_init__(self) -> None:
        walls = np.zeros((self.size, self.size), bool)
        for line in (0, self.size // 2, self.size - 1):
            walls[line], walls[:, line] = True, True
        for door in self.doors:
            walls[door] = False
        rows, columns = np.nonzero(~walls)
        cells = np.stack([columns - self.origin[1], rows - self.origin[0]], axis=1)
        object.__setattr__(self, "walls", walls)
        object.__setattr__(self, "cells", cells.astype(np.float64))

    @property
    def low(self) -> NDArray[np.float64]:
        """Smallest x and y inside the outer walls, ``[2]``."""
        return 0.5 - np.array(self.origin[::-1], np.float64)

    @property
    def high(self) -> NDArray[np.float64]:
        """Largest x and y inside the outer walls, ``[2]``."""
        return self.low + (self.size - 2)

    def free_positions(self, count: int, seed: int) -> NDArray[np.float64]:
        """Draw goals of a training: ten points per free cell, of which some are kept.

        Args:
            count: How many, at most ten per free cell.
            seed: Of the draw.

        Returns:
            ``[count, 2]``.
        """
        rng = np.random.default_rng(seed)
        spread = rng.uniform(-0.5, 0.5, (len(self.cells), _POINTS_PER_CELL, 2))
        points = (self.cells[:, None] + spread).reshape(-1, 2)
        kept: NDArray[np.float64] = points[rng.choice(len(points), count, replace=False)]
        return kept

    def move(
        self, positions: NDArray[np.float64], actions: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Return where points are after one step.

        Args:
            positions: ``[n, 2]``, in free space.
            actions: ``[n, 2]``, in [-1, 1].
        """
        moves = actions.astype(np.float64) * (STEP / SUB_MOVES)
        x, y = positions[:, 0], positions[:, 1]
        for _ in range(SUB_MOVES):
            ahead = x + moves[:, 0]
            x = np.where(self._hits(ahead, y), x, ahead)
            ahead = y + moves[:, 1]
            y = np.where(self._hits(x, ahead), y, ahead)
        return np.stack([x, y], axis=1)

    def _hits(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether points would overlap a wall, ``[n]``."""
        row, column = self.origin
        left, right = _cell(x - RADIUS, column), _cell(x + RADIUS, column)
        top, bottom = _cell(y - RADIUS, row), _cell(y + RADIUS, row)
        walls = self.walls
        hit: NDArray[np.bool_] = (
            walls[top, left] | walls[top, right] | walls[bottom, left] | walls[bottom, right]
        )
        return hit


def _cell(edge: NDArray[np.float64], origin: int) -> NDArray[np.int64]:
    # Cells are centred on whole numbers; nothing is left of the outer wall, so this rounds down.
    return (edge + (origin + 0.5)).astype(np.int64)


FOUR_ROOMS = Maze(25, ((6, 12), (12, 6), (12, 18), (18, 12)), (20, 20))
"""The paper's map: 488 free cells."""

MINI_FOUR_ROOMS = Maze(13, ((3, 6), (6, 3), (6, 9), (9, 6)), (10, 10))
"""Rooms of 5x5 for tests: 104 free cells."""

MAZES = {"four-rooms": FOUR_ROOMS, "mini": MINI_FOUR_ROOMS}
