"""Block pusher: push the box along x, then along y, then go to the goal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlzoo.data.experts.base import ScriptedExpert

Floats = NDArray[np.float64]

STEP = 0.2
"""Displacement that an action of 1 asks for."""

_CONTACT = 0.4  # from the point to the middle of the box, along an axis
_CLEAR = 0.42
_CORNER = 0.45
_PLACED = 0.02
_CORNERS = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * _CORNER
_ROUTES = [(i, i) for i in range(4)] + [(i, (i + d) % 4) for i in range(4) for d in (1, 3)]
"""Corners that a way round the box passes, one or two."""


class PusherExpert(ScriptedExpert):
    """Walks round the box to the face that must be pushed; each step follows from what is seen."""

    name = "pusher"

    def _actions(self, observation: Floats, goal: Floats, starts: NDArray[np.bool_]) -> Floats:
        here, box = observation[:, :2], observation[:, 2:4]
        todo = goal[:, 2:4] - box
        unplaced: NDArray[np.bool_] = np.abs(todo) > _PLACED
        axis = np.where(unplaced[:, 0], 0, 1)
        rows = np.arange(len(here))
        offset = here - box
        # Pushing along its axis: how far the point is behind the face, and beside its middle.
        sign = np.where(todo[rows, axis] > 0, 1.0, -1.0)
        behind = -sign * offset[rows, axis] - _CONTACT
        beside = offset[rows, 1 - axis]
        at_face = (np.abs(beside) < 0.3) & (behind > -0.05) & (behind < 0.1)
        push = np.zeros_like(here)
        push[rows, axis] = sign * (behind + np.abs(todo[rows, axis]))
        face = np.zeros_like(here)
        face[rows, axis] = -sign * _CLEAR
        face[rows, 1 - axis] = np.clip(beside, -0.2, 0.2)
        placed = ~(unplaced[:, 0] | unplaced[:, 1])
        target = np.where(placed[:, None], goal[:, :2] - box, face)
        walk = _first_leg(offset, target) - offset
        moves = np.where((at_face & ~placed)[:, None], push, walk)
        # Straight lines: both axes are slowed down alike.
        actions: Floats = moves / np.maximum(STEP, np.abs(moves).max(1))[:, None]
        return actions


def _first_leg(here: Floats, target: Floats) -> Floats:
    """Return the first waypoint of the shortest way round the box, relative to its middle.

    Args:
        here: ``[n, 2]``, relative to the middle of the box.
        target: ``[n, 2]``, likewise.
    """
    legs, lengths = [target], [_leg(here, target)]
    for first, second in _ROUTES:
        one, two = (np.broadcast_to(_CORNERS[index], here.shape) for index in (first, second))
        legs.append(one)
        lengths.append(_leg(here, one) + _leg(one, two) + _leg(two, target))
    best = np.argmin(np.stack(lengths), axis=0)
    waypoint = np.stack(legs)[best, np.arange(len(here))]
    # A point that touches the box steps back first.
    near = np.abs(here).max(1) < _CLEAR - 0.005
    axis = np.abs(here).argmax(1)
    back, rows = here.copy(), np.arange(len(here))
    back[rows, axis] = np.where(here[rows, axis] < 0, -1, 1) * (_CLEAR + 0.01)
    return np.where(near[:, None], back, waypoint)


def _leg(start: Floats, end: Floats) -> Floats:
    """Return the lengths of straight ways, ``[n]``; infinity where one leads through the box."""
    way = end - start
    half = _CLEAR - 0.01
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = np.stack([(-half - start) / way, (half - start) / way])
    parallel = way == 0
    inside = np.abs(start) < half
    enter = np.where(parallel, np.where(inside, -np.inf, np.inf), crossings.min(0)).max(1)
    leave = np.where(parallel, np.where(inside, np.inf, -np.inf), crossings.max(0)).min(1)
    blocked = (enter < leave) & (enter < 1) & (leave > 0)
    return np.where(blocked, np.inf, np.linalg.norm(way, axis=1))
