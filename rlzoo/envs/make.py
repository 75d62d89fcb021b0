"""Making environments: one function whatever the family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rlzoo.core.seeding import stream


def make_env(env_id: str, **env_kwargs: Any) -> gym.Env[Any, Any]:
    """Make one environment."""
    return gym.make(env_id, **env_kwargs)


def make_vec(
    env_id: str,
    n_envs: int = 1,
    seed: int = 0,
    split: str | None = None,
    monitor: bool = True,
    **env_kwargs: Any,
) -> VecEnv:
    """Make ``n_envs`` copies behind one SB3 ``VecEnv``; env ``i`` is seeded by its own stream."""

    def factory() -> gym.Env[Any, Any]:
        env = make_env(env_id, **env_kwargs)
        return Monitor(env) if monitor else env

    factories: list[Callable[[], gym.Env[Any, Any]]] = [factory for _ in range(n_envs)]
    vec = DummyVecEnv(factories)
    # DummyVecEnv hands these to the first reset of each environment.
    vec._seeds = [stream(seed, "env", index) for index in range(n_envs)]
    return vec
