"""Hindsight goals: where they come from, how often, and that success follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from goal_gail_testing import EPSILON, demonstrate, make_agent
from gymnasium import spaces

from rlzoo.agents.goal_gail.goal_replay import GoalReplayBuffer, demonstration_store
from rlzoo.agents.goal_gail.relabel import draw, gather, sample
from rlzoo.agents.goal_gail.success import EXACT, Within
from rlzoo.core.goal_episodes import GoalEpisodes
from rlzoo.errors import RefusedError

LINE = spaces.Dict({
    "observation": spaces.Box(-np.inf, np.inf, (1,)),
    "achieved_goal": spaces.Box(-np.inf, np.inf, (1,)),
    "desired_goal": spaces.Box(-np.inf, np.inf, (1,)),
})  # fmt: skip
ACTIONS = spaces.Box(-1, 1, (1,))
NEVER = 1e9


def line_buffer(n_envs: int = 1, size: int = 1000, success: Any = None) -> GoalReplayBuffer:
    judge = Within(0.25) if success is None else success
    return GoalReplayBuffer(size, LINE, ACTIONS, "cpu", n_envs, success=judge)


def add(buffer: GoalReplayBuffer, states: np.ndarray, goals: np.ndarray, done: Any = False) -> None:
    """Add the step from ``states[0]`` to ``states[1]``, ``[n_envs]`` each."""
    now, then, goal = (np.asarray(x, np.float32).reshape(-1, 1) for x in (*states, goals))
    obs = {"observation": now, "achieved_goal": now, "desired_goal": goal}
    next_obs = {"observation": then, "achieved_goal": then, "desired_goal": goal}
    dones = np.broadcast_to(done, (buffer.n_envs,))
    infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(d)} for d in dones]
    buffer.add(obs, next_obs, np.zeros((buffer.n_envs, 1)), np.zeros(buffer.n_envs), dones, infos)


def add_episodes(buffer: GoalReplayBuffer, n: int, length: int, goal: float = NEVER) -> None:
    """Add episodes whose state counts all steps of the buffer, so that each is unique."""
    for _ in range(n):
        first = 2.0 * buffer.n_added  # a gap between the last state and the next first one
        for t in range(length):
            states = np.array([[first + t], [first + t + 1]]) + 1e5 * np.arange(buffer.n_envs)
            add(buffer, states, np.full(buffer.n_envs, goal), t == length - 1)


@pytest.mark.parametrize("horizon", [10, 50, 100])
def test_share_of_immediate_successes(horizon: int) -> None:
    """P(f = t) is the harmonic number of T over T, for goals drawn from t to T-1 alike."""
    buffer = line_buffer()
    add_episodes(buffer, 3, horizon)
    assert buffer.prepare()
    th.manual_seed(0)
    n = 200_000
    drawn = draw(buffer.store, n, 0.8)
    share = (drawn.future == drawn.step).float().mean().item()
    expected = sum(1 / k for k in range(1, horizon + 1)) / horizon
    assert expected == pytest.approx({10: 0.2929, 50: 0.0900, 100: 0.0519}[horizon], abs=1e-4)
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    relabelled = drawn.relabelled.float().mean().item()
    assert abs(relabelled - 0.8) < 3 * np.sqrt(0.8 * 0.2 / n)


def assert_uniform(counts: np.ndarray) -> None:
    """Compare the chi-square statistic with its mean plus four standard deviations."""
    expected, freedom = counts.mean(), len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < freedom + 4 * np.sqrt(2 * freedom), counts


def test_future_steps_are_uniform_and_include_the_last() -> None:
    buffer = line_buffer()
    add_episodes(buffer, 2, 20)
    buffer.prepare()
    th.manual_seed(1)
    drawn = draw(buffer.store, 100_000, 1.0)
    assert (drawn.future >= drawn.step).all()
    assert (drawn.future < drawn.length).all()
    steps = np.bincount(drawn.step.numpy(), minlength=20)
    assert_uniform(steps)
    for t in (0, 7, 15):
        counts = np.bincount(drawn.future[drawn.step == t].numpy() - t, minlength=20 - t)
        assert len(counts) == 20 - t
        assert counts[-1] > 0
        assert_uniform(counts)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_goals_are_reached_later_in_the_same_episode(n_envs: int) -> None:
    buffer = line_buffer(n_envs, 3000)
    add_episodes(buffer, 5, 20)
    buffer.prepare()
    assert int(buffer.store.n_episodes) == 5 * n_envs
    th.manual_seed(2)
    drawn = draw(buffer.store, 5000, 0.8)
    batch = gather(buffer.store, drawn, buffer.success)
    # States count the steps, so a goal says which step it was reached by.
    ahead = (batch.goals - batch.observations).squeeze(-1)
    expected = (drawn.future - drawn.step + 1).float()
    assert th.equal(ahead[drawn.relabelled], expected[drawn.relabelled])
    assert (batch.goals[~drawn.relabelled] == NEVER).all()
    assert th.equal(batch.next_observations, batch.observations + 1)
    # Terminal exactly where f = t and the goal was changed.
    assert th.equal(batch.success, drawn.relabelled & (drawn.future == drawn.step))
    assert batch.success.any()
    assert th.equal(batch.success, buffer.success(batch.next_achieved_goals, batch.goals))
    seen = {int(value) for value in batch.observations.flatten() // 1e5}
    assert seen == set(range(n_envs))


def test_truncation_is_never_terminal() -> None:
    buffer = line_buffer()
    add_episodes(buffer, 5, 8)
    assert buffer.dones.sum() == buffer.timeouts.sum() == 5
    assert not buffer.sample(500).success.any()


def test_an_episode_is_used_until_its_first_success() -> None:
    buffer = line_buffer()
    for t in range(10):  # the goal is reached by step 3, and left again
        add(buffer, np.array([[t], [t + 1]]), np.array([4.0]), t == 9)
    buffer.prepare()
    assert buffer.store.lengths[:1].tolist() == [4]
    drawn = draw(buffer.store, 2000, 1.0)
    assert drawn.step.max() == 3
    assert drawn.future.max() == 3
    batch = sample(buffer.store, 2000, 0.0, buffer.success)
    assert th.equal(batch.success, batch.observations.squeeze(-1) == 3)
    exact = line_buffer(success=Within(EXACT))
    for t in range(10):
        add(exact, np.array([[t], [t + 1]]), np.array([4.1]), t == 9)
    exact.prepare()
    assert exact.store.lengths[:1].tolist() == [10]
    buffer.judge_by(Within(EXACT))
    buffer.desired_goals[:] = 4.1
    buffer.prepare()
    assert buffer.store.lengths[:1].tolist() == [10]


def test_only_whole_episodes_are_sampled() -> None:
    buffer = line_buffer()
    with pytest.raises(RefusedError, match="after 0 steps"):
        buffer.sample(4)
    for t in range(7):
        add(buffer, np.array([[t], [t + 1]]), np.array([NEVER]))
    with pytest.raises(RefusedError, match="after 7 steps"):
        buffer.sample(4)
    # A reset from outside: the observation does not follow from the row before.
    add(buffer, np.array([[100], [101]]), np.array([NEVER]))
    assert buffer.prepare()
    assert buffer.store.lengths[:1].tolist() == [7]
    assert buffer.sample(100).observations.max() == 6


@pytest.mark.parametrize("n_envs", [1, 2])
def test_old_episodes_are_forgotten_whole(n_envs: int) -> None:
    buffer = line_buffer(n_envs, 50 * n_envs)
    for n in range(40):  # lengths 3, 4, 5, ...: the ring wraps at any place of an episode
        add_episodes(buffer, 1, 3 + n % 5)
        buffer.prepare()
        k = int(buffer.store.n_episodes)
        assert k > 0
        assert (buffer.store.lengths[:k] <= 7).all()
        drawn = draw(buffer.store, 300, 1.0)
        batch = gather(buffer.store, drawn, buffer.success)
        ahead = (batch.goals - batch.observations).squeeze(-1)
        assert th.equal(ahead, (drawn.future - drawn.step + 1).float())
    assert buffer.full


class Mirrored(GoalReplayBuffer):
    """Sends its rows to a copy, as on a GPU."""

    in_place = False


@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_copy_on_the_device_holds_the_same(n_envs: int, tmp_path: Path) -> None:
    shared = line_buffer(n_envs, 50 * n_envs)
    copied = Mirrored(50 * n_envs, LINE, ACTIONS, "cpu", n_envs, success=Within(0.25))
    for n in range(25):
        for buffer in (shared, copied):
            add_episodes(buffer, 1, 3 + n % 5, goal=2.0 * buffer.n_added + 2)
            if n % 3 == 0:
                buffer.prepare()
        if n == 17:
            copied.save(tmp_path / "rows")
            copied = Mirrored(50 * n_envs, LINE, ACTIONS, "cpu", n_envs, success=Within(0.25))
            copied.restore(tmp_path / "rows")
        batches = []
        for buffer in (shared, copied):
            th.manual_seed(n)
            batches.append(buffer.sample(100, hindsight_p=0.5))
        for left, right in zip(*batches, strict=True):
            assert th.equal(left, right)
    assert copied.store.observations.data_ptr() != copied.observations.ctypes.data
    assert shared.store.observations.data_ptr() == shared.observations.ctypes.data


def test_different_lengths_side_by_side() -> None:
    buffer = line_buffer(2)
    for t in range(12):
        states = np.array([[t % 4, 100 + t % 6], [t % 4 + 1, 101 + t % 6]])
        add(buffer, states, np.full(2, NEVER), np.array([t % 4 == 3, t % 6 == 5]))
    buffer.prepare()
    k = int(buffer.store.n_episodes)
    found = {
        (int(s), int(c), int(n))
        for s, c, n in zip(*(x[:k] for x in buffer.store[6:9]), strict=True)
    }
    assert found == {(0, 0, 4), (4, 0, 4), (8, 0, 4), (0, 1, 6), (6, 1, 6)}


def test_demonstrations_are_sampled_as_episodes_of_the_agent() -> None:
    episodes = demonstrate(4, horizon=15)
    space = spaces.Box(-2, 2, (2,), np.float32)
    success = Within(EPSILON)
    store = demonstration_store(episodes, space, success, th.device("cpu"))
    reached = np.linalg.norm(
        episodes.achieved_goals[:, 1:] - episodes.desired_goals[:, None], axis=-1
    ) < EPSILON  # fmt: skip
    first = np.where(reached.any(1), reached.argmax(1) + 1, 15)
    assert store.lengths.tolist() == first.tolist()
    batch = sample(store, 1000, 0.0, success)
    assert episodes.actions is not None
    rows = {tuple(r) for r in (episodes.actions.reshape(-1, 2) / 2).clip(-1, 1).round(4).tolist()}
    assert {tuple(np.round(r, 4)) for r in batch.actions.double().tolist()} <= {
        tuple(np.round(r, 4)) for r in rows
    }
    originals = {tuple(g) for g in episodes.desired_goals.tolist()}
    assert {tuple(g) for g in batch.goals.tolist()} <= originals
    hindsight = sample(store, 1000, 1.0, success)
    everything = {tuple(g) for g in episodes.achieved_goals.reshape(-1, 2).tolist()}
    assert {tuple(g) for g in hindsight.goals.tolist()} <= everything


def test_padding_of_short_demonstrations_is_not_sampled() -> None:
    states = [np.arange(6.0)[:, None], np.arange(100.0, 103.0)[:, None]]
    raw = [
        {"observations": s, "achieved_goals": s, "desired_goals": [NEVER]} for s in states
    ]  # fmt: skip
    episodes = GoalEpisodes.from_episodes(raw)
    store = demonstration_store(episodes, ACTIONS, Within(0.25), th.device("cpu"))
    assert store.lengths.tolist() == [5, 2]
    batch = sample(store, 500, 0.5, Within(0.25))
    assert th.equal(batch.next_observations, batch.observations + 1)
    assert set(batch.observations.flatten().tolist()) == {0, 1, 2, 3, 4, 100, 101}


def test_the_agents_own_batches_are_judged_for_their_goals() -> None:
    model = make_agent().learn(100)
    batch = model._sample_rows(400)
    distance = (batch.next_achieved_goals - batch.goals).norm(dim=-1)
    assert th.equal(batch.success, distance < EPSILON)
    assert 0.02 < batch.success[:400].float().mean() < 0.5
    hindsight = make_agent(mode="gail").learn(100)._sample_rows(400)
    stored = {tuple(g) for g in model._replay.desired_goals[:100, 0].tolist()}
    assert {tuple(g) for g in hindsight.goals[:400].tolist()} <= stored
