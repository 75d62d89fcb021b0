"""Success on fixed levels: how MultiRoom is evaluated, after the training, on other tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import PolicyPredictor

from rlzoo.core.arguments import AT_LEAST_ONE, check_range
from rlzoo.core.seeding import get_states, seed_everything, set_states, stream
from rlzoo.envs import make_vec
from rlzoo.envs.multiroom import env_id as multiroom_id
from rlzoo.errors import RefusedError

MULTIROOM = ("N1", "N2", "N3")
"""Tasks on which the paper's policies are evaluated; they are trained on others, such as N3r."""


def solved_levels(
    model: PolicyPredictor,
    env_id: str,
    levels: int = 100,
    seed: int = 0,
    deterministic: bool = False,
    **env_kwargs: Any,
) -> NDArray[np.bool_]:
    """Play fixed levels once each, and return which were solved, ``[levels]``.

    Level ``i`` is that of the environment's seed ``seed + i``, so that all policies play the same
    ones; solved is an episode whose return is above 0. The global generators are left as they were.

    Args:
        model: Anything with SB3's ``predict``.
        env_id: Environment whose reward is above 0 for success only.
        levels: Number of levels, at least 1.
        seed: Of the first level, and of the actions that are drawn.
        deterministic: Passed to ``predict``; the paper samples.
        env_kwargs: Arguments of the environment.

    Raises:
        RefusedError: If the policy takes other observations, or as
            :func:`rlzoo.envs.make_vec`.
    """
    check_range("levels", levels, AT_LEAST_ONE)
    vec = make_vec(env_id, levels, **env_kwargs)
    wanted = getattr(model, "observation_space", vec.observation_space)
    if wanted != vec.observation_space:
        raise RefusedError(
            f"The policy takes observations of {wanted}, but {env_id!r} gives "
            f"{vec.observation_space}.",
            todo="For MultiRoom set grid_size to that of the training.",
        )
    vec.seed(seed)
    states = get_states()
    seed_everything(stream(seed, "levels", env_id))
    try:
        return _play(model, vec, deterministic)
    finally:
        set_states(states)
        vec.close()


def multiroom_success(
    model: PolicyPredictor,
    tasks: Sequence[str] = MULTIROOM,
    levels: int = 100,
    seed: int = 0,
    deterministic: bool = False,
    **env_kwargs: Any,
) -> dict[str, float]:
    """Return the success rate of every task by its environment id.

    Args:
        model: See :func:`solved_levels`, as for the other arguments.
        tasks: Names from :data:`rlzoo.envs.multiroom.TASKS`.
        levels: Levels per task.
        seed: Of the first level of each.
        deterministic: Passed to ``predict``.
        env_kwargs: Arguments of the environments; ``grid_size=9`` for a policy of N2r.

    Raises:
        RefusedError: As :func:`solved_levels`.
    """
    return {
        name: float(solved_levels(model, name, levels, seed, deterministic, **env_kwargs).mean())
        for name in map(multiroom_id, tasks)
    }


def _play(model: PolicyPredictor, vec: Any, deterministic: bool) -> NDArray[np.bool_]:
    """Play the first episode of every environment to its end."""
    observations, state = vec.reset(), None
    starts = np.ones(vec.num_envs, bool)
    returns, playing = np.zeros(vec.num_envs), np.ones(vec.num_envs, bool)
    while playing.any():
        actions, state = model.predict(
            observations, state=state, episode_start=starts, deterministic=deterministic
        )
        observations, rewards, starts, _ = vec.step(actions)
        returns += rewards * playing
        playing &= ~starts
    solved: NDArray[np.bool_] = returns > 0
    return solved
