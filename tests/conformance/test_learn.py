"""``learn``: what it returns, counts, prints, and how the learning rate moves."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.utils import set_random_seed

from .agents import Subject, assert_same_state, drawn, flat_state, state_differs


def optimizers(model: BaseAlgorithm) -> dict[str, dict]:
    """Return the states of all optimisers in ``get_parameters()``."""
    return {k: v for k, v in model.get_parameters().items() if "param_groups" in v}


def test_returns_itself_and_counts_exactly(agent: Subject) -> None:
    model = agent.make()
    assert model.learn(agent.steps) is model
    assert model.num_timesteps == agent.steps
    assert model._n_updates > 0


def test_counters_start_over_or_go_on(agent: Subject) -> None:
    model = agent.trained()
    updates = model._n_updates
    model.learn(10, reset_num_timesteps=False)
    assert model.num_timesteps == agent.steps + 10
    assert model._total_timesteps == agent.steps + 10
    assert model._n_updates > updates
    model.learn(10)
    assert model.num_timesteps == 10


def test_nothing_to_do(agent: Subject) -> None:
    model = agent.make()
    before = flat_state(model)
    assert model.learn(0).num_timesteps == 0
    assert all(th.equal(value, before[name]) for name, value in flat_state(model).items())


def test_training_changes_every_network_that_is_optimised(agent: Subject) -> None:
    fresh, model = agent.make(), agent.trained()
    assert state_differs(fresh, model)
    assert all(state["state"] for state in optimizers(model).values())


def test_every_optimiser_is_saved(agent: Subject) -> None:
    # One that is missing here restarts from zero after `load` without a word.
    model = agent.make()
    owners = [model, model.policy, *model.policy.modules()]
    existing = {
        id(value)
        for owner in owners
        for value in vars(owner).values()
        if isinstance(value, th.optim.Optimizer)
    }
    assert len(optimizers(model)) == len(existing) > 0


def test_several_environments(agent: Subject) -> None:
    steps = agent.row.steps_of_four or agent.steps
    model = agent.make(agent.vec(4)).learn(steps)
    assert model.n_envs == 4
    assert model.num_timesteps == steps
    assert model._n_updates > 0


def test_float64_observations(agent: Subject) -> None:
    # As Hopper-v4 does; data sets store float32.
    env_id = agent.row.float64_env_id
    arguments = {**agent.settings(), **agent.data_arguments(env_id)}
    model = agent.cls(agent.row.policy, env_id, **arguments).learn(20)
    action, _ = model.predict(model.observation_space.sample())
    assert action.dtype == model.action_space.dtype
    assert all(p.dtype == th.float32 for p in model.policy.parameters())


@pytest.mark.parametrize("seed", [1, 2**32 - 1])
def test_one_seed_gives_one_result(agent: Subject, seed: int) -> None:
    first, second = agent.trained(seed=seed), agent.trained(seed=seed)
    assert_same_state(first, second)
    np.testing.assert_equal(acting(first), acting(second))
    assert state_differs(first, agent.trained(seed=7))


def acting(model: BaseAlgorithm) -> np.ndarray:
    """Return the actions on a fixed batch of observations."""
    return model.predict(drawn(model, 5), deterministic=True)[0]


def numpy_draw() -> float:
    """Draw from the global generator, which SB3 uses."""
    return float(np.random.rand())  # noqa: NPY002


def test_set_random_seed_restarts_the_generators(agent: Subject) -> None:
    model = agent.trained()
    draws = []
    for _ in range(2):
        model.set_random_seed(3)
        action = float(np.sum(model.action_space.sample()))
        draws.append((th.rand(3).tolist(), numpy_draw(), action))
    assert draws[0] == draws[1]


def test_seed_none_leaves_the_generators_alone(agent: Subject) -> None:
    set_random_seed(5)
    expected = numpy_draw()
    set_random_seed(5)
    model = agent.make(seed=None)
    assert model.seed is None
    assert numpy_draw() == expected


def test_evaluation_does_not_change_what_is_learned(agent: Subject) -> None:
    plain = agent.trained()
    evaluated = agent.make()
    callback = EvalCallback(agent.vec(seed=9), eval_freq=20, n_eval_episodes=1, verbose=0)
    evaluated.learn(agent.steps, callback=callback)
    assert callback.evaluations_timesteps == [] or callback.n_calls == agent.steps
    assert_same_state(plain, evaluated)


def test_networks_are_in_training_mode_only_while_training(agent: Subject) -> None:
    model = agent.trained()
    assert model.policy.training
    model.predict(model.observation_space.sample())
    assert not model.policy.training
    model.learn(agent.steps)
    assert model.policy.training


@pytest.mark.parametrize("as_number", [float, np.float64, th.tensor, int])
def test_schedules_are_cast_to_float(agent: Subject, as_number: Callable) -> None:
    model = agent.make(learning_rate=lambda progress: as_number(1))
    assert type(model.lr_schedule(1.0)) is float
    model.learn(agent.steps)
    for state in optimizers(model).values():
        assert all(isinstance(group["lr"], float) for group in state["param_groups"])


def test_schedule_sees_the_progress_from_one_to_zero(agent: Subject) -> None:
    seen: list[float] = []

    def schedule(progress: float) -> float:
        seen.append(progress)
        return 1e-3 * progress

    model = agent.make(learning_rate=schedule)
    seen.clear()
    model.learn(agent.steps)
    assert 0.8 < max(seen) <= 1
    assert 0 <= min(seen) < 0.1
    assert seen == sorted(seen, reverse=True)


def test_schedule_reaches_every_optimiser(agent: Subject) -> None:
    constant = agent.make(learning_rate=1e-3)
    falling = agent.make(learning_rate=lambda progress: 1e-3 * progress)
    constant.learn(agent.steps), falling.learn(agent.steps)
    for name, state in optimizers(falling).items():
        full = optimizers(constant)[name]["param_groups"][0]["lr"]
        assert 0 <= state["param_groups"][0]["lr"] < 0.1 * full, name


def test_a_second_training_starts_the_schedule_again(agent: Subject) -> None:
    seen: list[float] = []
    model = agent.make(learning_rate=lambda progress: 1e-3 * progress)

    def remember(scope: dict, _: dict) -> bool:
        group = next(iter(optimizers(scope["self"]).values()))["param_groups"][0]
        seen.append(group["lr"])
        return True

    model.learn(agent.steps)
    model.learn(agent.steps, callback=remember)
    assert max(seen[10:]) > 0.5e-3


def test_quiet_when_not_verbose(agent: Subject, capfd: pytest.CaptureFixture[str]) -> None:
    model = agent.make(verbose=0)
    agent.learn(model)
    model.predict(model.observation_space.sample())
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_verbose_prints_the_log(agent: Subject, capfd: pytest.CaptureFixture[str]) -> None:
    agent.learn(agent.make(verbose=1))
    printed = capfd.readouterr().out
    assert "Using cpu device" in printed
    assert "total_timesteps" in printed
    assert "train/" in printed


def test_no_warnings_and_nothing_left_open(agent: Subject, tmp_path: Path) -> None:
    gc.collect()  # what earlier tests left behind is not counted here
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = agent.make()
        agent.learn(model)
        model.save(tmp_path / "model")
        loaded = agent.load(tmp_path / "model.zip", env=agent.vec())
        if agent.replays:
            model.save_replay_buffer(tmp_path / "buffer")  # type: ignore[attr-defined]
            loaded.load_replay_buffer(tmp_path / "buffer")  # type: ignore[attr-defined]
        model.policy.save(str(tmp_path / "policy.pkl"))
        del model, loaded
        gc.collect()
    assert [str(w.message) for w in caught] == []
