"""PPO through the chain of predictions, on a pole that is seen every 0.4 s (paper page, 2.7)."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy

from rlzoo import ObsDropoutPPO, make_vec
from rlzoo.agents.observational_dropout import actor_critic
from rlzoo.agents.observational_dropout.chain import replay

pytestmark = pytest.mark.learning


@pytest.mark.parametrize("broken", [False, True])
def test_gradients_through_predictions_keep_the_pole_up(
    broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """158 steps after 24,576, broken 12; as always to the left 9, at random 22. Half a minute.

    Broken: beliefs are data, so that the world model stays as it was at first.
    """
    if broken:

        def cut(*arguments: Any) -> th.Tensor:
            return replay(*arguments).detach()

        monkeypatch.setattr(actor_critic, "replay", cut)
    model = ObsDropoutPPO(
        "MlpPolicy", make_vec("CartPole-v1", 16), peek_prob=0.05, n_steps=128, chunk_length=32,
        batch_size=256, learning_rate=1e-3, seed=0, device="cpu",
    )  # fmt: skip
    model.learn(24_576)
    mean, _ = evaluate_policy(model, make_vec("CartPole-v1", 20, seed=5), 40)
    print(mean)
    assert float(mean) < 40 if broken else float(mean) > 70
