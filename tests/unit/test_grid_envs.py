"""Four rooms and Catch: their rules, their seeds, and that they can be trained in and resumed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import DQN
from stable_baselines3.common.env_checker import check_env as check_sb3

from rlzoo.envs import TrainingVecEnv, check_api, make_env, make_vec
from rlzoo.envs.grid import MOVES, Catch, FourRoomsGrid, four_rooms
from rlzoo.errors import RefusedError
from rlzoo.runs.train import TrainRequest, train

GRID, CATCH = "rlzoo/FourRoomsGrid-v0", "rlzoo/Catch-v0"
KINDS: list[tuple[str, dict[str, Any]]] = [
    (GRID, {}), (GRID, {"slip": 0.2}), (CATCH, {}), (CATCH, {"observation": "board"}),
    (CATCH, {"observation": "image"}),
]  # fmt: skip


# ------------------------------------------------------------------ both


@pytest.mark.parametrize(("env_id", "kwargs"), KINDS)
def test_the_checkers_have_nothing_to_say(env_id: str, kwargs: dict[str, Any]) -> None:
    env = gym.make(env_id, render_mode="rgb_array", **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        if "observation" not in kwargs:  # SB3 warns of small images and of matrices
            check_sb3(env.unwrapped)
    check_api(env, env_id)
    assert env.render().dtype == np.uint8


def test_the_cli_finds_them() -> None:
    with pytest.raises(RefusedError, match="rlzoo/FourRoomsGrid-v0"):
        make_env("rlzoo/FourRoomGrid-v0")


@pytest.mark.parametrize(("env_id", "kwargs"), KINDS)
def test_a_fresh_vector_takes_over_the_state_of_another(
    env_id: str, kwargs: dict[str, Any]
) -> None:
    def make(seed: int) -> TrainingVecEnv:
        return TrainingVecEnv(make_vec(env_id, 2, seed=seed, **kwargs))

    rng = np.random.default_rng(0)
    one, other = make(3), make(4)
    first = one.reset()
    assert not np.array_equal(np.array([first, make(4).reset()])[0], make(5).reset())
    for _ in range(600):  # over the time limit of the grid
        one.step(rng.integers(0, 3, 2))
    other.replay(one.seeds or [], one.actions_since_barrier(), one.resets_since_barrier())
    ends = 0
    for _ in range(600):
        actions = rng.integers(0, 3, 2)
        ours, theirs = one.step(actions), other.step(actions)
        for mine, yours in zip(ours[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(mine, yours)
        ends += int(ours[2].sum())
    assert ends > 1  # starts after the takeover were compared as well


@pytest.mark.parametrize("env_id", [GRID, CATCH])
def test_sb3s_dqn_trains_by_its_id(env_id: str, tmp_path: Path) -> None:
    request = TrainRequest(
        "dqn", env_id, steps=400, eval_episodes=2, overrides=("learning_starts=50",),
        run_dir=tmp_path / "run", device="cpu",
    )  # fmt: skip
    record = train(request).record
    assert (record["env"], record["total_timesteps"]) == (env_id, 400)


# ------------------------------------------------------------------ four rooms


def test_the_map_is_that_of_the_page() -> None:
    """Written out from its text, not from the drawing."""

    def is_wall(row: int, column: int) -> bool:
        return (
            row in (0, 12)
            or column in (0, 12)
            or (column == 6 and row not in (3, 10))
            or (row == 6 and 1 <= column <= 5 and column != 2)
            or (row == 7 and 7 <= column <= 11 and column != 9)
        )

    free = [(r, c) for r in range(13) for c in range(13) if not is_wall(r, c)]
    table = four_rooms()
    assert len(free) == 104
    assert [tuple(cell) for cell in table.cells] == free
    assert free[table.goal] == (9, 9)
    for index, (row, column) in enumerate(free):
        for action, (down, right) in enumerate(MOVES):
            ahead = (row + down, column + right)
            assert free[table.successors[index, action]] == (
                (row, column) if is_wall(*ahead) else ahead
            )


def test_every_cell_reaches_the_goal_and_starts_are_uniform_over_the_others() -> None:
    env = FourRoomsGrid()
    env.reset(seed=0)
    starts = np.array([env.reset()[0] for _ in range(10_300)])
    counts = np.bincount(starts, minlength=104)
    goal = env.table.goal
    assert counts[goal] == 0
    others = np.delete(counts, goal)
    chi2 = ((others - 100) ** 2 / 100).sum()
    assert chi2 < 102 + 4 * np.sqrt(2 * 102)  # mean and four standard deviations, 102 degrees
    distance = np.full(104, 10**6)
    distance[goal] = 0
    for _ in range(104):
        distance = np.minimum(distance, 1 + distance[env.table.successors].min(1))
    assert distance.max() < 30


def test_the_goal_pays_once_and_ends_the_episode() -> None:
    env = FourRoomsGrid()
    env.reset(seed=0)
    goal = env.table.goal
    below = int(np.flatnonzero((env.table.cells == [10, 9]).all(1))[0])
    env.cell = below
    assert env.step(np.int64(2)) == (np.int64(env.table.successors[below, 2]), 0, False, False, {})
    env.cell = below
    assert env.step(np.int64(0)) == (np.int64(goal), 1, True, False, {})


def test_a_time_limit_truncates_and_can_be_set() -> None:
    for limit, kwargs in ((500, {}), (7, {"max_episode_steps": 7})):
        env = make_env(GRID, **kwargs)
        env.reset(seed=0)
        env.unwrapped.cell = 0  # type: ignore[attr-defined]
        ends = [env.step(0)[2:4] for _ in range(limit)]  # against the wall of the corner
        assert ends == [(False, False)] * (limit - 1) + [(False, True)]


@pytest.mark.parametrize(("slip", "expected"), [(0.0, 1.0), (0.2, 0.85), (1.0, 0.25)])
def test_slipping_takes_one_of_the_four_moves_at_random(slip: float, expected: float) -> None:
    env = FourRoomsGrid(slip)
    env.reset(seed=0)
    middle = int(np.flatnonzero((env.table.cells == [3, 3]).all(1))[0])
    ends = []
    for _ in range(4000):
        env.cell = middle
        ends.append(env.step(np.int64(1))[0])
    shares = [np.mean(np.array(ends) == env.table.successors[middle, a]) for a in range(4)]
    others = (1 - expected) / 3
    np.testing.assert_allclose(shares, [others, expected, others, others], atol=0.03)


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(RefusedError, match=r"slip=1\.5"):
        make_env(GRID, slip=1.5)
    with pytest.raises(RefusedError, match="observation='pixels'"):
        make_env(CATCH, observation="pixels")


# ------------------------------------------------------------------ catch


def play(env: Any, policy: Any, episodes: int) -> float:
    total = 0.0
    for _ in range(episodes):
        env.reset()
        for t in range(9):
            _, reward, end, cut, _ = env.step(policy(env))
            assert (end, cut) == (t == 8, False)
            assert t == 8 or reward == 0
        assert abs(reward) == 1
        total += reward
    return total / episodes


def test_following_the_ball_always_catches_it_and_chance_seldom_does() -> None:
    env, rng = Catch(), np.random.default_rng(0)
    env.reset(seed=0)
    assert play(env, lambda e: np.sign(e.ball - e.paddle) + 1, 50) == 1
    assert play(env, lambda e: 1, 2000) == pytest.approx(-0.6, abs=0.06)
    assert play(env, lambda e: rng.integers(3), 2000) == pytest.approx(-0.6, abs=0.06)


def test_the_three_kinds_of_observation_show_the_same() -> None:
    board, flat, image = (Catch(kind) for kind in ("board", "flat", "image"))
    views = [env.reset(seed=5)[0] for env in (board, flat, image)]
    for _ in range(9):
        assert views[0].shape == (10, 5)
        assert views[0].sum() == 2 or (views[0].sum() == 1 and board.ball == board.paddle)
        np.testing.assert_array_equal(views[0].ravel(), views[1])
        np.testing.assert_array_equal(views[0] * 255, views[2][0])
        views = [env.step(np.int64(2))[0] for env in (board, flat, image)]
        assert views[0][board.row, board.ball] == views[0][9, board.paddle] == 1


@pytest.mark.parametrize("observation", ["flat", "board"])
def test_both_vectors_work_with_sb3(observation: str) -> None:
    env = gym.make(CATCH, observation=observation)
    DQN("MlpPolicy", env, learning_starts=10, device="cpu").learn(30)
