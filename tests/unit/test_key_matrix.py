"""Stability of replay and of a learnt model (paper page, section 2.2 and section 8, test 2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from rlzoo.agents.dyna_dqn.key_matrix import (
    buffer_statistics,
    column_sums,
    critical,
    is_stable,
    iteration_matrix,
    iteration_vector,
    key_matrix,
    occupancy,
    sample_episodes,
    simulate,
    verdict,
)
from rlzoo.errors import RefusedError

GAMMA, MDPS = 0.99, 300


class Buffer(NamedTuple):
    """Full episodes of a random process."""

    n_states: int
    states: np.ndarray
    after: np.ndarray


def random_buffer(seed: int) -> Buffer:
    """Up to 20 episodes in a process of 2 to 12 states with sparse random moves and random ends."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 13))
    moves = rng.dirichlet(np.full(n, rng.choice([0.1, 0.5, 2.0])), n)
    going_on = 1 - rng.uniform(0.002, rng.choice([0.01, 0.5]), n)
    return Buffer(n, *sample_episodes(going_on[:, None] * moves, int(rng.integers(1, 21)), rng))


BUFFERS = [random_buffer(seed) for seed in range(MDPS)]


# ------------------------------------------------------------------ full episodes


def test_replay_of_full_episodes_is_stable_for_all_features() -> None:
    smallest = np.inf
    for buffer in BUFFERS:
        d, p = buffer_statistics(buffer.states, buffer.after, buffer.n_states)
        key = key_matrix(d, p, GAMMA)
        seen = d > 0
        assert (column_sums(key)[seen] >= (1 - GAMMA) * d[seen] * (1 - 1e-9)).all()
        assert (key.sum(1)[seen] >= (1 - GAMMA) * d[seen] * (1 - 1e-9)).all()
        found = verdict(key)
        assert found.stable
        smallest = min(smallest, found.eigenvalue / d[seen].min())
    assert 1 - GAMMA <= smallest < 0.1  # the bound, which some of the processes come near to


def test_any_features_converge_with_full_episodes() -> None:
    rng = np.random.default_rng(0)
    for buffer in BUFFERS[:60]:
        d, p = buffer_statistics(buffer.states, buffer.after, buffer.n_states)
        x = rng.standard_normal((buffer.n_states, min(3, int((d > 0).sum()))))
        assert is_stable(iteration_matrix(x * (d > 0)[:, None], key_matrix(d, p, GAMMA)))


def test_each_condition_is_needed() -> None:
    """An unfinished tail, prioritised weights and a learnt model each break the column bound."""
    rng = np.random.default_rng(1)
    broken = {"tail": 0, "priorities": 0, "model": 0}
    unstable = {"tail": 0, "priorities": 0, "model": 0}
    for buffer in BUFFERS:
        n = buffer.n_states
        d, _ = buffer_statistics(buffer.states, buffer.after, n)
        cut = max(1, len(buffer.states) * 2 // 3)
        model = 0.99 * rng.dirichlet(np.full(n, 0.1), n)
        cases = {
            "tail": buffer_statistics(buffer.states[:cut], buffer.after[:cut], n),
            "priorities": buffer_statistics(
                buffer.states, buffer.after, n, rng.exponential(size=len(buffer.states)) ** 3
            ),
            "model": (d, np.where((d > 0)[:, None], model * (d > 0), 0)),
        }
        for name, (weights, transitions) in cases.items():
            seen = weights > 0
            key = key_matrix(weights, transitions, GAMMA)
            broken[name] += bool(
                (column_sums(key)[seen] < (1 - GAMMA) * weights[seen] - 1e-12).any()
            )
            unstable[name] += not verdict(key).stable
    assert min(broken.values()) > 30
    assert unstable["priorities"] > 30
    assert unstable["model"] > 30


def test_an_unstable_key_diverges_along_its_feature_and_a_stable_one_does_not() -> None:
    rng = np.random.default_rng(2)
    tried = 0
    for buffer in BUFFERS[:100]:
        d, _ = buffer_statistics(buffer.states, buffer.after, buffer.n_states)
        model = 0.99 * rng.dirichlet(np.full(buffer.n_states, 0.1), buffer.n_states)
        found = verdict(key_matrix(d, model, GAMMA))
        if abs(found.eigenvalue) < 1e-3:
            continue
        a = iteration_matrix(found.feature, key_matrix(d, model, GAMMA))
        np.testing.assert_allclose(a[0, 0], found.eigenvalue, atol=1e-12)
        path = simulate(a, [0.0], [1.0], alpha=1 / abs(found.eigenvalue) / 10, steps=200)
        assert (abs(path[-1, 0]) > 1e6) == (found.eigenvalue < 0) != (abs(path[-1, 0]) < 1e-6)
        assert is_stable(a) == found.stable
        tried += 1 + 1000 * (not found.stable)
    assert tried > 10_000  # ten unstable ones at least


# ------------------------------------------------------------------ two states


X = np.array([1.0, 2.0])
HALF = np.array([0.5, 0.5])


def model(q: float) -> np.ndarray:
    """s1 -> s2, which stays with probability q and ends otherwise."""
    return np.array([[0.0, 1.0], [0.0, q]])


def two_state(d: object = HALF, q: float = 0.0, n_steps: int = 1) -> float:
    return float(iteration_matrix(X, key_matrix(d, model(q), GAMMA, n_steps))[0, 0])


def last_weight(a: float) -> float:
    return float(simulate(a, 0.0, 1.0)[-1, 0])


def test_the_episode_gives_the_matrices_of_the_page() -> None:
    d, p = buffer_statistics([0, 1], [1, -1], 2)
    np.testing.assert_array_equal(d, HALF)
    np.testing.assert_array_equal(p, model(0))
    np.testing.assert_allclose(column_sums(key_matrix(d, p, GAMMA)), [0.5, 0.5 * (1 - GAMMA)])


@pytest.mark.parametrize(
    ("q", "expected"), [(0.0, 1.51), (0.5, 0.52), (0.75, 0.025), (0.8, -0.074), (0.9, -0.272)]
)
def test_two_states(q: float, expected: float) -> None:
    closed = (5 - 2 * GAMMA - 4 * GAMMA * q) / 2
    assert two_state(q=q) == pytest.approx(closed, abs=1e-12)
    assert closed == pytest.approx(expected, abs=1e-12)
    assert is_stable(np.array([[two_state(q=q)]])) == (expected > 0)


def test_critical_probability_of_staying() -> None:
    found = critical(lambda q: two_state(q=q))
    assert found == pytest.approx((5 - 2 * GAMMA) / (4 * GAMMA), abs=1e-12)
    assert found == pytest.approx(0.7626, abs=5e-5)
    assert two_state(q=found) == pytest.approx(0, abs=1e-12)


def test_a_perfect_model_with_bad_search_control() -> None:
    def at(d1: float) -> float:
        return two_state(d=[d1, 1 - d1])

    assert at(0.8) == pytest.approx(0.016, abs=1e-12)
    assert at(0.9) == pytest.approx(-0.482, abs=1e-12)
    found = critical(lambda d1: at(d1))
    assert found == pytest.approx(4 / (3 + 2 * GAMMA), abs=1e-12)
    assert found == pytest.approx(0.8032, abs=5e-5)
    assert abs(last_weight(at(0.9))) > 1e6
    assert abs(last_weight(at(0.8))) < 0.05


def test_starting_where_the_model_goes_is_stable_again() -> None:
    d = occupancy(model(0.9), [1, 0])
    np.testing.assert_allclose(d, [1 / 11, 10 / 11], atol=1e-12)
    a = two_state(d=d, q=0.9)
    closed = (1 - 2 * GAMMA + 10 * 4 * (1 - 0.9 * GAMMA)) / 11
    assert a == pytest.approx(closed, abs=1e-12)
    assert a == pytest.approx(0.307, abs=5e-4)
    assert verdict(key_matrix(d, model(0.9), GAMMA)).stable


@pytest.mark.parametrize(("n_steps", "rounded"), [(2, 0.030), (5, 0.753), (20, 2.191)])
def test_more_steps(n_steps: int, rounded: float) -> None:
    a = two_state(q=0.9, n_steps=n_steps)
    reached = GAMMA**n_steps * 0.9 ** (n_steps - 1)  # weight of s2 after n steps from s1
    closed = 0.5 * (1 - 2 * reached) + 0.5 * 4 * (1 - 0.9 * reached)
    assert a == pytest.approx(closed, abs=1e-12)
    assert a == pytest.approx(rounded, abs=5e-4)
    assert abs(last_weight(a)) < 0.01


@pytest.mark.parametrize(
    ("kwargs", "page"),
    [({}, 6.5e-143), ({"q": 0.9}, 2.0e23), ({"q": 0.9, "d": [1 / 11, 10 / 11]}, 7.8e-28)],
)
def test_weights_after_2000_steps(kwargs: dict[str, object], page: float) -> None:
    a = two_state(**kwargs)  # type: ignore[arg-type]
    w = last_weight(a)
    assert w == pytest.approx((1 - 0.1 * a) ** 2000, rel=1e-9)
    assert w == pytest.approx(page, rel=0.03)
    assert (abs(w) > 1e6) == (kwargs == {"q": 0.9})


# ------------------------------------------------------------------ a rare state


@pytest.mark.parametrize(("epsilon", "rare", "diverges"), [(0.1, 0.001, True), (0.3, 0.05, False)])
def test_a_small_error_hurts_where_the_predicted_state_is_rare(
    epsilon: float, rare: float, diverges: bool
) -> None:
    d, p = np.array([1 - rare, rare]), np.array([[0, epsilon], [0, 0]])
    key = key_matrix(d, p, GAMMA)
    closed = (GAMMA * epsilon) ** 2 * d[0] > 4 * rare
    assert closed == diverges
    assert verdict(key).stable != diverges
    assert column_sums(key)[1] < 0  # in both: necessary for failure, not sufficient
    features = np.linspace(-200, 200, 4001)
    a = np.array([iteration_matrix([1, c], key)[0, 0] for c in features])
    np.testing.assert_allclose(
        a, d[0] * (1 - GAMMA * epsilon * features) + rare * features**2, atol=1e-12
    )
    assert (a.min() < 0) == diverges
    worst = GAMMA * epsilon * d[0] / (2 * rare)
    if diverges:
        assert worst == pytest.approx(49.45, abs=0.005)
        assert iteration_matrix([1, worst], key)[0, 0] == pytest.approx(-1.446, abs=5e-4)


# ------------------------------------------------------------------ pieces


def test_the_fixed_point_is_the_td_solution() -> None:
    rng = np.random.default_rng(3)
    buffer = BUFFERS[7]
    d, p = buffer_statistics(buffer.states, buffer.after, buffer.n_states)
    seen = d > 0
    rewards = rng.standard_normal(buffer.n_states)
    x = np.eye(buffer.n_states)[:, seen]
    a = iteration_matrix(x, key_matrix(d, p, GAMMA))
    b = iteration_vector(x, d, rewards)
    values = np.linalg.solve(np.eye(buffer.n_states) - GAMMA * p, rewards)[seen]
    np.testing.assert_allclose(np.linalg.solve(a, b), values, atol=1e-10)
    step = 1 / np.abs(np.linalg.eigvals(a)).max()
    start = values + 1e-3 * rng.standard_normal(len(values))
    path = simulate(a, b, start, step, 200)
    assert np.linalg.norm(path[-1] - values) < np.linalg.norm(start - values)


def test_sampled_episodes_follow_the_matrix() -> None:
    p = np.array([[0.1, 0.6], [0.0, 0.5]])
    states, after = sample_episodes(p, 4000, np.random.default_rng(0))
    assert (after == -1).sum() == 4000
    assert (states[1:] == after[:-1])[after[:-1] >= 0].all()  # an episode goes on where it went
    d, estimated = buffer_statistics(states, after, 2)
    np.testing.assert_allclose(estimated, p, atol=0.03)
    np.testing.assert_allclose(d, occupancy(p, [0.5, 0.5]), atol=0.02)


def test_counts_weights_and_states_that_were_never_left() -> None:
    d, p = buffer_statistics([0, 0, 1, 0], [1, 2, -1, 0], 4, weights=[1, 2, 4, 1])
    np.testing.assert_allclose(d, [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(p[0], [0.25, 0.25, 0.5, 0])
    assert not p[1:].any()
    assert verdict(key_matrix(d, p, GAMMA)).feature[2:].tolist() == [0, 0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: key_matrix([0.5, 0.5], np.eye(3), GAMMA),
        lambda: key_matrix([0.5, 0.5], 1.1 * np.eye(2), GAMMA),
        lambda: key_matrix([1.5, -0.5], np.eye(2), GAMMA),
        lambda: buffer_statistics([], [], 2),
        lambda: buffer_statistics([0], [2], 2),
        lambda: verdict(np.zeros((2, 2))),
        lambda: critical(lambda x: 1.0),
    ],
)
def test_nonsense_is_refused(call) -> None:
    with pytest.raises(RefusedError):
        call()
