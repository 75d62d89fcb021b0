"""Observational dropout on the swing-up (paper page, section 8, tests 14 to 16).

The figures of the comments are means of one run each, with seed 0. What breaks the recursion or a
strategy shows in exact values in ``tests/unit/test_obs_dropout_*.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from rlzoo import ObservationalDropout
from rlzoo.agents.observational_dropout.deployment import returns_of
from rlzoo.core.simulator_vec import SimulatorVecEnv
from rlzoo.core.swingup import CartPoleSwingUp

pytestmark = pytest.mark.learning


def train(generations: int, hard: bool, **kwargs: Any) -> ObservationalDropout:
    """Train for some generations; the default settings are the published ones."""
    env = SimulatorVecEnv(CartPoleSwingUp(hard))
    model = ObservationalDropout("MlpPolicy", env, seed=0, device="cpu", **kwargs)
    for _ in range(generations):
        model.learn(1, log_interval=None, reset_num_timesteps=False)
    return model


def population_mean(model: ObservationalDropout) -> float:
    """Mean return of the last population."""
    return -float(model.logger.name_to_value["train/policy_loss"])


def test_a_bare_policy_by_cma() -> None:
    """Zero action 27, random networks 29 +- 39."""
    pytest.importorskip("cma")
    model = train(
        100, False, optimizer="cma", pop_size=32, n_eval_episodes=1, sigma_init=1.0,
        peek_prob=1.0, world_model="none",
    )  # fmt: skip
    assert float(returns_of(model.policy, CartPoleSwingUp(), 100).mean()) > 300


def test_a_blind_population_of_the_published_size() -> None:
    """Untrained 22; the published log has 74 at generation 25."""
    assert population_mean(train(25, True)) >= 45


def test_a_small_population_sees_a_tenth() -> None:
    """A minute; a population of the same size that never looks again stays behind."""
    settings = {"pop_size": 64, "n_eval_episodes": 8, "learning_rate": 0.03}
    looking = train(60, False, peek_prob=0.1, **settings)
    assert population_mean(looking) > 200
    blind = train(60, False, peek_prob=0.0, **settings)
    assert population_mean(blind) < population_mean(looking)

    # The same agent with other eyes and other models.
    task = CartPoleSwingUp()
    seen = {p: float(returns_of(looking.policy, task, 500, 0, p).mean()) for p in (1.0, 0.1, 0.0)}
    assert seen[0.1] > seen[0.0]
    swapped = {name: float(r.mean()) for name, r in looking.swap_models(n_episodes=500).items()}
    assert swapped["true"] >= swapped["learnt"] - 10


def test_a_population_that_learns_nothing_stays_where_it_is() -> None:
    """Broken: the fitness is noise."""

    class Noise(CartPoleSwingUp):
        def judge(self, observation: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
            reward, ended = super().judge(observation)
            return th.randn_like(reward), ended

    settings = {"pop_size": 64, "n_eval_episodes": 8, "learning_rate": 0.03, "peek_prob": 0.1}
    env = SimulatorVecEnv(Noise())
    model = ObservationalDropout("MlpPolicy", env, seed=0, device="cpu", **settings)
    for _ in range(30):
        model.learn(1, log_interval=None, reset_num_timesteps=False)
    assert float(returns_of(model.policy, CartPoleSwingUp(), 200).mean()) < 100
