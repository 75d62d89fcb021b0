"""Bringing environments to a known state, so that a run can be continued exactly.

At every periodic checkpoint the environments of an online agent are reset with seeds that follow
from the seed of the run and the step (a *barrier*). The episodes that this cuts short count as
truncated. Between barriers the actions are recorded; whoever continues resets with the same seeds
and takes the same actions. This is exact for every environment that honours its seed, and
:func:`return_to` says whether it was.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from rlzoo.core.seeding import stream
from rlzoo.envs.training import TrainingVecEnv

EnvState = dict[str, Any]


def training_env(model: BaseAlgorithm) -> TrainingVecEnv | None:
    """Return the recording environments of a model, below whatever SB3 wrapped around them."""
    env: VecEnv | None = model.env
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, TrainingVecEnv):
            return env
        env = env.venv
    return None


def seeds_at(seed: int, step: int, n_envs: int, why: str = "barrier") -> list[int]:
    """Return the seeds of the environments after a barrier at ``step``."""
    return [stream(seed, why, step, index) for index in range(n_envs)]


def put_barrier(model: BaseAlgorithm, seeds: list[int]) -> None:
    """End all episodes as truncated and begin new ones with these seeds."""
    cut_episodes(getattr(model, "replay_buffer", None))
    _reset(model, seeds)


def cut_episodes(buffer: Any) -> None:
    """Mark the newest transition of each environment as the end of its episode, by truncation.

    One-step methods see no difference; n-step returns and HER must not look beyond.
    """
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says what it does
            buffer.truncate_last_trajectory()
    elif (
        isinstance(buffer, ReplayBuffer) and buffer.size() > 0 and buffer.handle_timeout_termination
    ):
        going_on = buffer.dones[buffer.pos - 1] == 0
        buffer.timeouts[buffer.pos - 1][going_on] = 1
        buffer.dones[buffer.pos - 1][going_on] = 1


def env_state(model: BaseAlgorithm) -> EnvState:
    """Return what :func:`return_to` needs: seeds, actions ``[T, n_envs, ...]`` and resets."""
    env = training_env(model)
    if env is None:
        return {}
    return {
        "seeds": env.seeds,
        "actions": th.from_numpy(env.actions_since_barrier()),
        "resets": env.resets_since_barrier(),
    }


def after_failure(model: BaseAlgorithm, seed: int) -> EnvState:
    """Return a state that begins new episodes: environments that failed have none to go on in."""
    seeds = seeds_at(seed, model.num_timesteps, model.n_envs, "failure")
    return {"seeds": seeds, "actions": None, "resets": []}


def return_to(model: BaseAlgorithm, state: EnvState) -> bool:
    """Bring fresh environments into a recorded state.

    Returns:
        Whether they ended up where the checkpoint was. Not for environments that ignore their
        seed, or draw from elsewhere; training then goes on from where they are.
    """
    if not state or not state["seeds"] or model.env is None:
        return True
    expected, starts = model._last_obs, model._last_episode_starts
    observations = _reset(model, state["seeds"])
    if state["actions"] is None:
        return True
    again = list(state["resets"])
    for done, actions in enumerate(state["actions"].numpy()):
        while again and again[0] == done:
            observations, _ = model.env.reset(), again.pop(0)
        observations = model.env.step(actions)[0]
    for _ in again:
        observations = model.env.reset()
    model._last_obs, model._last_episode_starts = observations, starts
    return expected is None or _equal(expected, observations)


def _reset(model: BaseAlgorithm, seeds: list[int]) -> Any:
    env = training_env(model)
    if env is None or model.env is None:
        return None
    env.set_seeds(seeds)
    model._last_obs = model.env.reset()  # type: ignore[assignment]
    model._last_episode_starts = np.ones((model.n_envs,), dtype=bool)
    return model._last_obs


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))
