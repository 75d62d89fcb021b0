"""DAEMPC on Pendulum-v1: one random and four planned episodes (paper page, section 8, 10)."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor

from rlzoo import DAEMPC
from rlzoo.agents.dae_mpc.presets import PRESETS

pytestmark = pytest.mark.learning


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_last_two_of_five_episodes(seed: int) -> None:
    env = Monitor(gym.make("Pendulum-v1"))
    model = DAEMPC("MlpPolicy", env, seed=seed, device="cpu", **PRESETS["cpu"]).learn(1000)
    assert model.ep_info_buffer is not None
    returns = [episode["r"] for episode in model.ep_info_buffer]
    assert len(returns) == 5
    assert np.mean(returns[-2:]) > -400
