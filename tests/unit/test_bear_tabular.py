"""The theory on tables: closed forms and random MDPs (bear page, section 8, items 11 to 14)."""

from __future__ import annotations

import numpy as np
import pytest

from rlzoo.agents.bear import tabular
from rlzoo.agents.bear.tabular import MDP
from rlzoo.errors import RefusedError

N_RANDOM = 200


def bandit():
    """Item 11: one state, rewards 0, 1, 2."""
    mdp = MDP(np.ones((1, 3, 1)), np.array([[0.0, 1.0, 2.0]]), np.ones(1), 0.9)
    return mdp, np.array([[0.6, 0.35, 0.05]])


def swap():
    """Item 12: two states, stay or swap."""
    stay = np.eye(2)
    transitions = np.stack([stay, stay[::-1]], axis=1)
    mdp = MDP(transitions, np.zeros((2, 2)), np.array([1.0, 0.0]), 0.9)
    return mdp, np.array([[0.9, 0.1], [0.9, 0.1]])


def random_mdp(seed):
    """A random MDP with its behaviour; sparse enough that supports differ in what they reach."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 6)), int(rng.integers(2, 5))
    transitions = rng.dirichlet(np.full(n, 0.4), (n, m))
    rewards = rng.normal(size=(n, m))
    gamma = float(rng.choice([0.5, 0.8, 0.9, 0.95]))
    behavior = rng.dirichlet(np.ones(m), n)
    return MDP(transitions, rewards, rng.dirichlet(np.ones(n)), gamma), behavior, rng


def epsilons(behavior, rng):
    """Two thresholds, the smaller first, that leave an action in every state."""
    return np.sort(rng.uniform(0, behavior.max(1).min(), 2))


# --- item 11 --------------------------------------------------------------------------------------


def test_one_state_three_rewards():
    mdp, behavior = bandit()
    mask = tabular.support_mask(behavior, 0.1)
    assert mask.tolist() == [[True, True, False]]
    optimal = tabular.fixed_point(mdp, mdp.everything)
    constrained = tabular.fixed_point(mdp, mask)
    np.testing.assert_allclose(optimal, [[18, 19, 20]], atol=1e-9)
    np.testing.assert_allclose(constrained, [[9, 10, 11]], atol=1e-9)
    alpha = tabular.suboptimality(mdp, mask)
    assert alpha == pytest.approx(0.9)
    assert np.abs(optimal - constrained).max() == pytest.approx(alpha / (1 - mdp.gamma))
    assert tabular.concentrability(mdp, mask, np.ones(1)) == pytest.approx(1)


def test_a_threshold_that_leaves_nothing_is_refused():
    with pytest.raises(RefusedError, match=r"epsilon=0.7 leaves state 0 .*\nAllowed: at most 0.6"):
        tabular.support_mask(bandit()[1], 0.7)


# --- item 12 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "states", "expected", "bound"),
    [(0.2, [True, False], 28 / 19, 16.612), (0.05, [True, True], 28 / 9, 39.490)],
)
def test_two_states(epsilon, states, expected, bound):
    mdp, behavior = swap()
    mu = tabular.discounted_states(mdp, behavior)
    np.testing.assert_allclose(mu, [19 / 28, 9 / 28])
    mask = tabular.support_mask(behavior, epsilon)
    assert tabular.reachable(mdp, mask).tolist() == states
    found = tabular.concentrability(mdp, mask, mu)
    assert found == pytest.approx(expected, abs=1e-6)
    assert tabular.concentrability(mdp, behavior, mu) == pytest.approx(1.430782, abs=1e-6)
    assert tabular.support_bound(mdp, behavior, epsilon, mu) == pytest.approx(bound, abs=1e-3)
    assert found <= bound


def test_concentrability_by_enumeration():
    """Backward induction against every sequence of deterministic policies."""
    transitions = np.random.default_rng(3).dirichlet([1, 1], (2, 2))
    mdp = MDP(transitions, np.zeros((2, 2)), np.array([0.3, 0.7]), 0.9)
    mu = np.array([0.25, 0.75])
    kernels = [
        mdp.transitions[np.arange(2), [a, b]] for a in range(2) for b in range(2)
    ]  # fmt: skip
    reached = [mdp.start]
    for k in range(3):
        reached = [states @ kernel for states in reached for kernel in kernels]
        expected = max((states / mu).max() for states in reached)
        found = tabular.concentrabilities(mdp, mdp.everything, mu, 3)[k]
        assert found == pytest.approx(expected)


def test_a_state_without_data_makes_the_concentrability_infinite():
    mdp, _ = swap()
    assert tabular.concentrabilities(mdp, mdp.everything, np.array([1.0, 0.0]), 1)[0] == np.inf
    only_stay = np.array([[True, False], [True, False]])
    assert tabular.concentrabilities(mdp, only_stay, np.array([1.0, 0.0]), 1)[0] == 1


# --- item 13 --------------------------------------------------------------------------------------


def test_random_mdps_the_backup_contracts_and_is_monotone():
    for seed in range(N_RANDOM):
        mdp, behavior, rng = random_mdp(seed)
        small, large = epsilons(behavior, rng)
        wide, narrow = (tabular.support_mask(behavior, e) for e in (small, large))
        a, b = rng.normal(size=(2, *mdp.rewards.shape)) * 5
        for mask in (wide, narrow):
            gap = np.abs(tabular.backup(mdp, a, mask) - tabular.backup(mdp, b, mask)).max()
            assert gap <= mdp.gamma * np.abs(a - b).max() + 1e-12
            higher = tabular.backup(mdp, a + np.abs(b), mask)
            assert (higher >= tabular.backup(mdp, a, mask) - 1e-12).all()
        full = tabular.backup(mdp, a, mdp.everything)
        assert (tabular.backup(mdp, a, narrow) <= tabular.backup(mdp, a, wide) + 1e-12).all()
        assert (tabular.backup(mdp, a, wide) <= full + 1e-12).all()
        q = [tabular.fixed_point(mdp, m) for m in (narrow, wide, mdp.everything)]
        assert (q[0] <= q[1] + 1e-9).all()
        assert (q[1] <= q[2] + 1e-9).all()


def test_random_mdps_suboptimality_bounds_the_gap():
    for seed in range(N_RANDOM):
        mdp, behavior, rng = random_mdp(seed)
        mask = tabular.support_mask(behavior, epsilons(behavior, rng)[1])
        gap = np.abs(tabular.fixed_point(mdp, mdp.everything) - tabular.fixed_point(mdp, mask))
        assert gap.max() <= tabular.suboptimality(mdp, mask) / (1 - mdp.gamma) + 1e-8


def noisy_iteration(mdp, mask, delta, rng, n=150, last=30):
    """Largest ``E_{rho_0} |V^{pi_k} - V*|`` of the last iterations with errors up to ``delta``."""
    optimal = tabular.values(tabular.fixed_point(mdp, mdp.everything), mdp.everything)
    q, worst = np.zeros_like(delta), 0.0
    adverse = np.where(rng.random(delta.shape) < 0.5, delta, -delta)
    for k in range(n):
        q = tabular.backup(mdp, q, mask) + adverse
        if k >= n - last:
            achieved = tabular.policy_values(mdp, tabular.greedy(q, mask))
            worst = max(worst, float(mdp.start @ np.abs(achieved - optimal)))
    return worst


def test_random_mdps_keep_within_the_error_bound():
    tightest = 0.0
    for seed in range(N_RANDOM):
        mdp, behavior, rng = random_mdp(seed)
        mask = tabular.support_mask(behavior, epsilons(behavior, rng)[1])
        mu = tabular.discounted_states(mdp, behavior)
        delta = rng.uniform(0, 1, mdp.rewards.shape)
        bound = tabular.error_bound(mdp, mask, mu, delta)
        tightest = max(tightest, noisy_iteration(mdp, mask, delta, rng) / bound)
    assert 0 < tightest <= 1


def test_the_error_bound_needs_its_factor_of_two():
    """One state whose two values are confused: the bound is met with equality, half of it not."""
    gamma, gap = 0.5, 1.0
    mdp = MDP(np.ones((1, 2, 1)), np.array([[0.0, gap]]), np.ones(1), gamma)
    delta = np.full((1, 2), gap / 2 + 1e-9)
    mask, mu = mdp.everything, np.ones(1)
    q = np.zeros((1, 2))
    for _ in range(60):
        q = tabular.backup(mdp, q, mask) + np.array([[1, -1]]) * delta
    lost = tabular.policy_values(mdp, tabular.greedy(q, mask))[0]
    error = gap / (1 - gamma) - lost
    bound = tabular.error_bound(mdp, mask, mu, delta)
    assert error == pytest.approx(2.0)
    assert error <= bound + 1e-6
    assert error > 0.5 * bound


def test_random_mdps_keep_within_the_support_bound():
    for seed in range(N_RANDOM):
        mdp, behavior, rng = random_mdp(seed)
        epsilon = epsilons(behavior, rng)[1]
        mu = tabular.discounted_states(mdp, behavior)
        found = tabular.concentrability(mdp, tabular.support_mask(behavior, epsilon), mu)
        bound = tabular.support_bound(mdp, behavior, epsilon, mu)
        assert found <= bound * (1 + 1e-9)


# --- item 14 --------------------------------------------------------------------------------------


def converged(mdp, seen, mask, value=10.0, n=3000):
    first = np.where(seen, 0.0, value)
    *_, last = tabular.sweeps(mdp, first, mask, seen, n)
    return last


@pytest.mark.parametrize("n_states", [2, 5, 20])
def test_an_action_without_data_spoils_every_state(n_states):
    mdp, seen = tabular.chain(n_states)
    q = converged(mdp, seen, mdp.everything)
    np.testing.assert_allclose(q[:, 0], mdp.gamma * 10.0)
    assert tabular.greedy(q, mdp.everything)[:, 1].all()


@pytest.mark.parametrize("n_states", [2, 5, 20])
def test_the_support_mask_keeps_the_error_out(n_states):
    mdp, seen = tabular.chain(n_states)
    q = converged(mdp, seen, seen)
    np.testing.assert_allclose(q[:, 0], 0.0)
    assert tabular.greedy(q, seen)[:, 0].all()


def test_more_sweeps_do_not_help():
    mdp, seen = tabular.chain(5)
    errors = [
        q[0, 0] for q in tabular.sweeps(mdp, np.where(seen, 0.0, 10.0), mdp.everything, seen, 50)
    ]
    assert errors[0] == pytest.approx(9.9)
    assert errors[-1] == pytest.approx(9.9)


def without_mask(monkeypatch):
    """The defect that the paper is about: the backup maximises over everything."""
    monkeypatch.setattr(tabular, "values", lambda q, _: q.max(-1))


def test_a_backup_without_its_mask_fails_the_checks_above(monkeypatch):
    without_mask(monkeypatch)
    with pytest.raises(AssertionError):
        test_the_support_mask_keeps_the_error_out(5)
    with pytest.raises(AssertionError):
        test_one_state_three_rewards()


def test_noisy_rewards_more_data_shrinks_only_the_error_of_sampling():
    mdp, seen = tabular.chain(5, gamma=0.9)
    rng = np.random.default_rng(0)
    for n, tolerance in ((100, 1.0), (1_000_000, 0.02)):
        rewards = rng.normal(0, 1 / np.sqrt(n), mdp.rewards.shape)
        first = np.where(seen, 0.0, 10.0)
        *_, masked = tabular.sweeps(mdp, first, seen, seen, 300, rewards)
        *_, plain = tabular.sweeps(mdp, first, mdp.everything, seen, 300, rewards)
        assert np.abs(masked[:, 0]).max() < tolerance
        assert np.abs(plain[:, 0] - 9.0).max() < tolerance
