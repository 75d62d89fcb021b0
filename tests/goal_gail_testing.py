"""A point in a box that is to be moved to a goal, its expert, and small agents for it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo.agents.goal_gail import GoalGAIL
from rlzoo.core.goal_episodes import GoalEpisodes

POINT = "rlzoo-tests/GoalPoint-v0"
POINT64 = "rlzoo-tests/GoalPointFloat64-v0"
EPSILON, STEP = 0.1, 0.05


class GoalPoint(gym.Env[Any, Any]):
    """Moves by ``0.05 a`` with ``a`` in [-2, 2]^2 inside of [-1, 1]^2; nothing but time ends it.

    The third number of an observation is a constant. The reward is minus the distance.
    """

    distance_threshold = EPSILON

    def __init__(self, dtype: type[np.floating[Any]] = np.float32, size: int = 2) -> None:
        self.dtype, self.size = dtype, size
        plane = spaces.Box(-1, 1, (size,), dtype)
        self.observation_space = spaces.Dict({
            "observation": spaces.Box(-1, 1, (size + 1,), dtype),
            "achieved_goal": plane,
            "desired_goal": plane,
        })  # fmt: skip
        self.action_space = spaces.Box(-2, 2, (size,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.point, self.goal = self.np_random.uniform(-1, 1, (2, self.size))
        return self._observe(), {}

    def _observe(self) -> dict[str, np.ndarray]:
        state = np.append(self.point, 0.5)
        parts = {"observation": state, "achieved_goal": self.point, "desired_goal": self.goal}
        return {key: part.astype(self.dtype) for key, part in parts.items()}

    def step(self, action: Any) -> Any:
        self.point = np.clip(self.point + STEP * np.asarray(action, float), -1, 1)
        distance = float(np.linalg.norm(self.point - self.goal))
        return self._observe(), -distance, False, False, {"is_success": distance < EPSILON}


gym.register(POINT, "goal_gail_testing:GoalPoint", max_episode_steps=50)
gym.register(POINT64, GoalPoint, max_episode_steps=50, kwargs={"dtype": np.float64})


def point_env(n_envs: int = 1, horizon: int = 20, seed: int = 0, **kwargs: Any) -> DummyVecEnv:
    """Return copies of the environment with a short time limit."""

    def make() -> gym.Env[Any, Any]:
        return Monitor(gym.make(POINT, max_episode_steps=horizon, **kwargs))

    env = DummyVecEnv([make] * n_envs)
    env.seed(seed)
    return env


def expert(observation: dict[str, np.ndarray]) -> np.ndarray:
    """Return the action that moves straight to the goal."""
    return np.clip((observation["desired_goal"] - observation["achieved_goal"]) / STEP, -2, 2)


def demonstrate(n: int = 5, horizon: int = 20, seed: int = 7) -> GoalEpisodes:
    """Return episodes of the expert."""
    env = gym.make(POINT, max_episode_steps=horizon)
    episodes = []
    for index in range(n):
        observation, _ = env.reset(seed=seed + index)
        observations, actions = [observation], []
        for _ in range(horizon):
            actions.append(expert(observation).astype(np.float32))
            observation = env.step(actions[-1])[0]
            observations.append(observation)
        stacked = {key: np.stack([o[key] for o in observations]) for key in observation}
        episodes.append({"observations": stacked, "actions": np.stack(actions)})
    return GoalEpisodes.from_episodes(episodes)


SMALL: dict[str, Any] = {
    "batch_size": 32,
    "demo_batch_size": 12,
    "gradient_steps": 5,
    "n_disc_updates": 3,
    "disc_batch_size": 16,
    "disc_hidden": [16, 16],
    "buffer_size": 2000,
    "seed": 0,
    "device": "cpu",
}


def make_agent(env: Any = None, **kwargs: Any) -> GoalGAIL:
    """Return a small agent with demonstrations on one environment."""
    settings = {**SMALL, "demonstrations": demonstrate(), **kwargs}
    settings.setdefault("policy_kwargs", {"net_arch": [16, 16]})
    return GoalGAIL("MultiInputPolicy", point_env() if env is None else env, **settings)


def tensors_of(model: GoalGAIL) -> dict[str, th.Tensor]:
    """Return all weights by name."""
    found = {f"policy/{name}": t.clone() for name, t in model.policy.state_dict().items()}
    if model.discriminator is not None:
        found |= {f"disc/{n}": t.clone() for n, t in model.discriminator.state_dict().items()}
    return found
