"""GoalGAIL learns the way through the doors of Mini Four Rooms; blind to the goal it does not.

Coverage is the share of the 104 free cells that are reached, with noise of 0.15 on the actions:
straight lines 0.36, random 0.03. Mean of six evaluations from 5,000 to 7,500 steps, seeds 1 to 3:
0.45, 0.54, 0.47; with a discriminator that sees 0 for every goal 0.22 (seed 0), without relabelling
of agent and demonstrations 0.28 (seed 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from rlzoo import GoalGAIL
from rlzoo.agents.goal_gail import goal_gail
from rlzoo.agents.goal_gail.discriminator import disc_inputs
from rlzoo.agents.goal_gail.relabel import GoalBatch
from rlzoo.envs.make import make_vec
from rlzoo.runs.datasets import ensure_demonstrations
from rlzoo.runs.evaluate import make_eval_env, play_episodes

pytestmark = pytest.mark.timeout(1800)  # a minute of CPU, on machines that may be busy

MINI, CELLS = "rlzoo/MiniFourRooms-v0", 104

# Preset cpu of configs/goal-gail/rlzoo/MiniFourRooms-v0.yaml, with half of the discriminator's
# updates.
SMALL: dict[str, Any] = {
    "learning_rate": 1e-3,
    "tau": 0.2,
    "action_l2": 0.03,
    "batch_size": 128,
    "demo_batch_size": 48,
    "gradient_steps": 100,
    "n_disc_updates": 25,
    "disc_batch_size": 128,
    "disc_hidden": [128, 128],
    "policy_kwargs": {"net_arch": [128, 128]},
}


def coverage_of(seed: int = 0, **changes: Any) -> float:
    """Return the mean coverage after 5,000, 5,500 … 7,500 steps: one alone varies by 0.1."""
    env = make_vec(MINI, goal_seed=seed)
    env.seed(seed)
    model = GoalGAIL(
        "MultiInputPolicy", env, demonstrations=ensure_demonstrations(None, MINI, {}), seed=seed,
        device="cpu", **{**SMALL, **changes},
    )  # fmt: skip
    found = []
    for steps in (5_000, 500, 500, 500, 500, 500):
        model.learn(steps, log_interval=None, reset_num_timesteps=False)
        found.append(coverage(model))
    return float(np.mean(found))


def coverage(model: GoalGAIL) -> float:
    """Return the share of cells that the agent reaches, with the goals in turn."""
    env = make_eval_env(MINI, CELLS, CELLS, goals="cells", action_noise=0.15)
    reached = play_episodes(model, env, CELLS, 0, first_seed=0).any_time
    assert reached is not None
    assert len(reached) == CELLS
    return float(reached.mean())


def test_it_finds_its_way_through_the_doors() -> None:
    assert coverage_of() >= 0.35


def test_with_a_discriminator_that_does_not_see_the_goal_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def blind(kind: Any, keys: Any, batch: GoalBatch, noise: float = 0.0) -> th.Tensor:
        return disc_inputs(kind, keys, batch._replace(goals=th.zeros_like(batch.goals)), noise)

    monkeypatch.setattr(goal_gail, "disc_inputs", blind)
    assert coverage_of() <= 0.29
