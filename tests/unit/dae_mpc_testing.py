"""Small worlds whose plans can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch as th

from rlzoo.agents.dae_mpc.dynamics import Rollout
from rlzoo.agents.dae_mpc.normalizer import Normalizer
from rlzoo.core.mpc_tasks import MpcTask
from rlzoo.data.transitions import Transitions

Step = Callable[[th.Tensor, th.Tensor], th.Tensor]


class KnownDynamics:
    """A model that is given as a function of state and action; pairs are normalised."""

    n_particles = 1

    def __init__(self, step: Step, normalizer: Normalizer | None = None) -> None:
        self.step, self.normalizer = step, normalizer

    def rollout(
        self, start: th.Tensor, actions: th.Tensor, generator: th.Generator | None = None
    ) -> Rollout:
        n_plans = actions.shape[2]
        states = [start.unsqueeze(1).expand(-1, n_plans, -1).flatten(0, 1)]
        pairs = []
        for action in actions.flatten(1, 2):
            pairs.append(th.cat((states[-1], action), -1))
            states.append(self.step(states[-1], action))
        found = th.stack(pairs)
        if self.normalizer is not None:
            found = self.normalizer.normalize(found)
        return Rollout(th.stack(states), found)


def task_of(
    reward: Callable[[th.Tensor, th.Tensor, th.Tensor], th.Tensor],
    n_observations: int = 2,
    n_actions: int = 2,
    **options: object,
) -> MpcTask:
    return MpcTask("test", n_observations, n_actions, reward, **options)  # type: ignore[arg-type]


def unit_bounds(n_actions: int, dtype: th.dtype = th.float32) -> tuple[th.Tensor, th.Tensor]:
    one = th.ones(n_actions, dtype=dtype)
    return -one, one


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def swing_up(observation: np.ndarray) -> float:
    """Return the torque that pumps energy into a pendulum and holds it when it is up."""
    cosine, sine, speed = observation
    angle = math.atan2(sine, cosine)
    if cosine > 0.8:
        return -10 * angle - 3 * speed
    return 0.3 * (15 - (0.5 * speed**2 + 15 * cosine)) * speed


def pendulum_episodes(n_episodes: int, seed: int = 0) -> Transitions:
    """Return episodes of 200 steps, every second one at random, the others a noisy swing-up."""
    env, rng = gym.make("Pendulum-v1"), np.random.default_rng(seed)
    rows = []
    for episode in range(n_episodes):
        observation, _ = env.reset(seed=seed + episode)
        for _ in range(200):
            noise = rng.uniform(-2, 2)
            torque = noise if episode % 2 else swing_up(observation) + 0.5 * noise
            action = np.array([np.clip(torque, -2, 2)], np.float32)
            following, reward, *_ = env.step(action)
            rows.append((observation, action, reward, following))
            observation = following
    observations, actions, rewards, following_ones = (np.array(x) for x in zip(*rows, strict=True))
    n = len(rows)
    cut = np.zeros(n, np.bool_)
    cut[199::200] = True
    return Transitions(
        observations=observations.astype(np.float32), actions=actions,
        rewards=rewards.astype(np.float32), terminations=np.zeros(n, np.bool_), truncations=cut,
        next_observations=following_ones.astype(np.float32),
        episode_starts=np.arange(0, n + 1, 200),
        observation_space=env.observation_space, action_space=env.action_space,
    )  # fmt: skip
