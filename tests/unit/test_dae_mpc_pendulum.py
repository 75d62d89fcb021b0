"""DAEMPC swings a pendulum up within four episodes; what is broken does not (paper page, 8, 10).

Three seeds of five episodes are in tests/learning/test_dae_mpc_pendulum_seeds.py.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch as th
from stable_baselines3.common.monitor import Monitor

from rlzoo import DAEMPC
from rlzoo.agents.dae_mpc.presets import PRESETS


def returns(steps: int, seed: int = 0, **kwargs: Any) -> list[float]:
    """Return the returns of the training episodes."""
    env = Monitor(gym.make("Pendulum-v1"))
    settings = {**PRESETS["cpu"], "device": "cpu", **kwargs}
    model = DAEMPC("MlpPolicy", env, seed=seed, **settings).learn(steps)
    assert model.ep_info_buffer is not None
    return [episode["r"] for episode in model.ep_info_buffer]


def test_it_swings_up() -> None:
    assert returns(800)[-1] > -400


def test_a_planner_that_does_not_see_its_actions_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlzoo.agents.dae_mpc.dynamics import DynamicsModel, Rollout

    original = DynamicsModel._roll_in_place

    def blind(self: DynamicsModel, first: th.Tensor, actions: th.Tensor) -> Rollout:
        return original(self, first, th.zeros_like(actions))

    monkeypatch.setattr(DynamicsModel, "_roll_in_place", blind)
    assert returns(600, model_epochs=50)[-1] < -700
