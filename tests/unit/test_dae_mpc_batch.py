"""Batch mode: one fit to fixed data, then plans without another one (paper page, section 8, 14)."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from dae_mpc_testing import pendulum_episodes
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from rlzoo import DAEMPC
from rlzoo.agents.dae_mpc import batch
from rlzoo.agents.dae_mpc.batch import FIRST_ALPHA, _held_out, choose_alpha, plan_errors
from rlzoo.agents.dae_mpc.fitting import error_quantile
from rlzoo.agents.dae_mpc.memory import Stored, from_dataset
from rlzoo.agents.dae_mpc.presets import PRESETS
from rlzoo.data.transitions import Transitions
from rlzoo.errors import FailedError, RefusedError

STEPS = 1500


@cache
def data() -> Transitions:
    return pendulum_episodes(20)


def make(**kwargs: Any) -> DAEMPC:
    settings = {**PRESETS["cpu"], "seed": 0, "device": "cpu", **kwargs}
    return DAEMPC("MlpPolicy", Monitor(gym.make("Pendulum-v1")), **settings)


def test_plans_from_fixed_data_swing_up() -> None:
    model = make().fit_offline(data(), gradient_steps=STEPS)
    assert model._n_updates == STEPS
    assert model.offline_fit is not None
    assert model.offline_fit.model_mse < 0.02
    env = model.get_env()
    assert env is not None
    env.seed(1)
    mean, _ = evaluate_policy(model, env, 2)
    assert mean > -400


@pytest.fixture(scope="module")
def half() -> tuple[DAEMPC, Stored]:
    """An agent that has seen only torques to the left, and these data."""
    everything = from_dataset(data(), th.device("cpu"))
    seen = everything.where(everything.actions[:, 0] > 0)
    model = make(alpha=0.0)
    model.fit_offline(_Rows(seen, data()), gradient_steps=STEPS, alpha="rule")
    return model, seen


class _Rows:
    """Stored rows as a data set."""

    def __init__(self, rows: Stored, like: Transitions) -> None:
        self.observations, self.rewards = rows.observations.numpy(), rows.rewards.numpy()
        self.actions = 2 * rows.actions.numpy()
        self.next_observations = rows.next_observations.numpy()
        self.terminations = np.zeros(len(rows), np.bool_)
        self.observation_space, self.action_space = like.observation_space, like.action_space
        self.fingerprint = self.dataset_id = "half"


def test_a_penalised_plan_stays_where_data_are(half: tuple[DAEMPC, Stored]) -> None:
    model, seen = half
    assert model.offline_fit is not None
    limit = model.offline_fit.error_q95
    start = seen.observations[:: len(seen) // 60][:60]
    rates = {}
    for alpha in (0.0, 10.0):
        model.set_alpha(alpha)
        rates[alpha] = float((plan_errors(model, start) > limit).float().mean())
    assert rates[0.0] > 0.1
    assert rates[10.0] < 0.7 * rates[0.0]


@pytest.mark.parametrize("quantile", [0.95, 0.8])
def test_the_rule_stops_at_the_first_alpha_that_is_familiar(
    half: tuple[DAEMPC, Stored], quantile: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = half
    monkeypatch.setattr(batch, "QUANTILE", quantile)
    trials = choose_alpha(model, seen)
    assert model.policy.denoiser is not None
    windows = model._prepare(seen, measure=False).windows
    limit = float(error_quantile(model.policy.denoiser, windows, quantile))
    alphas, medians = zip(*trials, strict=True)
    assert alphas == tuple(FIRST_ALPHA * 2**i for i in range(len(alphas)))
    assert alphas[-1] == model.alpha == model.policy.spec.alpha
    assert medians[-1] < limit
    assert all(median >= limit for median in medians[:-1])
    assert (len(trials) > 1) == (quantile < 0.9)


def test_the_rule_gives_up(half: tuple[DAEMPC, Stored], monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = half
    monkeypatch.setattr(batch, "QUANTILE", 0.01)
    with pytest.raises(FailedError, match="stay unfamiliar"):
        choose_alpha(model, seen)


def test_what_is_held_out_comes_from_everywhere() -> None:
    kept = _held_out(1000, 0.1)
    assert kept.sum() == 100
    assert kept.view(20, 50)[:, -5:].all()
    assert not _held_out(1000, 0.0).any()


def test_alpha_may_be_given_or_left() -> None:
    few = {"policy_kwargs": {"net_arch": [8]}, "horizon": 3}
    assert make(**few).fit_offline(data(), 3, alpha=0.7).alpha == 0.7
    assert make(**few).fit_offline(data(), 3).alpha == PRESETS["cpu"]["alpha"]
    with pytest.raises(RefusedError, match="no denoiser"):
        make(**few, dae=False, alpha=0.0).fit_offline(data(), 3, alpha="rule")


def test_its_own_replay_buffer_is_a_data_set() -> None:
    model = make(policy_kwargs={"net_arch": [8]}, model_epochs=1).learn(200)
    other = make(policy_kwargs={"net_arch": [8]})
    other.fit_offline(model.replay_buffer, 20, held_out=0)  # type: ignore[arg-type]
    th.testing.assert_close(other.policy.dynamics.inputs.mean, model.policy.dynamics.inputs.mean)


def test_data_of_another_task_are_refused(hopper_data: Transitions) -> None:
    with pytest.raises(RefusedError, match="11 observations and 3 actions"):
        make().fit_offline(hopper_data, 3)


def test_learning_goes_on_after_a_fit_to_data() -> None:
    model = make(policy_kwargs={"net_arch": [8]}, model_interval=5, model_epochs=1)
    model.fit_offline(data(), 3)
    updates = model._n_updates
    assert model.learn(12)._n_updates > updates
