"""Goal-conditioned tasks: ``observation``, ``achieved_goal`` and ``desired_goal`` in every one.

==========================  =====================================================================
id                          task
==========================  =====================================================================
``rlzoo/FourRooms-v0``      a point in a house of four rooms, T = 300, stepped in a batch
``rlzoo/MiniFourRooms-v0``  the same in a small house, T = 100, for tests
==========================  =====================================================================
"""

from __future__ import annotations

import gymnasium as gym

ROOMS = "rlzoo.envs.goals.rooms:FourRooms"
"""Entry point of both houses."""


def register() -> None:
    """Register rlzoo's own tasks; what is registered already stays as it is."""
    tasks = {
        "rlzoo/FourRooms-v0": (ROOMS, 300, {}),
        "rlzoo/MiniFourRooms-v0": (ROOMS, 100, {"maze": "mini", "distance_threshold": 0.5}),
    }
    for env_id, (entry_point, limit, kwargs) in tasks.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point, max_episode_steps=limit, kwargs=kwargs)
