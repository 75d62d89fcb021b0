"""Making environments: one function whatever the family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from rlzoo.core.seeding import check_seed, stream
from rlzoo.envs import compat
from rlzoo.envs.checks import check_api, check_env_id, first_line
from rlzoo.errors import RefusedError


def make_env(env_id: str, **env_kwargs: Any) -> gym.Env[Any, Any]:
    """Make one environment.

    Args:
        env_id: Id of a registered environment, ``"module:Env-v0"``, or an id of a known family
            (``ALE/…``, ``MiniGrid-…``), whose package is imported.
        env_kwargs: Keyword arguments of the environment, such as ``render_mode``.

    Raises:
        RefusedError: If the id is unknown or replaced, a package is missing, or the environment
            cannot be made with these arguments.
    """
    if env_kwargs.get("render_mode") not in (None, "human"):
        compat.choose_gl()
    check_env_id(env_id)
    try:
        with compat.quiet_v4():
            return gym.make(env_id, **env_kwargs)
    except Exception as error:
        raise RefusedError(
            f"Environment {env_id!r} cannot be made: {first_line(error)}.",
            f"Given: {env_kwargs}." if env_kwargs else "",
        ) from error


def make_vec(
    env_id: str,
    n_envs: int = 1,
    seed: int = 0,
    split: str | None = None,
    monitor: bool = True,
    processes: bool = False,
    **env_kwargs: Any,
) -> VecEnv:
    """Make ``n_envs`` copies behind one SB3 ``VecEnv``.

    Environment ``i`` is seeded with ``stream(seed, "env", i)`` at its first reset. An environment
    that is not Gymnasium's own is checked against the API first, on a separate instance.

    Args:
        env_id: See :func:`make_env`.
        n_envs: Number of copies, at least 1.
        seed: Seed of the run.
        split: Train or test levels; None for environments without such a split.
        monitor: Record returns and lengths of the episodes with SB3's ``Monitor``.
        processes: One process per copy. Pays for slow environments only.
        env_kwargs: Keyword arguments of the environment.

    Raises:
        RefusedError: As :func:`make_env`, or if the environment breaks the API.
    """
    seed = check_seed(seed)
    if n_envs < 1:
        raise RefusedError(f"n_envs={n_envs} is out of range.", "Allowed: 1, 2, …")
    if split is not None:
        raise RefusedError(
            f"Environment {env_id!r} has no split {split!r}.", "Allowed: None for this environment."
        )
    if processes or not _is_builtin(env_id):  # A failing worker would only say "connection reset".
        env = make_env(env_id, **env_kwargs, disable_env_checker=True)
        try:
            check_api(env, env_id)
        finally:
            env.close()

    def factory() -> gym.Env[Any, Any]:
        env = make_env(env_id, **env_kwargs)
        return Monitor(env) if monitor else env

    factories: list[Callable[[], gym.Env[Any, Any]]] = [factory] * n_envs
    vec = SubprocVecEnv(factories) if processes else DummyVecEnv(factories)
    # SB3 hands these to the first reset of each environment.
    vec._seeds = [stream(seed, "env", index) for index in range(n_envs)]
    return vec


def _is_builtin(env_id: str) -> bool:
    """Whether the environment is Gymnasium's own, which upstream checks."""
    return str(check_env_id(env_id).entry_point).startswith("gymnasium.envs.")
