"""The control tasks of DAE-MPC in the form of PETS (section 4 of the page).

=============================  =====  =======  ========================================
id                             steps  obs/act  what
=============================  =====  =======  ========================================
``rlzoo/PETSCartPole-v0``      200    4 / 1    swing up a pole and hold it
``rlzoo/Reacher7DoF-v0``       150    17 / 7   reach a place with an arm
``rlzoo/PETSPusher-v0``        150    20 / 7   push a cylinder to a place
``rlzoo/PETSHalfCheetah-v0``   1000   18 / 6   run
``rlzoo/Ant30-v0``             1000   28 / 8   run with weak motors
=============================  =====  =======  ========================================

What a planner may know of them is in :mod:`rlzoo.core.mpc_tasks`.
"""

from __future__ import annotations

import gymnasium as gym

_TASKS = {
    "rlzoo/PETSCartPole-v0": ("cartpole:PETSCartPole", 200),
    "rlzoo/Reacher7DoF-v0": ("arm:Reacher7DoF", 150),
    "rlzoo/PETSPusher-v0": ("pusher:PETSPusher", 150),
    "rlzoo/PETSHalfCheetah-v0": ("locomotion:PETSHalfCheetah", 1000),
    "rlzoo/Ant30-v0": ("locomotion:Ant30", 1000),
}


def register() -> None:
    """Register all; what is registered already stays as it is."""
    for env_id, (place, steps) in _TASKS.items():
        if env_id not in gym.registry:
            gym.register(env_id, f"{__name__}.{place}", max_episode_steps=steps)
