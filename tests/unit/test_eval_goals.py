"""Success at any step and coverage, of real experts in a real task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlzoo.config.schema import RunSettings
from rlzoo.data.experts import scripted_expert
from rlzoo.envs import make_vec
from rlzoo.runs.evaluate import Evaluation, evaluate, play_episodes
from rlzoo.runs.policies import RandomActions, Scripted
from rlzoo.runs.splits import Splits, metrics_of, scalars_of

MINI = "rlzoo/MiniFourRooms-v0"
CELLS = {"goals": "cells", "action_noise": 0.15}


class Passing:
    """Acts as the expert until it is there, then runs away."""

    def __init__(self) -> None:
        self.expert = Scripted(scripted_expert(MINI))

    def predict(self, observation: Any, state: Any = None, **options: Any) -> tuple[Any, Any]:
        actions, _ = self.expert.predict(observation, **options)
        gap = np.linalg.norm(observation["achieved_goal"] - observation["desired_goal"], axis=-1)
        there = gap < 0.5 if state is None else state | (gap < 0.5)
        away = np.where(observation["desired_goal"] > 0, -1.0, 1.0)
        return np.where(there[:, None], away, actions).astype(np.float32), there


def test_passing_a_goal_is_success_at_any_step_only() -> None:
    vec = make_vec(MINI, 10)
    stays = evaluate(Scripted(scripted_expert(MINI)), vec, MINI, 10, seed=0)
    assert (stays.success_rate, stays.success_any) == (1.0, 1.0)
    passes = evaluate(Passing(), make_vec(MINI, 10), MINI, 10, seed=0)
    assert passes.success_any == 1.0
    assert passes.success_rate is not None
    assert passes.success_rate < 0.5


def test_shares_of_uneven_length_are_counted_right() -> None:
    found = play_episodes(Scripted(scripted_expert(MINI)), make_vec(MINI, 4), 7, seed=0)
    assert found.any_time is not None
    assert found.any_time.all()
    assert len(found.any_time) == 7
    alone = play_episodes(
        Scripted(scripted_expert(MINI)), make_vec(MINI, 4, backend="gymnasium"), 7, seed=0
    )
    assert np.array_equal(alone.returns, found.returns)


def coverage(model: Any) -> Evaluation:
    splits = Splits(
        MINI,
        RunSettings(
            eval_splits={
                "coverage": {"env_kwargs": CELLS, "episodes": 104, "first_seed": 0},
                "square": {"env_kwargs": {"goals": "square"}, "episodes": 5},
            },
            eval_envs=104,
        ),
    )
    found = splits.evaluate(model, 0, "eval", 10, final=False)
    splits.close()
    return Evaluation(-1.0, 0.0, 10, 100.0, None, splits=found)


def test_coverage_is_a_metric_of_its_own() -> None:
    expert = coverage(Scripted(scripted_expert(MINI)))
    assert expert.splits["coverage"].episodes == 104
    metrics = metrics_of(expert)
    assert metrics["coverage"] >= 0.98
    assert "coverage_return" not in metrics
    assert metrics["reached"] == metrics["coverage"]
    assert metrics["square_success_any"] == 1.0
    assert scalars_of(expert)["eval/coverage"] == metrics["coverage"]
    vec = make_vec(MINI, 1)
    blind = RandomActions(vec.action_space)
    blind.set_random_seed(0)
    assert metrics_of(coverage(blind))["coverage"] == pytest.approx(0.03, abs=0.03)


def test_environments_without_goals_have_neither() -> None:
    vec = make_vec("Pendulum-v1", 1)
    found = evaluate(RandomActions(vec.action_space), vec, "Pendulum-v1", 1, seed=0)
    assert found.success_any is None
    assert "success_any" not in found.as_dict()
    assert "coverage" not in metrics_of(found)
