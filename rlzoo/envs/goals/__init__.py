"""Goal-conditioned tasks: ``observation``, ``achieved_goal`` and ``desired_goal`` in every one.

==========================  =====================================================================
id                          task
==========================  =====================================================================
``rlzoo/FourRooms-v0``      a point in a house of four rooms, T = 300, stepped in a batch
``rlzoo/MiniFourRooms-v0``  the same in a small house, T = 100, for tests
``rlzoo/BlockPusher-v0``    a point pushes a box and goes to a place itself, T = 100
``rlzoo/FetchStackTwo-v0``  put one cube on another, T = 150, needs gymnasium-robotics
``Fetch<Task>-v4``          Reach, Push, Slide or PickAndPlace, T = 50, also ``<Task>Dense``
``PointMaze_<Map>-v3``      a ball that is pushed through a maze, T = 300 and more
==========================  =====================================================================

Fetch and PointMaze run in envpool unless ``backend="gymnasium"`` asks for gymnasium-robotics, for
single environments as for vectors, so that a command means the same everywhere. envpool needs
neither gymnasium-robotics nor the shim for it (:func:`rlzoo.envs.compat.integer_joints`), and steps
several copies in as many threads; on one core both take about as long for Fetch, whose physics
takes most of it. Only gymnasium-robotics draws, so what has a ``render_mode`` runs in it. Both have
the same spaces, rewards and time limits; their random starts and the last bits of their physics
differ. ``positions_only=10`` keeps only the positions of an observation, as goalGAIL does.
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym

POOL = "rlzoo.envs.goals.pool:GoalPoolEnv"
"""Entry point of Fetch and PointMaze where gymnasium-robotics has not registered them."""

_POOLED = re.compile(
    r"Fetch(Reach|Push|Slide|PickAndPlace)(Dense)?-v4"
    r"|PointMaze_(UMaze|(Open|Medium|Large)(_Diverse_GR?)?)(Dense)?-v3"
)

ROOMS = "rlzoo.envs.goals.rooms:FourRooms"
"""Entry point of both houses."""


def register() -> None:
    """Register rlzoo's own tasks; what is registered already stays as it is."""
    tasks: dict[str, tuple[str, int, dict[str, Any]]] = {
        "rlzoo/FourRooms-v0": (ROOMS, 300, {}),
        "rlzoo/MiniFourRooms-v0": (ROOMS, 100, {"maze": "mini", "distance_threshold": 0.5}),
        "rlzoo/BlockPusher-v0": ("rlzoo.envs.goals.pusher:BlockPusher", 100, {}),
        "rlzoo/FetchStackTwo-v0": ("rlzoo.envs.goals.stack:FetchStackTwo", 150, {}),
    }
    for env_id, (entry_point, limit, kwargs) in tasks.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point, max_episode_steps=limit, kwargs=kwargs)


def is_pooled(env_id: str) -> bool:
    """Whether an id is one of Fetch or PointMaze, which envpool has."""
    return _POOLED.fullmatch(env_id) is not None


def register_pooled(env_id: str) -> None:
    """Register a task of envpool that gymnasium-robotics would register if it were installed."""
    gym.register(env_id, POOL, kwargs={"task": env_id}, disable_env_checker=True)
