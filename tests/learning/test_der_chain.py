"""DER learns the exact values of a small chain, and variants with one line broken do not."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor

from rlzoo.agents.der import DER

LENGTH, GAMMA = 4, 0.8


class Chain(gym.Env[Any, Any]):
    """Action 1 goes right, 0 back to the start; the last step right pays 1 and ends the episode.

    The observation after the end is that of the last state, whose value must not be bootstrapped.
    """

    observation_space = spaces.Box(0, 1, (LENGTH,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.state = 0
        return self._observe(), {}

    def _observe(self) -> Any:
        return np.eye(LENGTH, dtype=np.float32)[self.state]

    def step(self, action: Any) -> Any:
        end = bool(action == 1 and self.state == LENGTH - 1)
        if not end:
            self.state = self.state + 1 if action == 1 else 0
        return self._observe(), float(end), end, False, {}


def exact() -> np.ndarray:
    """Q* by states and actions."""
    right = GAMMA ** np.arange(LENGTH - 1, -1, -1.0)
    return np.stack([np.full(LENGTH, GAMMA * right[0]), right], 1)


class ShuffledRewards(DER):
    def _losses(self, batch: Any) -> Any:
        return super()._losses(batch._replace(rewards=batch.rewards[th.randperm(32)]))


class NoMask(DER):
    def _target(self, batch: Any, next_inputs: Any) -> Any:
        return super()._target(batch._replace(dones=0 * batch.dones), next_inputs)


class NeverCopied(DER):
    def _copy_target(self) -> None:
        pass


def error(cls: type[DER], **kwargs: Any) -> float:
    """Largest error of a Q value after 900 updates on random actions."""
    # Time limits end the episodes as well: they must not end the values.
    env = Monitor(TimeLimit(Chain(), 7))
    model = cls(
        "MlpPolicy", env, learning_rate=2e-3, learning_starts=100, n_steps=1, gamma=GAMMA,
        target_update_interval=50, v_min=-1, v_max=3, n_atoms=41, buffer_size=2_000,
        warmup="uniform", exploration_initial_eps=1.0, exploration_final_eps=1.0, seed=0,
        device="cpu", policy_kwargs={"net_arch": [32, 32]}, **kwargs,
    )  # fmt: skip
    model.learn(1_000)
    with th.no_grad():
        outputs = model.q_net(th.eye(LENGTH), False)
    return float(np.abs(model.policy.values(outputs).numpy() - exact()).max())


@pytest.mark.parametrize(
    "kwargs", [{}, {"distributional": False}, {"dueling": False, "sigma": None, "double": False}]
)
def test_values_of_the_chain(kwargs: dict[str, Any]) -> None:
    assert error(DER, **kwargs) < 0.1


@pytest.mark.parametrize("broken", [ShuffledRewards, NoMask, NeverCopied])
def test_broken_variants_have_other_values(broken: type[DER]) -> None:
    assert error(broken) > 0.25
