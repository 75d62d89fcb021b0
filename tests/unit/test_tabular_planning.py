"""Four rooms with tables: replay is planning (paper page, section 8, tests 1 and 11)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from rlzoo.agents.dyna_dqn import tabular_planning
from rlzoo.agents.dyna_dqn.tabular_planning import Planning, Result
from rlzoo.envs.grid import four_rooms
from rlzoo.errors import RefusedError

GRID = four_rooms()


def study(**kwargs: Any) -> Planning:
    return Planning(GRID.successors, GRID.goal, **kwargs)


@cache
def full(mode: str, error: float = 0.0) -> Result:
    """10,000 steps, 24 seeds."""
    return study(mode=mode, error=error).run()


def same(one: Result, other: Result) -> bool:
    return np.array_equal(one.q, other.q) and np.array_equal(one.finished, other.finished)


# ------------------------------------------------------------------ test 1: the same thing


@pytest.mark.parametrize("mode", ["dyna", "forward", "backward"])
def test_replay_is_planning_with_a_model_that_is_right(mode: str) -> None:
    """The same indices in a deterministic world: Q is equal in every bit."""
    replay = study(mode="replay").run(3000, range(4))
    assert same(replay, study(mode=mode).run(3000, range(4)))
    assert replay.episodes.min() > 0
    assert not same(replay, study(mode="none").run(3000, range(4)))


def test_it_is_not_where_the_world_slips() -> None:
    replay, table = (study(mode=mode, slip=0.2).run(2000, range(2)) for mode in ("replay", "dyna"))
    assert not same(replay, table)  # the table knows the last outcome only


def test_the_counters_are_those_of_the_page() -> None:
    """K = T iterations of M = 1 real step and P planned ones: P T planned transitions."""
    for p in (1, 5):
        result = study(mode="dyna", planning_steps=p).run(200, range(2))
        assert (result.real_steps, result.planned) == (200, 200 * p)
    assert study(mode="none").run(200, range(2)).planned == 0


def test_a_seed_has_its_result_whatever_the_others_are() -> None:
    together = study(mode="backward", error=0.3).run(1200, [3, 8])
    alone = study(mode="backward", error=0.3).run(1200, [8])
    np.testing.assert_array_equal(together.q[1], alone.q[0])
    assert not np.array_equal(together.q[0], together.q[1])


# ------------------------------------------------------------------ against a loop for one seed


@pytest.mark.parametrize(("mode", "changed"), [("forward", 50), ("backward", 200)])
def test_the_arrays_do_what_a_plain_loop_does(mode: str, changed: int) -> None:
    """Algorithm 1 as it is written, for one seed, with the same random numbers."""
    settings = study(mode=mode, error=0.3, slip=0.2, fictional_states=7)
    steps, fictional = 1500, 7
    q = np.zeros((104 + fictional, 4))
    q[104:] = np.random.default_rng([5, 1]).random(q.shape)[104:]
    rng = np.random.default_rng([5, 0])
    memory: list[tuple[int, int, float, int, bool]] = []
    state, ends = None, []

    def learn(s: int, a: int, r: float, after: int, done: bool) -> None:
        target = r if done else r + 0.99 * max(q[after])
        q[s, a] += 0.1 * (target - q[s, a])

    for _ in range(steps):
        draws = list(rng.random(5 + 4 + 5 * 4))
        explore, action, slip, slipped, start = draws[:5]
        if state is None:
            state = [s for s in range(104) if s != GRID.goal][int(start * 103)]
        noisy = [value + 1e-8 * tie for value, tie in zip(q[state], draws[5:9], strict=True)]
        chosen = int(action * 4) if explore < 0.1 else int(np.argmax(noisy))
        moved = int(slipped * 4) if slip < 0.2 else chosen
        after = int(GRID.successors[state, moved])
        done = after == GRID.goal
        memory.append((state, chosen, float(done), after, done))
        learn(*memory[-1])
        planned = []
        for p in range(5):
            index, wrong, named, pair = draws[9 + 4 * p : 13 + 4 * p]
            s, a, r, end, stop = memory[int(index * len(memory))]
            if wrong < 0.3 and mode == "forward":
                end = 104 + int(named * 7)
            elif wrong < 0.3:
                s, a = 104 + int(named * 7), int(pair * 4)
            planned.append((s, a, r, end, stop))
        for transition in planned:
            learn(*transition)
        ends.append(done)
        state = None if done else after
    result = settings.run(steps, [5])
    np.testing.assert_array_equal(result.finished[0], ends)
    np.testing.assert_allclose(result.q[0], q, rtol=1e-12)
    assert np.count_nonzero(q[:104]) > changed


@pytest.mark.parametrize(("done", "target"), [(0.0, 0.5 + 0.99 * 3), (1.0, 0.5)])
def test_the_end_of_an_episode_is_not_bootstrapped_from(done: float, target: float) -> None:
    lanes = tabular_planning._Lanes(study(), 1, [0, 1])
    lanes.q[:, 7] = [1, 3, 2, 0]
    two = np.ones(2)
    lanes.update(tabular_planning._Batch(
        np.array([4, 5]), np.array([1, 2]), 0.5 * two, np.array([7, 7]), done * two))  # fmt: skip
    assert lanes.q[0, 4, 1] == lanes.q[1, 5, 2] == pytest.approx(0.1 * target)
    assert np.count_nonzero(lanes.q[:, :7]) == 2


@pytest.mark.parametrize(("mode", "outcomes"), [("forward", 104), ("backward", 416)])
def test_a_prior_errs_less_about_what_was_seen_often(mode: str, outcomes: int) -> None:
    lanes = tabular_planning._Lanes(study(mode=mode, pseudo_count=0.001), 10, [0])
    lanes.tried[:], lanes.entered[:] = 2.0, 2.0
    rng = np.random.default_rng(0)
    parts = (rng.integers(0, 104, (1, 20_000)) for _ in range(2))
    state, after = parts
    one = np.ones((1, 20_000))
    stored = tabular_planning._Batch(state, one.astype(int), one, after, one)
    made = tabular_planning._imagine(lanes, stored, rng.random((1, 20_000, 4)))
    changed = made.after != after if mode == "forward" else made.state != state
    mass = 0.001 * outcomes
    assert changed.mean() == pytest.approx(mass / (2 + mass) * 103 / 104, rel=0.1)
    assert max(made.after.max(), made.state.max()) < 104  # real states only
    np.testing.assert_array_equal(made.reward, one)


def test_arguments_out_of_range_are_refused() -> None:
    for kwargs in ({"error": 1.5}, {"mode": "sideways"}, {"error": 0.1, "pseudo_count": 0.1}):
        with pytest.raises(RefusedError):
            study(**kwargs)


# ------------------------------------------------------------------ test 11: thresholds


def test_replay_finishes_twice_as_many_episodes_as_none() -> None:
    assert full("replay").mean >= 600
    assert full("none").mean <= 400


def test_a_wrong_model_is_fit_for_backward_planning_and_useless_forward() -> None:
    assert full("backward", 0.3).mean >= 0.85 * full("replay").mean
    assert full("forward", 0.1).mean <= 50


def test_replay_without_bootstrapping_fails_the_threshold() -> None:
    assert study(mode="replay", gamma=0.0).run(seeds=range(8)).mean < 300


def test_backward_planning_that_corrupts_real_states_fails_the_threshold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: predicted pairs keep their numbers below 104, so that they are real ones."""
    imagine = tabular_planning._imagine

    def broken(lanes: Any, stored: Any, draws: Any) -> Any:
        batch = imagine(lanes, stored, draws)
        return batch._replace(state=np.where(batch.state < 104, batch.state, batch.state - 100))

    monkeypatch.setattr(tabular_planning, "_imagine", broken)
    assert study(mode="backward", error=0.3).run(seeds=range(8)).mean < 0.5 * full("replay").mean
