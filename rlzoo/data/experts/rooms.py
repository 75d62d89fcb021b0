"""Four Rooms: the shortest way through the doors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlzoo.data.experts.base import ScriptedExpert

Floats = NDArray[np.float64]

STEP = 0.2
"""Displacement of an action of 1."""

_HALF_WALL = 0.5
_RADIUS = 0.12  # of the point, and a little more: one that touches a doorway is stuck
_AHEAD = 1.0
"""Distance of the waypoints before and behind a door from its middle."""

_LINED_UP = 0.3
"""How far off the middle of a door a point may be to walk through it; it fits through up to 0.4."""


class House(NamedTuple):
    """A square of four rooms; a test compares these numbers with the environment.

    Args:
        low: Smallest x and y inside the outer walls.
        high: Largest x and y.
        wall: x of the wall from top to bottom, and y of the other one.
        doors_at_y: y of the two doors in the wall x = ``wall``, by the side (y below or above).
        doors_at_x: x of the two doors in the wall y = ``wall``, by the side (x below or above).
    """

    low: float
    high: float
    wall: float
    doors_at_y: tuple[float, float]
    doors_at_x: tuple[float, float]


HOUSES = {
    "four-rooms": House(-19.5, 3.5, -8.0, (-14.0, -2.0), (-14.0, -2.0)),
    "mini": House(-9.5, 1.5, -4.0, (-7.0, -1.0), (-7.0, -1.0)),
}


class RoomsExpert(ScriptedExpert):
    """Walks to the next waypoint: before a door, behind it, at last the goal.

    The way follows from the position and the goal alone, so an expert that noise has pushed into
    another room just goes on from there. Goals inside walls are approached from their own side.

    Args:
        maze: ``"four-rooms"`` or ``"mini"``.
    """

    name = "rooms"

    def __init__(self, maze: str = "four-rooms") -> None:
        self.house = HOUSES[maze]

    def _actions(self, observation: Floats, goal: Floats, starts: NDArray[np.bool_]) -> Floats:
        return (self.waypoint(observation, goal) - observation) / STEP

    def waypoint(self, here: Floats, goal: Floats) -> Floats:
        """Return where to walk straight to, ``[n, 2]``.

        Args:
            here: ``[n, 2]``.
            goal: ``[n, 2]``.
        """
        wall = self.house.wall
        side, far = here > wall, goal > wall
        goal = self._reachable(goal, far)
        # Ways that cross the wall x first (axis 0) or the wall y first, [2][n, 2 or 5, 2].
        ways = [self._way(axis, here, side, goal, far) for axis in (0, 1)]
        lengths = [_length(way) for way in ways]
        crossing = side != far
        first = np.where(crossing.all(1), lengths[1] < lengths[0], crossing[:, 1]).astype(np.int64)
        rows = np.arange(len(here))
        door = np.stack(ways, 1)[rows, first, 1:3]  # before, behind
        along, across = first, 1 - first
        off = np.abs(here[rows, across] - door[:, 0, :][rows, across])
        inside = np.abs(here[rows, along] - wall) < _HALF_WALL + _RADIUS - 0.01
        through = (off < _LINED_UP) | inside
        target = np.where(through[:, None], door[:, 1], door[:, 0])
        return np.where(crossing.any(1)[:, None], target, goal)

    def _way(
        self,
        axis: int,
        here: Floats,
        side: NDArray[np.bool_],
        goal: Floats,
        far: NDArray[np.bool_],
    ) -> Floats:
        """Return the way that crosses the wall of one axis and then, if need be, the other.

        Returns:
            Points ``[n, 6, 2]``: start, before and behind the first door, the same of the second
            (the goal where there is none), goal.
        """
        other = 1 - axis
        first = self._door(axis, side[:, other], side[:, axis], far[:, axis])
        second = self._door(other, far[:, axis], side[:, other], far[:, other])
        both = (side != far).all(1)[:, None, None]
        second = np.where(both, second, goal[:, None])
        return np.concatenate([here[:, None], first, second, goal[:, None]], axis=1)

    def _door(
        self, axis: int, which: NDArray[np.bool_], side: NDArray[np.bool_], far: NDArray[np.bool_]
    ) -> Floats:
        """Return the waypoints before and behind a door in the wall of an axis, ``[n, 2, 2]``."""
        doors = np.array((self.house.doors_at_y, self.house.doors_at_x)[axis])
        points = np.empty((len(which), 2, 2))
        points[:, :, 1 - axis] = doors[which.astype(np.int64)][:, None]
        points[:, 0, axis] = self.house.wall + np.where(side, _AHEAD, -_AHEAD)
        points[:, 1, axis] = self.house.wall + np.where(far, _AHEAD, -_AHEAD)
        return points

    def _reachable(self, goal: Floats, far: NDArray[np.bool_]) -> Floats:
        """Move goals to where a point can be: out of walls, to their own side, but not of doors."""
        low, high, wall, *_ = self.house
        free = _HALF_WALL + _RADIUS
        inner = np.where(far, np.maximum(goal, wall + free), np.minimum(goal, wall - free))
        for axis, places in enumerate((self.house.doors_at_y, self.house.doors_at_x)):
            doors, other = np.array(places), 1 - axis
            door = doors[np.abs(goal[:, other, None] - doors).argmin(1)]
            near = np.abs(goal[:, axis] - wall) < free
            inside = near & (np.abs(goal[:, other] - door) < _HALF_WALL)
            room = _HALF_WALL - _RADIUS
            beside = np.clip(goal[:, other], door - room, door + room)
            inner[inside, axis], inner[inside, other] = goal[inside, axis], beside[inside]
        clipped: Floats = np.clip(inner, low + _RADIUS, high - _RADIUS)
        return clipped


def _length(way: Floats) -> Floats:
    """Return lengths in the larger of the two axes, which is what takes time."""
    lengths: Floats = np.abs(np.diff(way, axis=1)).max(2).sum(1)
    return lengths
