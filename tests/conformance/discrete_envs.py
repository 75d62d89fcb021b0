"""Environments for agents with discrete actions: as Pendulum, and one that shows stacked frames."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformAction, TransformObservation

PENDULUM = "rlzoo-tests/DiscretePendulum-v0"
PENDULUM64 = "rlzoo-tests/DiscretePendulumFloat64-v0"
FRAMES = "rlzoo-tests/Frames-v0"


def make_pendulum(dtype: type[np.floating[Any]] = np.float32, **kwargs: Any) -> gym.Env[Any, Any]:
    """Pendulum with three torques; its reward is negative and only the time limit ends it."""
    env = gym.make("Pendulum-v1", max_episode_steps=-1, **kwargs)
    torques = np.array([[-2.0], [0.0], [2.0]], np.float32)
    env = TransformAction(env, lambda action: torques[action], spaces.Discrete(3))
    box = env.observation_space
    space = spaces.Box(box.low.astype(dtype), box.high.astype(dtype), dtype=dtype)
    return TransformObservation(env, lambda observation: observation.astype(dtype), space)


class Frames(gym.Env[Any, Any]):
    """Four stacked noisy frames of 26x26; ends after 7 to 30 steps, every third time by truncation.

    Ends alternate between a blank stack and, as after a lost life, one that goes on.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (4, 26, 26), np.uint8)
        self.action_space = spaces.Discrete(2)
        self.stack = np.zeros((4, 26, 26), np.uint8)
        self.episode = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.episode = 0
        self.episode += 1
        if self.episode % 2 or seed is not None:
            self.stack = np.zeros_like(self.stack)
        self.left = int(self.np_random.integers(7, 31))
        return self._push(), {}

    def _push(self) -> Any:
        frame = self.np_random.integers(0, 256, (1, 26, 26), np.uint8)
        self.stack = np.concatenate([self.stack[1:], frame])
        return self.stack

    def step(self, action: Any) -> Any:
        self.left -= 1
        end, cut = self.left == 0, self.episode % 3 == 0
        return self._push(), float(action), end and not cut, end and cut, {}


gym.register(PENDULUM, make_pendulum, max_episode_steps=200)
gym.register(PENDULUM64, make_pendulum, max_episode_steps=200, kwargs={"dtype": np.float64})
gym.register(FRAMES, Frames)
