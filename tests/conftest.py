"""Fixtures that any test may use: tiny data sets of real environments, a private Minari store."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache

# Before torch is imported by a test: one thread is fastest for tiny networks, and the sums of one
# thread do not depend on the machine. Subprocesses of the tests inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import gymnasium as gym
import numpy as np
import pytest

from rlzoo.data.schema import build, schema_spaces
from rlzoo.data.transitions import Transitions


@pytest.fixture(scope="session", autouse=True)
def minari_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Point Minari at a folder of this session, so that no test sees or touches the user's data.

    SB3's logger makes a folder for every ``learn``, in the system's temporary folder by default;
    those go there as well.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("minari"))
        patch.setenv("MINARI_DATASETS_PATH", folder)
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("sb3")))
        yield folder


@pytest.fixture(autouse=True)
def no_flush_to_zero() -> None:
    """Undo what ``configure_cpu`` sets for the whole process: hypothesis needs tiny floats."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@cache
def _collect(env_id: str, size: int, seed: int, max_episode_steps: int | None) -> Transitions:
    env = gym.make(env_id, max_episode_steps=max_episode_steps)
    env.action_space.seed(seed)
    rows: list[tuple[object, ...]] = []
    starts = [0]
    observation, _ = env.reset(seed=seed)
    while len(rows) < size:
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        last = len(rows) + 1 == size
        cut = (truncated or last) and not terminated
        rows.append((observation, action, reward, terminated, cut, following))
        observation = following
        if terminated or cut:
            starts.append(len(rows))
            observation, _ = env.reset()
    env.close()
    observations, actions, rewards, terminations, truncations, following_ones = zip(
        *rows, strict=True
    )
    spaces = schema_spaces(env.observation_space, env.action_space, env_id)
    arrays = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminations": terminations,
        "truncations": truncations,
        "next_observations": following_ones,
    }
    metadata = {"id": f"tests/{env_id}", "env_id": env_id, "seed": seed}
    return build(arrays, np.asarray(starts, np.int64), *spaces, metadata)


@pytest.fixture(scope="session")
def tiny_data() -> Callable[..., Transitions]:
    """Return ``make(env_id, size=200, seed=0, max_episode_steps=None)``.

    The data are made by stepping the environment with uniformly random actions; equal arguments
    give the same object.
    """

    def make(
        env_id: str, size: int = 200, seed: int = 0, max_episode_steps: int | None = None
    ) -> Transitions:
        return _collect(env_id, size, seed, max_episode_steps)

    return make


@pytest.fixture(scope="session")
def pendulum_data(tiny_data: Callable[..., Transitions]) -> Transitions:
    """200 random transitions of Pendulum-v1 in 4 episodes of 50 steps; actions in [-2, 2]."""
    return tiny_data("Pendulum-v1", max_episode_steps=50)


@pytest.fixture(scope="session")
def hopper_data(tiny_data: Callable[..., Transitions]) -> Transitions:
    """200 random transitions of Hopper-v4 in episodes that end by falling."""
    return tiny_data("Hopper-v4")
