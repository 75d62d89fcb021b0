"""World models that are trained to predict, the baseline (paper page, section 5)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch as th

from rlzoo import ObservationalDropout
from rlzoo.agents.observational_dropout import supervised
from rlzoo.agents.observational_dropout.deployment import Dream, returns_of
from rlzoo.agents.observational_dropout.world_models import CartPoleModel
from rlzoo.core.simulator_vec import SimulatorVecEnv
from rlzoo.core.swingup import CartPoleSwingUp
from rlzoo.errors import RefusedError
from rlzoo.runs.train import TrainRequest, train


def agent(**kwargs: Any) -> ObservationalDropout:
    env = SimulatorVecEnv(CartPoleSwingUp(True, 40))
    return ObservationalDropout(
        "MlpPolicy", env, pop_size=4, n_eval_episodes=1, peek_prob=1.0, world_model="none", seed=0,
        device="cpu", **kwargs,
    )  # fmt: skip


def transitions(n: int = 4_000) -> supervised.Transitions:
    """Transitions of the swing-up from everywhere."""
    task, generator = CartPoleSwingUp(), th.Generator().manual_seed(0)
    state = th.randn(n, 4, generator=generator) * th.tensor([1.0, 2.0, 3.0, 3.0])
    action = th.rand(n, 1, generator=generator) * 2 - 1
    return task.observe(state), action, task.step(state, action)[1]


def test_it_learns_to_predict() -> None:
    model, data = CartPoleModel(5, 1, (120,)), transitions()
    _, before = supervised.fit(model, data, 0, seed=0)
    vector, after = supervised.fit(model, data, 1_500, seed=0)
    assert vector.shape == (962,)
    assert after < 0.25 * before
    # Somebody who has learnt what belongs to other actions has learnt less.
    wrong = (data[0], data[1].flip(0), data[2])
    assert supervised.fit(model, wrong, 1_500, seed=0)[1] > 3 * after
    task = CartPoleSwingUp()
    dream = Dream(model, vector, task)
    change = dream.foresee(data[0], data[1]) - data[0]
    truth = data[2] - data[0]
    for index in (1, 4):
        both = th.stack([change[:, index], truth[:, index]])
        assert float(th.corrcoef(both)[0, 1]) > 0.8


def test_data_are_the_transitions_of_the_task() -> None:
    task = CartPoleSwingUp(False, 30)
    before, actions, after = supervised.collect(agent(), task, 2, seed=0)
    assert len(before) == len(actions) == len(after) == 2 * supervised.EPISODES * 30
    th.testing.assert_close(task.foresee(before, actions), after, rtol=1e-4, atol=1e-4)
    again = supervised.collect(agent(), task, 2, seed=0)
    assert th.equal(before, again[0])
    assert not th.equal(before, supervised.collect(agent(), task, 2, seed=1)[0])


def test_a_policy_is_trained_in_what_was_predicted() -> None:
    wide = agent(policy_kwargs={"model_arch": [1200]})
    dream = supervised.predicted_dream(wide, generations=1, updates=5, seed=0)
    assert dream._vector.shape == (1, 6 * 1200 + 1201 * 2)
    assert dream.task.max_steps == 40
    found = wide.train_in_dream(generations=2, optimizer="pepg", n_episodes=5, dream=dream)
    expected = returns_of(found.agent.policy, CartPoleSwingUp(False, 40), 5)
    th.testing.assert_close(found.real_returns, expected)
    th.testing.assert_close(found.dream_returns, returns_of(found.agent.policy, dream, 5))


def test_a_run_of_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = partial(supervised.predicted_dream, generations=1, updates=5)
    monkeypatch.setattr(supervised, "predicted_dream", small)
    found = train(
        TrainRequest(
            "obs-dropout", "rlzoo/CartPoleSwingUp-v0", "model-free", steps=500, device="cpu",
            run_dir=tmp_path / "run", eval_freq=500, eval_episodes=2,
            overrides=(
                "pop_size=2", "n_eval_episodes=1", "run.pictures=false", "run.then_dream=2",
                "run.dream_model=predicted", "policy_kwargs.model_arch=[7]",
                "run.env_kwargs.max_episode_steps=50",
            ),
        )
    )  # fmt: skip
    dream = found.record["dream"]
    assert dream["world_model"] == "predicted"
    assert found.record["metrics"]["deployed_return"] == dream["return_mean"]


def test_tasks_that_are_not_known_are_refused() -> None:
    pendulum = ObservationalDropout("MlpPolicy", "Pendulum-v1", device="cpu")
    with pytest.raises(RefusedError, match="known rewards"):
        supervised.predicted_dream(pendulum)
