"""DER plays Catch and CartPole (paper page, section 8, test 12).

Shuffled rewards are not learned from. What else can be broken shows in exact values, in
``test_der_chain.py``: without a bootstrap mask CartPole is played nearly as well after 5,000 steps.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from rlzoo.agents.der import DER

pytestmark = pytest.mark.learning


class Catch(gym.Env[Any, Any]):
    """A ball falls through 10 rows of 5 columns, a paddle at the bottom moves by one column."""

    action_space = spaces.Discrete(3)

    def __init__(self, image: bool = False) -> None:
        self.image = image
        shape = (1, 10, 5)
        self.observation_space = (
            spaces.Box(0, 255, shape, np.uint8) if image else spaces.Box(0, 1, shape, np.float32)
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.row, self.ball, self.paddle = 0, int(self.np_random.integers(5)), 2
        return self._observe(), {}

    def _observe(self) -> Any:
        board = np.zeros((1, 10, 5), self.observation_space.dtype)
        board[0, self.row, self.ball] = board[0, 9, self.paddle] = 255 if self.image else 1
        return board

    def step(self, action: Any) -> Any:
        self.row += 1
        self.paddle = min(max(self.paddle + int(action) - 1, 0), 4)
        end = self.row == 9
        reward = (1.0 if self.ball == self.paddle else -1.0) if end else 0.0
        return self._observe(), reward, end, False, {}


class ShuffledRewards(DER):
    def _losses(self, batch: Any) -> Any:
        order = th.randperm(len(batch.rewards))
        return super()._losses(batch._replace(rewards=batch.rewards[order]))


def catch(cls: type[DER], image: bool = False, steps: int = 6_000) -> float:
    """Mean return of the final policy over 100 episodes."""
    kwargs = {"encoder": "small", "net_arch": [64]} if image else {"net_arch": [64, 64]}
    env = Monitor(Catch(image))
    model = cls(
        "CnnPolicy" if image else "MlpPolicy", env, learning_rate=1e-3, learning_starts=500,
        n_steps=5, v_min=-1, v_max=1, target_update_interval=200, buffer_size=10_000,
        warmup="uniform", sigma=0.5, seed=0, device="cpu", policy_kwargs=kwargs,
    )  # fmt: skip
    model.learn(steps)
    return float(evaluate_policy(model, Monitor(Catch(image)), 100)[0])


@pytest.mark.parametrize("image", [False, True])
def test_catch(image: bool) -> None:
    assert catch(DER, image) >= 0.8


def test_catch_with_shuffled_rewards() -> None:
    assert catch(ShuffledRewards) < 0.5


def cartpole(cls: type[DER]) -> float:
    """Mean return of the final policy over 20 episodes; the configuration of `rlzoo train der`."""
    model = cls(
        "MlpPolicy", "CartPole-v1", learning_rate=1e-3, buffer_size=20_000, batch_size=64,
        learning_starts=500, warmup="uniform", n_steps=3, target_update_interval=200, v_min=0,
        v_max=100, seed=0, device="cpu", policy_kwargs={"net_arch": [128, 128]},
    )  # fmt: skip
    model.learn(20_000)
    return float(evaluate_policy(model, Monitor(gym.make("CartPole-v1")), 20)[0])


def test_cartpole() -> None:
    assert cartpole(DER) >= 400
