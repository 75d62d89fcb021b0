"""MultiRoom: find the goal behind a chain of rooms with closed doors, the whole grid in view.

``import rlzoo.envs`` registers the tasks of the IBAC-SNI paper, ``rlzoo/MultiRoom-N3r-v0`` and so
on; they need the extra ``minigrid``, which generates the levels. ``make_vec`` steps them in a
batched simulator (:mod:`rlzoo.envs.multiroom.vec`), ``gymnasium.make`` in minigrid itself
(:mod:`rlzoo.envs.multiroom.env`), and seeds and actions lead to the same numbers in both.
"""

from __future__ import annotations

from typing import NamedTuple

import gymnasium as gym

ENTRY_POINT = "rlzoo.envs.multiroom.env:MultiRoom"


class Rooms(NamedTuple):
    """A task. An episode is cut after 20 steps per room of ``max_rooms``, however many it has.

    Args:
        min_rooms: Fewest rooms of a level.
        max_rooms: Most rooms; all numbers in between are equally likely.
        room_size: Largest side of a room, walls included; the smallest is 4.
        grid_size: Width and height of the grid.
    """

    min_rooms: int
    max_rooms: int
    room_size: int
    grid_size: int


TASKS = {
    "N1": Rooms(1, 1, 6, 11),
    "N2": Rooms(2, 2, 6, 11),
    "N3": Rooms(3, 3, 6, 11),
    "N2r": Rooms(1, 3, 6, 9),  # up to three rooms, as the authors registered it
    "N3r": Rooms(1, 3, 6, 11),
    "N5r": Rooms(1, 5, 7, 15),
}
"""Trained on: N2r, N3r, N5r. Evaluated on: N1, N2, N3."""


def env_id(task: str) -> str:
    """Return the id of a task, such as ``"N3r"``."""
    return f"rlzoo/MultiRoom-{task}-v0"


def register() -> None:
    """Register all tasks; what is registered already stays as it is."""
    for task, rooms in TASKS.items():
        if env_id(task) not in gym.registry:
            gym.register(env_id(task), ENTRY_POINT, kwargs=rooms._asdict())
