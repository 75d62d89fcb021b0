"""How BEAR acts: the best of m candidates under the first critic (section 8, item 9)."""

import numpy as np
import pytest
import torch as th
from bear_testing import SMALL, make_bear, make_data

OBSERVATIONS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


def widen(actor, mean=0.0, log_std=1.0):
    """Make the actor's distribution wide and independent of the observation."""
    last = actor.network[-1]
    with th.no_grad():
        last.weight.zero_()
        last.bias[: actor.n_actions] = mean
        last.bias[actor.n_actions :] = log_std


@pytest.mark.parametrize("best", [-0.8, -0.3, 0.0, 0.55, 0.9])
def test_finds_the_best_action_of_the_critic(best, monkeypatch):
    data = make_data(n_actions=1)
    model = make_bear(dataset=data, policy_kwargs={**SMALL, "n_eval_samples": 100})
    widen(model.actor, log_std=0.0)
    monkeypatch.setattr(model.policy, "first_q", lambda _, a: -(a - best).square().sum(-1))
    actions, _ = model.predict(OBSERVATIONS, deterministic=True)
    assert actions.shape == (50, 1)
    assert np.abs(actions - best).max() < 0.1


def test_only_the_first_critic_chooses():
    model = make_bear().learn(5)
    widen(model.actor)
    before, _ = model.predict(OBSERVATIONS, deterministic=True)

    def negate(member):
        with th.no_grad():
            model.critic.stacked[-1].weight[member] *= -1

    negate(1)
    assert (model.predict(OBSERVATIONS, deterministic=True)[0] == before).all()
    negate(0)
    assert (model.predict(OBSERVATIONS, deterministic=True)[0] != before).any(1).mean() > 0.9


def test_first_q_is_the_first_member_of_the_stack():
    model = make_bear()
    observations, actions = th.randn(7, 3), th.rand(7, 10, 2)
    got = model.policy.first_q(observations, actions)
    for j in range(10):
        expected = model.critic(th.cat([observations, actions[:, j]], -1))[0]
        assert th.allclose(got[:, j], expected, atol=1e-6)


@pytest.mark.parametrize("deterministic", [True, False])
def test_actions_keep_the_bounds_of_the_space(deterministic):
    model = make_bear(dataset=make_data(low=-0.4, high=0.4))
    widen(model.actor, log_std=2.0)
    actions, _ = model.predict(OBSERVATIONS, deterministic=deterministic)
    assert actions.shape == (50, 2)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 0.4
    assert np.abs(actions).max() > 0.3  # rescaled, not left in [-1, 1] and clipped


def test_actions_of_a_space_that_is_not_centred():
    model = make_bear(dataset=make_data(low=2.0, high=3.0))
    widen(model.actor)
    actions, _ = model.predict(OBSERVATIONS, deterministic=False)
    assert 2.0 <= actions.min() < 2.3
    assert 2.7 < actions.max() <= 3.0


def test_one_observation_gives_one_action():
    action, state = make_bear().predict(OBSERVATIONS[0], deterministic=True)
    assert action.shape == (2,)
    assert state is None


def test_each_row_is_chosen_by_itself():
    model = make_bear()
    together, _ = model.predict(OBSERVATIONS, deterministic=True)
    alone = [model.predict(row, deterministic=True)[0] for row in OBSERVATIONS]
    assert together == pytest.approx(np.stack(alone), abs=1e-6)


def test_deterministic_predict_repeats_and_leaves_torchs_generator_alone():
    model = make_bear()
    state = th.get_rng_state()
    first, _ = model.predict(OBSERVATIONS, deterministic=True)
    assert th.equal(th.get_rng_state(), state)
    second, _ = model.predict(OBSERVATIONS, deterministic=True)
    assert (first == second).all()


def test_stochastic_predict_draws_from_the_actor():
    model = make_bear(dataset=make_data(n_actions=1))
    widen(model.actor, mean=0.4, log_std=-1.0)
    th.manual_seed(0)
    actions, _ = model.predict(np.zeros((20_000, 3), np.float32), deterministic=False)
    u = np.arctanh(actions[:, 0])
    assert u.mean() == pytest.approx(0.4, abs=0.02)
    assert u.std() == pytest.approx(np.exp(-1), rel=0.03)


def test_acting_with_the_mean():
    model = make_bear(policy_kwargs={**SMALL, "acting": "mean"})
    widen(model.actor, mean=0.7)
    actions, _ = model.predict(OBSERVATIONS, deterministic=True)
    assert actions == pytest.approx(np.tanh(0.7), abs=1e-6)


def test_actor_draws_all_samples_from_one_distribution():
    model = make_bear()
    observations = th.randn(1, 3).expand(2, -1)
    th.manual_seed(0)
    u, mean, std = model.actor.sample(observations, 20_000)
    assert th.allclose(u.mean(1), mean, atol=0.05)
    assert th.allclose(u.std(1), std, rtol=0.03)
    assert not th.equal(u[0], u[1])


def test_noise_clip_bounds_the_samples():
    model = make_bear()
    u, mean, std = model.actor.sample(th.randn(8, 3), 500, noise_clip=0.5)
    assert ((u - mean.unsqueeze(1)).abs() <= 0.5 * std.unsqueeze(1) + 1e-6).all()


def test_log_std_is_clamped():
    model = make_bear()
    for log_std, expected in ((50.0, np.exp(2)), (-50.0, np.exp(-5))):
        widen(model.actor, log_std=log_std)
        _, std = model.actor(th.zeros(1, 3))
        assert std[0, 0].item() == pytest.approx(expected, rel=1e-5)
    free = make_bear(policy_kwargs={**SMALL, "log_std_bounds": None})
    widen(free.actor, log_std=3.0)
    assert free.actor(th.zeros(1, 3))[1][0, 0].item() == pytest.approx(np.exp(3), rel=1e-5)
