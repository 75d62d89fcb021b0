"""Dreams, policies that are trained in them, and models swapped (paper page, 2.6; tests 16, 18)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO

from rlzoo import ObservationalDropout
from rlzoo.agents.observational_dropout.deployment import Dream, returns_of
from rlzoo.core.simulator_vec import SimulatorVecEnv
from rlzoo.core.swingup import CartPoleSwingUp
from rlzoo.errors import RefusedError


def make(max_steps: int = 60, **kwargs: Any) -> ObservationalDropout:
    arguments: dict[str, Any] = {
        "pop_size": 4, "n_eval_episodes": 2, "peek_prob": 0.3, "seed": 0, "device": "cpu",
        "zero_policy": False, **kwargs,
    }  # fmt: skip
    env = SimulatorVecEnv(CartPoleSwingUp(True, max_steps))
    return ObservationalDropout("MlpPolicy", env, **arguments)


class TrueModel:
    """A world model that cannot be wrong."""

    shapes = ()

    def predict(self, layers: Any, x: th.Tensor, action: th.Tensor) -> th.Tensor:
        return CartPoleSwingUp().foresee(x, action)


def test_dreaming_the_true_dynamics_is_being_awake() -> None:
    policy, task = make().policy, CartPoleSwingUp(max_steps=150)
    dream = Dream(TrueModel(), th.zeros(0), task)
    awake, asleep = (returns_of(policy, t, 40, peek_prob=1.0) for t in (task, dream))
    th.testing.assert_close(asleep, awake, atol=1e-2, rtol=0)
    other = Dream(policy.networks.model, policy.vector[:962], task)
    assert not th.allclose(returns_of(policy, other, 40, peek_prob=1.0), awake, atol=1e-2)


def test_a_dream_is_the_world_model_left_alone() -> None:
    model = make()
    env = model.dream_env(3)
    assert env.observation_space == CartPoleSwingUp().observation_space
    env.seed(5)
    x = env.reset()
    assert np.abs(x[:, 0]).max() < 1  # easy starts, although it learns from hard ones
    _, predict = model.policy.bind()
    rng = np.random.default_rng(0)
    for _ in range(5):
        actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        with th.no_grad():
            expected = predict(th.from_numpy(x)[None], th.from_numpy(actions)[None])[0]
        x, rewards, _, _ = env.step(actions)
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4)
        known, _ = CartPoleSwingUp().judge(th.from_numpy(x))
        np.testing.assert_allclose(rewards, known, atol=1e-5)


def test_a_dream_keeps_the_weights_of_its_time() -> None:
    model = make()
    env = model.dream_env()
    env.seed(0)
    env.reset()
    before = env.states.clone()
    model.policy.load_vector(th.zeros(1033))
    env.step(np.ones((1, 1)))
    assert float((env.states - before)[0, 1].abs()) > 0  # zero weights would keep the velocity


def test_any_agent_learns_in_a_dream() -> None:
    agent = PPO("MlpPolicy", make().dream_env(2), n_steps=16, batch_size=32, n_epochs=1)
    assert agent.learn(64).num_timesteps == 64


@pytest.mark.parametrize("optimizer", ["pepg", "cma"])
def test_a_policy_from_a_dream_is_played_in_the_real_task(optimizer: Any) -> None:
    if optimizer == "cma":
        pytest.importorskip("cma")
    told: list[tuple[int, float]] = []
    model = make(20)
    before = model.policy.vector
    result = model.train_in_dream(
        generations=3, optimizer=optimizer, n_episodes=7, on_generation=lambda *x: told.append(x)
    )
    assert [number for number, _ in told] == [1, 2, 3]
    assert result.agent.policy.vector.shape == (71,)
    assert result.agent._n_updates == 3
    assert result.real_returns.shape == result.dream_returns.shape == (7,)
    assert th.equal(model.policy.vector, before)
    task = CartPoleSwingUp(False, 20)
    th.testing.assert_close(result.real_returns, returns_of(result.agent.policy, task, 7))
    summary = result.summary()
    assert summary["real_return_mean"] == pytest.approx(float(result.real_returns.mean()))
    assert summary["generations"] == 3


def test_models_are_swapped_on_the_same_episodes() -> None:
    model = make(40, peek_prob=0.1)
    found = model.swap_models(n_episodes=30)
    assert list(found) == ["learnt", "zero", "true"]
    assert not th.allclose(found["learnt"], found["zero"])
    # A perfect model makes peeks needless.
    seen = returns_of(model.policy, CartPoleSwingUp(True, 40), 30, peek_prob=1.0)
    blind = model.swap_models(n_episodes=30, peek_prob=0.0)["true"]
    assert float((seen - blind).abs().max()) > 1e-3 or th.allclose(seen, blind, atol=1e-3)
    # With zero weights the learnt model is the zero one.
    model.policy.load_vector(th.cat([th.zeros(962), model.policy.vector[962:]]))
    again = model.swap_models(n_episodes=30)
    assert th.equal(again["learnt"], again["zero"])
    assert th.equal(again["zero"], found["zero"])
    assert th.equal(again["true"], found["true"])


def test_refusals() -> None:
    with pytest.raises(RefusedError, match="no world model"):
        make(world_model="none").dream_env()
    pendulum = ObservationalDropout("MlpPolicy", "Pendulum-v1", device="cpu")
    for call in (pendulum.dream_env, pendulum.swap_models, pendulum.train_in_dream):
        with pytest.raises(RefusedError, match="known rewards"):
            call()
