"""Discrete actions: drawn with given luck, the same on both routes, and learned."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy

from rlzoo import ObservationalDropout, make_vec
from rlzoo.agents.observational_dropout import environments
from rlzoo.agents.observational_dropout.environments import Plan, play_in_env
from rlzoo.agents.observational_dropout.population import Networks
from rlzoo.agents.observational_dropout.recursion import choose
from rlzoo.core.seeding import seed_everything, stream


def make(env: Any = "CartPole-v1", **kwargs: Any) -> ObservationalDropout:
    settings: dict[str, Any] = {
        "pop_size": 4, "n_eval_episodes": 2, "peek_prob": 0.4, "seed": 0, "device": "cpu",
        "zero_policy": False, "policy_kwargs": {"net_arch": [4], "model_arch": [5]},
    }  # fmt: skip
    return ObservationalDropout("MlpPolicy", env, **{**settings, **kwargs})


def test_actions_follow_the_softmax() -> None:
    logits = th.tensor([0.0, 1.0, -2.0, 0.5])
    luck = th.linspace(0, 1, 10_001)[:-1]
    drawn = choose(logits.expand(10_000, 4), luck)
    assert (drawn.sum(-1) == 1).all()
    th.testing.assert_close(drawn.mean(0), logits.softmax(-1), atol=2e-4, rtol=0)
    assert choose(logits).tolist() == [0, 1, 0, 0]


def test_the_largest_luck_takes_the_last_action() -> None:
    """Rounding leaves the sum of the probabilities below 1."""
    logits = th.randn(1_000, 7, generator=th.Generator().manual_seed(0))
    luck = th.full((1_000,), float(np.nextafter(np.float32(1), np.float32(0))))
    assert (choose(logits, luck).argmax(-1) == 6).all()
    assert (choose(logits, th.zeros(1_000)).argmax(-1) == 0).all()


def test_logits_are_not_squashed() -> None:
    networks = Networks.make("residual", 3, 2, [4], [5], discrete=True)
    vector = th.full((1, networks.n_parameters), 5.0)
    act, _ = networks.bind(vector)
    assert float(act(th.ones(1, 1, 3)).max()) == pytest.approx(5 + 4 * 5)


def test_predict_draws_or_takes_the_likeliest() -> None:
    model = make(peek_prob=1.0)
    observations = np.repeat(np.random.default_rng(0).normal(size=(1, 4)), 4_000, 0)
    act, _ = model.policy.bind()
    with th.no_grad():
        logits = act(th.from_numpy(observations[:1]).float()[None])[0, 0]
    chance = float(logits.softmax(-1)[1])
    assert 0.05 < chance < 0.95
    seed_everything(0)
    drawn = model.predict(observations)[0]
    assert drawn.dtype == np.int64
    assert drawn.mean() == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / 4_000))
    likeliest = model.predict(observations, deterministic=True)[0]
    assert (likeliest == int(logits.argmax())).all()
    seed_everything(0)
    np.testing.assert_array_equal(model.predict(observations)[0], drawn)
    assert model.predict(observations[0])[0].shape == ()


def test_the_model_is_told_the_action_that_was_taken() -> None:
    model = make(peek_prob=0.0)
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    actions, state = model.predict(observations)
    assert len(set(actions.tolist())) == 2
    assert state is not None
    _, predict = model.policy.bind()
    one_hot = th.eye(2)[th.from_numpy(actions)]
    with th.no_grad():
        expected = predict(th.from_numpy(observations)[None], one_hot[None])[0]
    np.testing.assert_allclose(state[0], expected, atol=1e-6)


class FromTen(gym.Wrapper[Any, Any, Any, Any]):
    """Its actions are called 10 and 11."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.action_space = gym.spaces.Discrete(2, start=10)

    def step(self, action: Any) -> Any:
        assert action in (10, 11)
        return self.env.step(action - 10)


def test_actions_need_not_begin_at_zero() -> None:
    model = make(FromTen()).learn(100)
    assert set(model.predict(np.random.default_rng(0).normal(size=(50, 4)))[0]) == {10, 11}


@pytest.mark.parametrize("n_envs", [1, 5])
def test_slots_are_episodes_step_by_step(n_envs: int) -> None:
    """Every (candidate, episode) again, from its seed, its flags and its luck."""
    env, alone = make_vec("CartPole-v1", n_envs), make_vec("CartPole-v1", 1)
    model = make(env)
    candidates = 2 * th.randn(4, len(model.policy.vector), generator=th.Generator().manual_seed(0))
    plan = Plan(model.policy.networks, candidates, 2, 0.4, seed=9)
    scores = play_in_env(env, None, plan, lambda scope: True)
    assert scores is not None
    for c in range(4):
        act, predict = plan.networks.bind(candidates[c : c + 1])
        for e in range(2):
            peeks, luck = (
                np.random.default_rng(stream(9, what, c % 2, e)) for what in ("peeks", "actions")
            )
            alone.unwrapped._seeds = [stream(9, "start", c % 2, e)]
            x, done, steps = th.from_numpy(np.asarray(alone.reset()))[None], False, 0
            while not done:
                action = choose(act(x), th.tensor([[luck.random()]]))
                believed = predict(x, action)
                obs, _, dones, _ = alone.step(action[0].argmax(-1).numpy())
                done, steps = bool(dones[0]), steps + 1
                x = th.from_numpy(np.asarray(obs))[None] if peeks.random() < 0.4 else believed
            assert int(scores.lengths[c, e]) == steps
    assert len(scores.lengths.unique()) > 2


def test_mirror_images_share_their_luck() -> None:
    env = make_vec("CartPole-v1", 3)
    model = make(env)
    same = model.policy.vector.expand(4, -1)
    scores = play_in_env(
        env, None, Plan(model.policy.networks, same, 3, 0.4, seed=1), lambda scope: True
    )
    assert scores is not None
    assert th.equal(scores.lengths[:2], scores.lengths[2:])
    assert len(scores.lengths.unique()) > 2


@pytest.mark.parametrize("broken", [False, True])
def test_the_pole_stays_up(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """70 steps against 22 untrained; broken: the search hears of actions drawn at random."""
    if broken:
        monkeypatch.setattr(environments, "choose", lambda logits, luck: choose(0 * logits, luck))
    model = make(
        make_vec("CartPole-v1", 16), pop_size=16, peek_prob=1.0, learning_rate=0.1, sigma_init=0.5,
        adam_beta1=0.9, world_model="none", zero_policy=True, policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    model.learn(45_000 if not broken else 10_000)
    mean, _ = evaluate_policy(model, make_vec("CartPole-v1", 10, seed=5), 40, deterministic=False)
    print(mean)
    assert (float(mean) > 45) is not broken
