"""Observational dropout on apples and fires (paper page, section 8, test 17).

Standing still returns 1, acting at random -0.25, a greedy reflex 3.4; published at p = 1: 2.03.
"""

from __future__ import annotations

import math

import pytest
import torch as th

from rlzoo import ObservationalDropout, make_vec
from rlzoo.agents.observational_dropout.deployment import returns_of
from rlzoo.core.foraging import AppleFireGrid

pytestmark = pytest.mark.learning
GRID = "rlzoo/AppleFireGrid-v0"


@pytest.mark.parametrize("broken", [False, True])
def test_it_learns_to_forage(broken: bool) -> None:
    """1.90 after 100 generations, which take ten seconds on a free core; broken -0.67.

    Broken: scores have the wrong sign, so that fires are sought.
    """

    class Upside(AppleFireGrid):
        def _score(self, observation: th.Tensor) -> th.Tensor:
            return -super()._score(observation)

    model = ObservationalDropout(
        "MlpPolicy", make_vec(GRID), seed=0, device="cpu",
        pop_size=64, n_eval_episodes=8, sigma_init=0.3, learning_rate=0.03, peek_prob=1.0,
        world_model="none", policy_kwargs={"net_arch": [10, 32]},
    )  # fmt: skip
    if broken:
        model._simulator = Upside  # type: ignore[method-assign]
    for _ in range(30 if broken else 100):
        model.learn(1, log_interval=None, reset_num_timesteps=False)
    found = returns_of(model.policy, AppleFireGrid(), 1_000)
    mean, error = float(found.mean()), float(found.std()) / math.sqrt(1_000)
    print(f"{mean:.2f} +- {error:.2f}")
    assert (mean > 1.3) is not broken
