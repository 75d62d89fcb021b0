"""Goals in turn and noise on the actions: what coverage is measured with."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlzoo.envs import make_env, make_vec

MINI = "rlzoo/MiniFourRooms-v0"


def test_goals_come_in_turn_from_the_seed_on() -> None:
    env = make_env(MINI, goals="cells")
    cells = env.unwrapped.evaluation_goals  # type: ignore[attr-defined]
    for start in (0, 7, 103):
        seen = [env.reset(seed=start)[0]["desired_goal"]]
        seen += [env.reset()[0]["desired_goal"] for _ in range(3)]
        wanted = cells[(start + np.arange(4)) % 104]
        assert np.array_equal(seen, wanted.astype(np.float32))


def test_a_vector_with_consecutive_seeds_has_every_cell_once() -> None:
    vec = make_vec(MINI, 104, goals="cells")
    vec.seed(0)
    observations: Any = vec.reset()
    cells = vec.get_attr("evaluation_goals")[0]
    assert np.array_equal(observations["desired_goal"], cells.astype(np.float32))


def test_noise_is_the_same_in_both_back_ends_and_has_its_deviation() -> None:
    options = {"goals": "cells", "action_noise": 0.15, "max_episode_steps": 7}
    one, many = (make_vec(MINI, 3, backend=b, **options) for b in ("gymnasium", "batched"))
    for vec in (one, many):
        vec.seed(5)
    first: Any = [vec.reset() for vec in (one, many)]
    moves = []
    actions = np.zeros((3, 2), np.float32)
    for _ in range(20):
        (a, reward, done, infos), (b, *rest) = (vec.step(actions) for vec in (one, many))
        for key in a:  # type: ignore[union-attr]
            assert np.array_equal(a[key], b[key])  # type: ignore[index]
        assert np.array_equal(reward, rest[0])
        assert np.array_equal(done, rest[1])
        moves.append(a["observation"] - first[0]["observation"])  # type: ignore[index]
        first = [a, b]
    del infos
    steps = np.concatenate([m for m in moves if np.abs(m).max() < 0.2])
    assert 0.02 < steps.std() < 0.04  # 0.15 of 0.2


def test_without_noise_a_still_point_stays() -> None:
    vec = make_vec(MINI, 2)
    vec.seed(0)
    vec.reset()
    observations: Any = vec.step(np.zeros((2, 2), np.float32))[0]
    assert not observations["observation"].any()
