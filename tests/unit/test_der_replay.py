"""Prioritised n-step replay (paper page, section 8, tests 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer

from rlzoo.agents.der.prioritized import PrioritizedReplayBuffer, importance_weights
from rlzoo.agents.der.sum_tree import SumTree
from rlzoo.errors import RefusedError

SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
RNG = np.random.default_rng(0)


def make(size: int = 500, n_steps: int = 20, n_envs: int = 1, **kwargs) -> PrioritizedReplayBuffer:
    return PrioritizedReplayBuffer(
        size, SPACE, spaces.Discrete(4), "cpu", n_envs, n_steps=n_steps, **kwargs
    )


def play(
    buffer: PrioritizedReplayBuffer, lengths: Sequence[int], truncated: bool = False, start: int = 0
) -> list[tuple[int, int]]:
    """Add episodes; observation ``(episode, t)``, reward ``t + 1``. Return (episode, t) by row."""
    rows = []
    for episode, length in enumerate(lengths, start=start):
        for t in range(length):
            last = t == length - 1
            buffer.add(
                np.array([[episode, t]]), np.array([[episode, t + 1]]), np.array([t % 4]),
                np.array([t + 1.0]), np.array([last]),
                [{"TimeLimit.truncated": truncated and last}],
            )  # fmt: skip
            rows.append((episode, t))
    return rows


def everything(buffer: PrioritizedReplayBuffer) -> dict[tuple[int, int], tuple[float, ...]]:
    """By observation of every ripe entry: action, return, done, discount, next observation."""
    leaves = np.flatnonzero(buffer.sum_tree.get(np.arange(buffer.sum_tree.n_leaves)))
    batch = buffer._batch(leaves, np.ones(len(leaves)), None)
    return {
        (int(obs[0]), int(obs[1])): (int(action), float(r), float(d), float(g), *map(int, after))
        for obs, action, r, d, g, after in zip(
            batch.observations, batch.actions, batch.rewards, batch.dones, batch.discounts,
            batch.next_observations, strict=True,
        )
    }  # fmt: skip


# -------------------------------------------------------------------- windows


@pytest.mark.parametrize("truncated", [False, True])
def test_windows_of_episodes_around_the_length_of_a_window(truncated: bool) -> None:
    lengths, n, gamma = (1, 5, 19, 20, 21), 20, 0.99
    buffer = make(n_steps=n, gamma=gamma)
    play(buffer, lengths, truncated)
    found = everything(buffer)
    # The whole tail of every episode is there.
    assert set(found) == {(e, t) for e, length in enumerate(lengths) for t in range(length)}
    for (episode, t), (action, reward, done, discount, *after) in found.items():
        length = lengths[episode]
        m = min(n, length - t)
        assert action == t % 4
        assert reward == pytest.approx(sum(gamma**k * (t + k + 1) for k in range(m)), rel=1e-6)
        assert done == (t + n >= length and not truncated)
        assert discount == pytest.approx(gamma**m, rel=1e-6)
        assert after == [episode, t + m]


def test_discounts_of_the_page() -> None:
    for n, expected in ((20, 0.81791), (10, 0.90438)):
        buffer = make(n_steps=n)
        play(buffer, [40])
        assert everything(buffer)[0, 0][3] == pytest.approx(expected, abs=5e-6)


def test_same_windows_as_sb3() -> None:
    mine, theirs = (
        make(64, 5, gamma=0.9),
        NStepReplayBuffer(64, SPACE, spaces.Discrete(4), "cpu", n_steps=5, gamma=0.9),
    )
    for buffer in (mine, theirs):
        play(buffer, [7, 3, 30])  # type: ignore[arg-type]
        play(buffer, [2, 12], truncated=True, start=3)  # type: ignore[arg-type]
        play(buffer, [40], start=5)  # type: ignore[arg-type]
    leaves = np.flatnonzero(mine.sum_tree.get(np.arange(64)))
    assert len(leaves) == 64
    a, b = mine._batch(leaves, np.ones(len(leaves)), None), theirs._get_samples(leaves)
    for name in ("observations", "actions", "rewards", "dones", "discounts"):
        assert th.allclose(getattr(a, name).float(), getattr(b, name).float(), rtol=1e-6), name
    going_on = a.dones.squeeze(-1) == 0
    assert th.equal(a.next_observations[going_on], b.next_observations[going_on])


def test_entries_ripen_when_their_window_is_complete() -> None:
    buffer = make(n_steps=3)
    assert not buffer.can_sample
    with pytest.raises(RefusedError, match="Nothing can be sampled"):
        buffer.sample(4)
    ripe = []
    for t in range(6):
        step(buffer, 0, t)
        ripe.append(sorted(t for _, t in everything(buffer)) if buffer.can_sample else [])
    assert ripe == [[], [], [], [0], [0, 1], [0, 1, 2]]


def step(buffer: PrioritizedReplayBuffer, episode: int, t: int) -> None:
    """Add a transition in the middle of an episode."""
    buffer.add(
        np.array([[episode, t]]), np.array([[episode, t + 1]]), np.array([0]), np.array([1.0]),
        np.array([False]), [{}],
    )  # fmt: skip


def test_an_episode_that_is_cut_from_outside_keeps_its_tail() -> None:
    # As a checkpoint does: rlzoo.runs.barrier.cut_episodes.
    buffer = make(n_steps=3)
    for t in range(5):
        step(buffer, 0, t)
    buffer.dones[4] = buffer.timeouts[4] = 1
    assert buffer.can_sample
    found = everything(buffer)
    assert sorted(t for _, t in found) == [0, 1, 2, 3, 4]
    assert found[0, 4][2:] == (0.0, pytest.approx(0.99), 0, 5)


def test_no_window_crosses_a_reset_that_nobody_announced() -> None:
    buffer = make(n_steps=3)
    for t in range(5):
        step(buffer, 0, t)
    for t in range(5):
        step(buffer, 1, t)
    found = everything(buffer)
    assert found[0, 3][1:] == (pytest.approx(1.99), 0.0, pytest.approx(0.99**2), 0, 5)
    assert sorted(found) == [(0, t) for t in range(5)] + [(1, 0), (1, 1)]


def test_the_ring_wraps() -> None:
    size, n = 30, 4
    buffer = make(size, n, gamma=1.0)
    rows = play(buffer, [11] * 12)
    found = everything(buffer)
    assert set(found) == set(rows[-size:])
    for (_, t), (_, reward, done, _, *after) in found.items():
        m = min(n, 11 - t)
        assert reward == sum(range(t + 1, t + m + 1))
        assert done == (t + n >= 11)
        assert done or after[1] == t + n
    play(buffer, [11], start=12)
    half = everything(buffer)
    assert all(episode > 10 or t > 0 for episode, t in half)


def test_environments_have_windows_of_their_own() -> None:
    buffer = make(200, 3, n_envs=2, gamma=1.0)
    for t in range(12):
        done = np.array([t % 4 == 3, t % 6 == 5])
        at = np.array([[0, t % 4], [1, t % 6]])
        buffer.add(at, at + np.array([0, 1]), np.zeros(2), np.array([1.0, 100.0]), done, [{}, {}])
    leaves = np.flatnonzero(buffer.sum_tree.get(np.arange(200)))
    assert len(leaves) == 24
    batch = buffer._batch(leaves, np.ones(24), None)
    period = th.where(batch.observations[:, 0] == 0, 4, 6)
    m = th.minimum(th.tensor(3), period - batch.observations[:, 1])
    scale = th.where(batch.observations[:, 0] == 0, 1.0, 100.0)
    assert th.equal(batch.rewards[:, 0], m * scale)
    assert th.equal(batch.dones[:, 0] == 1, batch.observations[:, 1] + 3 >= period)


def test_too_small_a_buffer_is_refused() -> None:
    with pytest.raises(RefusedError, match="too small"):
        make(40, 20, n_envs=2)


# ----------------------------------------------------------------- priorities


def test_frequencies_are_proportional() -> None:
    buffer = make(64, 1, exponent=1.0)
    play(buffer, [1] * 64)
    p = RNG.uniform(0.1, 3, 64)
    buffer.update_priorities(th.arange(64), th.from_numpy(p))
    draws = 100_000
    np.random.seed(0)  # noqa: NPY002 - the generator that SB3's buffers use
    # Single draws: stratified ones are less spread than chance, which a test of chance accepts.
    batches = [buffer.sample(1).indices for _ in range(2_000)]
    batches += [buffer.sample(32).indices for _ in range((draws - 2_000) // 32)]
    counts = np.bincount(th.cat(batches).numpy(), minlength=64)
    expected = p / p.sum() * counts.sum()
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 103.4  # the 99.9 % quantile of 63 degrees of freedom


def test_probabilities_are_those_of_the_drawn() -> None:
    buffer = make(64, 1, exponent=0.5)
    play(buffer, [1] * 64)
    losses = RNG.uniform(0, 3, 64)
    buffer.update_priorities(th.arange(64), th.from_numpy(losses))
    batch = buffer.sample(16)
    p = np.sqrt(losses + 1e-10)
    assert np.allclose(batch.probabilities.numpy(), (p / p.sum())[batch.indices.numpy()])


def test_total_does_not_drift() -> None:
    tree = SumTree(1000)
    for _ in range(1000):
        tree.set(RNG.integers(0, 1000, 100), RNG.exponential(size=100) ** 4)
    leaves = tree.get(np.arange(1000))
    assert tree.total == pytest.approx(leaves.sum(), rel=1e-12)
    fresh = SumTree(1000)
    fresh.set(np.arange(1000), leaves)
    assert np.array_equal(fresh.nodes, tree.nodes)


@pytest.mark.parametrize("n", [1, 2, 5, 64, 100])
def test_search_agrees_with_running_sums(n: int) -> None:
    tree = SumTree(n)
    values = RNG.integers(0, 4, n).astype(float)
    values[n // 2] = 3
    tree.set(np.arange(n), values)
    mass = np.arange(0, tree.total, 0.25)
    expected = np.searchsorted(np.cumsum(values), mass, side="right")
    assert np.array_equal(tree.find(mass), expected)


def test_rounding_never_finds_a_value_of_zero() -> None:
    tree = SumTree(37)
    tree.set(np.array([3, 20]), np.array([0.1, 0.7]))
    assert set(tree.find(np.array([0, 0.0999, tree.total, 2 * tree.total]))) == {3, 20}


def test_uniform_and_as_many_draws_as_entries_gives_each_once() -> None:
    buffer = make(64, 1, exponent=0.0)
    play(buffer, [1] * 64)
    buffer.update_priorities(th.arange(64), th.rand(64))
    assert sorted(buffer.sample(64).indices.tolist()) == list(range(64))


def test_one_entry_with_nearly_all_mass() -> None:
    buffer = make(64, 20, exponent=1.0)
    for t in range(100):
        step(buffer, 0, t)
    ripe = np.flatnonzero(buffer.sum_tree.get(np.arange(64)))
    assert len(ripe) == 64 - 20
    losses = np.full(len(ripe), 1e-3 / len(ripe))
    losses[5] = 0.999
    buffer.update_priorities(th.from_numpy(ripe), th.from_numpy(losses))
    drawn = th.cat([buffer.sample(32).indices for _ in range(50)])
    assert set(drawn.tolist()) <= set(ripe.tolist())
    assert (drawn == ripe[5]).float().mean() > 0.99


def test_entries_that_are_not_ripe_are_never_drawn() -> None:
    buffer = make(100, 20)
    for t in range(350):
        step(buffer, 0, t)
    newest = {(buffer.pos - 1 - k) % 100 for k in range(20)}
    drawn = set(th.cat([buffer.sample(32).indices for _ in range(300)]).tolist())
    assert len(drawn) == 80
    assert not drawn & newest


def test_new_entries_get_the_largest_priority_so_far() -> None:
    buffer = make(64, 1, exponent=0.5)
    play(buffer, [1] * 4)
    assert buffer.sum_tree.get(np.arange(4)).tolist() == [1.0] * 4
    buffer.update_priorities(th.tensor([0, 1]), th.tensor([9.0, 0.25]))
    buffer.update_priorities(th.tensor([0]), th.tensor([0.0]))
    play(buffer, [1], start=4)
    assert buffer.sum_tree.get(np.arange(5)).tolist() == pytest.approx([1e-5, 0.5, 1, 1, 3])


def test_priorities_of_what_has_gone_are_not_set() -> None:
    buffer = make(32, 4)
    play(buffer, [20])
    batch = buffer.sample(8)
    play(buffer, [28], start=1)
    before = buffer.sum_tree.nodes.copy()
    gone = th.tensor([buffer.pos - 1])
    buffer.sum_tree.set(gone.numpy(), 0.0)
    buffer.update_priorities(gone, th.tensor([5.0]))
    assert buffer.sum_tree.get(gone.numpy()) == [0.0]
    assert batch.indices.dtype == th.int64
    assert buffer.sum_tree.total <= before[1]


def test_weights() -> None:
    p = th.tensor([0.1, 0.2, 0.4], dtype=th.float64)
    assert importance_weights(p, 10, 0.0).tolist() == [1, 1, 1]
    weights = importance_weights(p, 10, 0.5)
    assert weights.dtype == th.float32
    assert weights.tolist() == pytest.approx([1, 0.5**0.5, 0.5])
    for a, b in pairwise(importance_weights(p, 10, 1.0).tolist()):
        assert b == pytest.approx(a / 2)
