"""Helpers of the tests of goal environments and their experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.data.policies import BatchPolicy, NoisyPolicy, Step

Act = Callable[[dict[str, np.ndarray]], np.ndarray]


class Result(NamedTuple):
    """Of one episode per copy: the first step with success (1, 2, …; 0 for none), and the last."""

    first: np.ndarray
    final: np.ndarray

    @property
    def share(self) -> float:
        return float((self.first > 0).mean())


def episodes(vec: VecEnv, act: Act, goals: Any = None, steps: int | None = None) -> Result:
    """Run one episode per copy; all must have the same length."""
    if goals is not None:
        vec.set_options([{"goal": goal} for goal in goals])
    observation: Any = vec.reset()
    first = np.zeros(vec.num_envs, np.int64)
    length = steps or vec.get_attr("spec")[0].max_episode_steps
    success = np.zeros(vec.num_envs, bool)
    for t in range(1, length + 1):
        observation, _, dones, infos = vec.step(act(observation))
        success = np.array([bool(info.get("is_success", info.get("success"))) for info in infos])
        first[success & (first == 0)] = t
        assert dones.all() == (t == length), t
        assert dones.any() == dones.all()
    return Result(first, success)


def expert(policy: BatchPolicy, vec: VecEnv, sigma: float = 0, epsilon: float = 0) -> Act:
    """Act as an expert does in a collector, with its noise."""
    noisy = NoisyPolicy(policy, vec.action_space, epsilon, sigma)
    rng, n = np.random.default_rng(0), vec.num_envs
    state = {"t": 0}

    def act(observation: dict[str, np.ndarray]) -> np.ndarray:
        starts = np.full(n, state["t"] == 0)
        state["t"] += 1
        normals, uniforms = rng.normal(size=(n, noisy.normals)), rng.random((n, noisy.uniforms))
        observed: Any = observation
        return noisy.act(observed, Step(normals, uniforms, starts, np.ones(n, bool)))

    return act


def random_actions(vec: VecEnv, seed: int = 0) -> Act:
    rng = np.random.default_rng(seed)
    shape = (vec.num_envs, *(vec.action_space.shape or ()))
    return lambda _: rng.uniform(-1, 1, shape).astype(np.float32)


def greedy(step: float) -> Act:
    """Straight to the goal."""
    return lambda o: np.clip((o["desired_goal"] - o["achieved_goal"]) / step, -1, 1)
