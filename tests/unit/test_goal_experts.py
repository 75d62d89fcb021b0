"""Scripted experts of Four Rooms and the block pusher, and how experts are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from goal_testing import episodes, expert

from rlzoo.data.experts import EXPERTS, scripted_expert
from rlzoo.data.experts.rooms import HOUSES, RoomsExpert
from rlzoo.data.policies import BatchPolicy, Step
from rlzoo.envs import make_vec
from rlzoo.envs.goals.maze import MAZES
from rlzoo.errors import RefusedError

FULL, MINI, PUSHER = "rlzoo/FourRooms-v0", "rlzoo/MiniFourRooms-v0", "rlzoo/BlockPusher-v0"


def step(n: int) -> Step:
    return Step(np.zeros((n, 0)), np.zeros((n, 0)), np.zeros(n, bool), np.ones(n, bool))


@pytest.mark.parametrize("env_id", EXPERTS)
def test_every_expert_is_a_policy_of_the_collector(env_id: str) -> None:
    policy = scripted_expert(env_id)
    assert isinstance(policy, BatchPolicy)
    assert (policy.normals, policy.uniforms) == (0, 0)
    facts = policy.describe()
    assert facts["kind"] == "scripted"
    assert isinstance(facts["expert"], str)
    assert isinstance(facts["version"], int)


def test_other_tasks_have_no_expert() -> None:
    with pytest.raises(RefusedError, match="Hopper-v4") as refused:
        scripted_expert("Hopper-v4")
    assert FULL in str(refused.value)
    with pytest.raises(RefusedError, match=r"Did you mean 'FetchPush-v4'"):
        scripted_expert("FetchPush-v3")
    with pytest.raises(RefusedError, match="speed"):
        scripted_expert(MINI, speed=2)


@pytest.mark.parametrize("name", HOUSES)
def test_the_expert_knows_the_map(name: str) -> None:
    maze, house = MAZES[name], HOUSES[name]
    assert (maze.low == house.low).all()
    assert (maze.high == house.high).all()
    row, column = maze.origin
    assert maze.size // 2 - row == house.wall
    assert {(r - row, c - column) for r, c in maze.doors} == {
        *((y, house.wall) for y in house.doors_at_y),
        *((house.wall, x) for x in house.doors_at_x),
    }


@pytest.mark.parametrize(("env_id", "mean", "most"), [(FULL, 62, 126), (MINI, 31, 64)])
def test_the_planner_reaches_every_cell(env_id: str, mean: float, most: int) -> None:
    cells = make_vec(env_id).get_attr("evaluation_goals")[0]
    vec = make_vec(env_id, len(cells))
    result = episodes(vec, expert(scripted_expert(env_id), vec), cells)
    assert result.share == 1.0
    assert result.final.all()  # it stays
    assert result.first.mean() == pytest.approx(mean, abs=1)
    assert result.first.max() <= most


@pytest.mark.parametrize("name", HOUSES)
def test_the_planner_goes_from_anywhere_to_anywhere(name: str) -> None:
    maze = MAZES[name]
    rng, n = np.random.default_rng(0), 1500
    here = maze.free_positions(1000, 0)[rng.integers(1000, size=n)]
    here = np.round(here) + np.clip(here - np.round(here), -0.39, 0.39)
    goal = rng.uniform(maze.low, maze.high, (n, 2))  # in walls, too
    policy = RoomsExpert(name)
    nearest = np.full(n, np.inf)
    for _ in range(2 * 10 * maze.size):
        observation = {"observation": here, "achieved_goal": here, "desired_goal": goal}
        here = maze.move(here, policy.act(observation, step(n)))
        nearest = np.minimum(nearest, np.linalg.norm(here - goal, axis=1))
    # The middle of a wall is 0.62 from where the expert goes; a corner of the house 0.17.
    assert nearest.max() < 0.62 * np.sqrt(2)
    in_walls = ~free(maze, goal)
    assert nearest[~in_walls].max() < 0.12 * np.sqrt(2) + 1e-6
    assert 0.05 < in_walls.mean() < 0.2


def free(maze: Any, points: np.ndarray) -> np.ndarray:
    columns, rows = np.round(points).astype(int).T + np.array(maze.origin[::-1])[:, None]
    return ~maze.walls[rows, columns]


def test_noise_hardly_hurts_the_planner() -> None:
    vec = make_vec(FULL, 200, seed=1, goals="square")
    policy = scripted_expert(FULL)
    assert episodes(vec, expert(policy, vec, 0.1, 0.1)).share == 1.0
    assert episodes(vec, expert(policy, vec, 0.3, 0.5)).share >= 0.95


def test_the_pusher_pushes() -> None:
    vec = make_vec(PUSHER, 40, seed=2)
    result = episodes(vec, expert(scripted_expert(PUSHER), vec))
    assert result.share >= 0.95
    assert result.final.mean() >= 0.95
    assert result.first.mean() == pytest.approx(28, abs=4)


def test_the_pusher_gets_worse_with_noise() -> None:
    vec = make_vec(PUSHER, 25, seed=2)
    policy = scripted_expert(PUSHER)
    shares = [
        episodes(vec, expert(policy, vec, *noise)).share for noise in ((0.1, 0.1), (0.2, 0.4))
    ]
    assert shares[0] > 0.85
    assert shares[1] < 0.7
