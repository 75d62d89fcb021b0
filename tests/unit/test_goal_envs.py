"""Four Rooms: the map, the check values of the page, and the batch that is the single one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from goal_testing import episodes, greedy, random_actions
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her import HerReplayBuffer

from rlzoo.core.seeding import stream
from rlzoo.envs import TrainingVecEnv, make_env, make_vec, policy_for
from rlzoo.envs.goals.maze import FOUR_ROOMS, MINI_FOUR_ROOMS, Maze
from rlzoo.envs.goals.rooms_vec import FourRoomsVecEnv
from rlzoo.errors import RefusedError

FULL, MINI = "rlzoo/FourRooms-v0", "rlzoo/MiniFourRooms-v0"
SIZES = {FULL: (488, 300, 1.0), MINI: (104, 100, 0.5)}  # free cells, T, threshold


# --- the task ------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", SIZES)
def test_the_tasks_are_those_of_the_page(env_id: str) -> None:
    cells, limit, threshold = SIZES[env_id]
    env: Any = make_env(env_id)
    vec = make_vec(env_id, 3)
    assert isinstance(vec, FourRoomsVecEnv)
    for evaluation_goals in (
        env.get_wrapper_attr("evaluation_goals"),
        *vec.get_attr("evaluation_goals"),
    ):
        assert evaluation_goals.shape == (cells, 2)
    assert vec.get_attr("distance_threshold") == [threshold] * 3
    assert env.spec.max_episode_steps == limit
    assert vec.get_attr("spec", [1])[0].max_episode_steps == limit
    assert make_vec(env_id, 1, max_episode_steps=7).get_attr("spec")[0].max_episode_steps == 7
    assert vec.observation_space == env.observation_space
    assert {name: space.shape for name, space in env.observation_space.items()} == dict.fromkeys(
        ("observation", "achieved_goal", "desired_goal"), (2,)
    )
    assert policy_for(env.observation_space) == "MultiInputPolicy"


def test_the_map_has_doors_where_the_page_says() -> None:
    assert FOUR_ROOMS.walls.shape == (25, 25)
    assert (FOUR_ROOMS.low == -19.5).all()
    assert (FOUR_ROOMS.high == 3.5).all()
    door_cells = [(6, 12), (12, 6), (12, 18), (18, 12)]
    assert not any(FOUR_ROOMS.walls[door] for door in door_cells)
    inner = FOUR_ROOMS.walls[1:-1, 1:-1]
    assert inner.sum() == 2 * 23 - 1 - 4
    assert MINI_FOUR_ROOMS.walls[1:6, 1:6].sum() == 0
    assert MINI_FOUR_ROOMS.walls.sum() == 13 * 13 - 104


@pytest.mark.parametrize("env_id", SIZES)
def test_both_checkers_are_content(env_id: str) -> None:
    env = make_env(env_id).unwrapped
    check_env(env, skip_render_check=True)
    sb3_check_env(env)
    frame: Any = make_env(env_id, render_mode="rgb_array")
    frame.reset(seed=0)
    image = frame.render()
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


@pytest.mark.parametrize(("env_id", "expected"), [(FULL, 0.297), (MINI, 0.356)])
def test_straight_lines_reach_what_the_page_says(env_id: str, expected: float) -> None:
    vec = make_vec(env_id, SIZES[env_id][0])
    goals = vec.get_attr("evaluation_goals", [0])[0]
    assert episodes(vec, greedy(0.2), goals).share == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("env_id", SIZES)
def test_random_actions_reach_little(env_id: str) -> None:
    vec = make_vec(env_id, SIZES[env_id][0])
    goals = vec.get_attr("evaluation_goals", [0])[0]
    shares = [episodes(vec, random_actions(vec, seed), goals).share for seed in range(5)]
    assert np.mean(shares) == pytest.approx(0.03, abs=0.02)


# --- walls ---------------------------------------------------------------------------------------


def squares_overlap(maze: Maze, points: np.ndarray) -> np.ndarray:
    """Whether squares of half-size 0.1 overlap a wall, cell by cell."""
    hit = np.zeros(len(points), bool)
    for row, column in np.argwhere(maze.walls):
        middle = np.array([column - maze.origin[1], row - maze.origin[0]])
        hit |= (np.abs(points - middle) < 0.6 - 1e-9).all(1)
    return hit


@pytest.mark.parametrize("maze", [FOUR_ROOMS, MINI_FOUR_ROOMS], ids=["full", "mini"])
def test_no_point_ever_enters_a_wall(maze: Maze) -> None:
    rng = np.random.default_rng(0)
    points = maze.cells.copy()
    direction = rng.uniform(-1, 1, points.shape)
    farthest = 0.0
    for t in range(300):
        if t % 25 == 0:
            direction = rng.uniform(-1.5, 1.5, points.shape)
        actions = np.clip(direction + 0.3 * rng.normal(size=points.shape), -1, 1)
        moved = maze.move(points, actions)
        farthest = max(farthest, np.abs(moved - points).max())
        points = moved
        assert not squares_overlap(maze, points).any(), t
    assert farthest == pytest.approx(0.2)


def test_a_wall_blocks_one_axis_only() -> None:
    start = np.array([[3.0, 0.0]])  # the outer wall begins at x = 3.5
    point = start
    for _ in range(5):
        point = FOUR_ROOMS.move(point, np.array([[1.0, 0.5]]))
    assert 3.34 < point[0, 0] < 3.4 + 1e-9
    assert point[0, 1] == pytest.approx(0.5)


# --- goals ---------------------------------------------------------------------------------------


def test_training_goals_are_free_and_drawn_once_per_run() -> None:
    vec = make_vec(FULL, 4, seed=3)
    first, *others = vec.get_attr("training_goals")
    assert first.shape == (300, 2)
    for other in others:
        np.testing.assert_array_equal(first, other)
    single: Any = make_env(FULL, goal_seed=stream(3, "goals"))
    np.testing.assert_array_equal(single.unwrapped.training_goals, first)
    copies = make_vec(FULL, 2, seed=3, backend="gymnasium")
    np.testing.assert_array_equal(copies.get_attr("training_goals")[1], first)
    assert not np.array_equal(make_vec(FULL, 1, seed=4).get_attr("training_goals")[0], first)
    cell = np.round(first - FOUR_ROOMS.cells[0]).astype(int)  # columns, rows from (1, 1)
    assert not FOUR_ROOMS.walls[cell[:, 1] + 1, cell[:, 0] + 1].any()
    allowed = {tuple(goal) for goal in first.astype(np.float32).tolist()}
    seen = {tuple(vec.reset()["desired_goal"][0].tolist()) for _ in range(200)}  # type: ignore[index]
    assert seen <= {tuple(np.float32(g).tolist()) for g in allowed}
    assert len(seen) > 100


def test_goals_of_demonstrations_are_anywhere_in_the_square() -> None:
    vec = make_vec(FULL, 2000, goals="square")
    goals: Any = vec.reset()
    goals = goals["desired_goal"]
    assert goals.min() < -19.4
    assert goals.max() > 3.4
    assert (goals >= -19.5).all()
    assert (goals <= 3.5).all()
    walls = squares_overlap(FOUR_ROOMS, goals).mean()
    assert 0.05 < walls < 0.3  # inner walls are included
    np.testing.assert_allclose(np.histogram(goals, 5)[0] / goals.size, 0.2, atol=0.03)


def test_a_goal_can_be_asked_for() -> None:
    env = make_env(FULL)
    observation, _ = env.reset(seed=0, options={"goal": (1.0, -2.0)})
    np.testing.assert_array_equal(observation["desired_goal"], [1, -2])
    with pytest.raises(RefusedError, match="not a goal"):
        env.reset(options={"goal": (1.0, 9.0)})
    with pytest.raises(RefusedError, match="not a goal"):
        env.reset(options={"goal": (1.0, 2.0, 3.0)})
    vec = make_vec(FULL, 2, max_episode_steps=3)
    vec.set_options([{"goal": (0.5, 0.5)}, {}])
    asked: Any = vec.reset()
    np.testing.assert_array_equal(asked["desired_goal"][0], [0.5, 0.5])
    for _ in range(3):
        asked = vec.step(np.zeros((2, 2)))[0]
    assert asked["desired_goal"][0].tolist() != [0.5, 0.5]  # for one episode only


def test_rewards_follow_from_goals() -> None:
    env: Any = make_env(FULL).unwrapped
    near, far = np.array([0.3, 0.4]), np.array([0.6, 0.8])  # 0.5 and 1.0, which is not below 1
    assert env.compute_reward(near, np.zeros(2), {}) == 0.0
    assert env.compute_reward(far, np.zeros(2), {}) == -1.0
    many = env.compute_reward(np.stack([near, far]), np.zeros((2, 2)), None)
    assert many.dtype == np.float32
    assert many.tolist() == [0, -1]
    assert make_vec(FULL, 2).env_method("compute_reward", near, far, {}, indices=[0]) == [0.0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"goals": "circle"}, "circle"),
        ({"n_goals": 0}, "n_goals"),
        ({"distance_threshold": 0.0}, "distance_threshold"),
        ({"maze": "huge"}, "huge"),
        ({"backend": "envpool"}, "envpool"),
        ({"color": 1}, "color"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        make_vec(FULL, 2, **arguments)


# --- one and many --------------------------------------------------------------------------------


def same(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for name, part in ours.items():
        np.testing.assert_array_equal(part, theirs[name])
        assert part.dtype == theirs[name].dtype


@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [(FULL, {}), (MINI, {"goals": "square"}), (MINI, {"max_episode_steps": 13})],
    ids=["full", "square", "short"],
)
def test_the_batch_is_the_single_one_to_the_bit(env_id: str, arguments: dict[str, Any]) -> None:
    n, rng = 5, np.random.default_rng(1)
    batch = make_vec(env_id, n, seed=2, **arguments)
    copies = make_vec(env_id, n, seed=2, backend="gymnasium", **arguments)
    assert isinstance(batch, FourRoomsVecEnv)
    assert isinstance(copies, DummyVecEnv)
    ends = 0
    for begun in range(2):  # the second reset has no seeds, but a goal
        for vec in (batch, copies):
            vec.set_options([{"goal": (-1.0, -1.0)}, *[{}] * (n - 1)] if begun else {})
        same(batch.reset(), copies.reset())
        for t in range(2 * SIZES[env_id][1] // 3 + 120):
            actions = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
            actions += (0.5 if t % 40 < 20 else -0.5) * (t % 3 > 0)
            actions = np.clip(actions, -1, 1)
            ours, theirs = batch.step(actions), copies.step(actions)
            same(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])
            np.testing.assert_array_equal(ours[2], theirs[2])
            for mine, other in zip(ours[3], theirs[3], strict=True):
                ends += "episode" in mine
                if "episode" in mine:
                    same(mine.pop("terminal_observation"), other.pop("terminal_observation"))
                    del mine["episode"]["t"], other["episode"]["t"]
                assert mine == other
    assert ends >= n


def test_a_run_goes_on_where_it_was() -> None:
    """Exact resume: seeds and actions bring a fresh vector into the same state."""
    one, other = (TrainingVecEnv(make_vec(MINI, 3, seed=1)) for _ in range(2))
    one.reset()
    rng = np.random.default_rng(0)
    for _ in range(130):
        one.step(rng.uniform(-1, 1, (3, 2)).astype(np.float32))
    assert one.seeds is not None
    last: Any = other.replay(one.seeds, one.actions_since_barrier(), one.resets_since_barrier())
    for _ in range(120):
        actions = rng.uniform(-1, 1, (3, 2)).astype(np.float32)
        ours, theirs = one.step(actions), other.step(actions)
        same(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
    assert last["observation"].shape == (3, 2)


@pytest.mark.parametrize("backend", ["batched", "gymnasium"])
def test_sb3s_hindsight_buffer_takes_it(backend: str) -> None:
    vec = make_vec(MINI, 2, backend=backend, max_episode_steps=10)
    buffer = HerReplayBuffer(
        100, vec.observation_space, vec.action_space, vec, "cpu", n_envs=2, n_sampled_goal=4  # type: ignore[arg-type]
    )  # fmt: skip
    observation: Any = vec.reset()
    for _ in range(30):
        actions = np.random.default_rng(0).uniform(-1, 1, (2, 2)).astype(np.float32)
        following, rewards, dones, infos = vec.step(actions)
        stored = {name: part.copy() for name, part in following.items()}  # type: ignore[union-attr]
        for index in np.flatnonzero(dones):
            for name, part in infos[index]["terminal_observation"].items():
                stored[name][index] = part
        buffer.add(observation, stored, actions, rewards, dones, infos)
        observation = following
    sampled = buffer.sample(64, None)
    reached = (
        sampled.next_observations["achieved_goal"] - sampled.next_observations["desired_goal"]
    ).norm(dim=1) < 0.5
    assert reached.any()
    np.testing.assert_array_equal(sampled.rewards[:, 0].numpy(), reached.float().numpy() - 1)


def test_ids_are_registered() -> None:
    own = {FULL, MINI, "rlzoo/BlockPusher-v0", "rlzoo/FetchStackTwo-v0"}
    assert own <= set(gym.registry)


# --- without the extra ---------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("envpool") is not None, reason="envpool is installed")
def test_fetch_names_the_extra_where_envpool_is_missing() -> None:
    alone = find_spec("gymnasium_robotics") is not None
    for make in (make_env, make_vec):
        with pytest.raises(RefusedError) as refused:
            make("FetchPickAndPlace-v4")
        assert 'pip install "rlzoo[goals]"' in str(refused.value)
        assert ("backend='gymnasium'" in str(refused.value)) == alone


@pytest.mark.skipif(find_spec("gymnasium_robotics") is not None, reason="it is installed")
@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [
        ("FetchPickAndPlace-v4", {"backend": "gymnasium"}),
        ("PointMaze_UMaze-v3", {"render_mode": "rgb_array"}),
        ("rlzoo/FetchStackTwo-v0", {}),
        ("HandReach-v3", {}),
    ],
)
def test_what_needs_gymnasium_robotics_names_the_extra(
    env_id: str, arguments: dict[str, Any]
) -> None:
    for make in (make_env, make_vec):
        with pytest.raises(RefusedError, match=r"gymnasium.robotics") as refused:
            make(env_id, **arguments)
        assert 'pip install "rlzoo[goals]"' in str(refused.value)


def test_old_versions_of_fetch_are_refused_with_the_reason() -> None:
    with pytest.raises(RefusedError, match="starts elsewhere") as refused:
        make_env("FetchPickAndPlace-v3")
    assert "FetchPickAndPlace-v4" in str(refused.value)
    assert "251" in str(refused.value)
