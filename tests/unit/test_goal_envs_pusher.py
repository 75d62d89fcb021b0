"""Block pusher: its rules, its physics, and the way back to where a run was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from goal_testing import episodes, random_actions
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from rlzoo.envs import TrainingVecEnv, make_env, make_vec
from rlzoo.envs.goals.pusher import BlockPusher
from rlzoo.errors import RefusedError

PUSHER = "rlzoo/BlockPusher-v0"


def test_the_task_is_that_of_the_page() -> None:
    env: Any = make_env(PUSHER)
    assert env.spec.max_episode_steps == 100
    assert env.get_wrapper_attr("distance_threshold") == 0.3
    sizes = {name: space.shape for name, space in env.observation_space.items()}
    assert sizes == {"observation": (6,), "achieved_goal": (4,), "desired_goal": (4,)}
    assert env.action_space.shape == (2,)
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation["observation"], [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(observation["achieved_goal"], [0, 0, 1, 0])
    goals = np.array([env.reset()[0]["desired_goal"] for _ in range(500)])
    assert (np.abs(goals) <= 1).all()
    assert (np.abs(goals[:, :2] - goals[:, 2:]).max(1) >= 0.5).all()
    assert (goals.max(0) > 0.9).all()
    assert (goals.min(0) < -0.9).all()


def test_both_checkers_are_content() -> None:
    env = make_env(PUSHER).unwrapped
    check_env(env, skip_render_check=True)
    sb3_check_env(env)


def test_random_actions_reach_little() -> None:
    vec = make_vec(PUSHER, 40)
    assert episodes(vec, random_actions(vec)).share <= 0.03


def test_a_point_goes_where_the_action_says() -> None:
    env = BlockPusher()
    env.reset(seed=0)
    rng, place = np.random.default_rng(0), np.zeros(2)
    for _ in range(20):
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        if place[0] + 0.2 * action[0] > 0.55:  # stay away from the box
            action[0] = -abs(action[0])
        observation = env.step(action)[0]
        place += 0.2 * action
        np.testing.assert_allclose(observation["achieved_goal"][:2], place, atol=1e-3)
    np.testing.assert_array_equal(observation["achieved_goal"][2:], [1, 0])


@pytest.mark.parametrize("beside", [0.0, 0.25, -0.25])
def test_a_box_is_pushed_straight(beside: float) -> None:
    """Off the middle of its face, too; with coarse substeps it would jump aside."""
    env = BlockPusher()
    env.reset(seed=0)
    env.step(np.array([0, beside / 0.2]).clip(-1, 1).astype(np.float32))
    env.step(np.array([0, beside / 0.2 - np.sign(beside)]).clip(-1, 1).astype(np.float32))
    for _ in range(6):
        observation = env.step(np.array([1, 0], np.float32))[0]
    x, y, box_x, box_y, *_ = observation["observation"]
    assert x == pytest.approx(1.2, abs=0.01)
    assert y == pytest.approx(beside, abs=0.01)
    assert box_x - x == pytest.approx(0.4, abs=0.02)  # radius and half a side
    assert box_y == pytest.approx(0, abs=0.01)


def test_success_is_a_distance_in_all_four_numbers() -> None:
    env = make_env(PUSHER)
    env.reset(seed=0, options={"goal": (0.1, 0.1, 1.1, 0.1)})
    *_, info = env.step(np.zeros(2, np.float32))
    assert info["is_success"]  # 0.2
    env.reset(options={"goal": (0.2, 0.2, 1.2, 0.2)})
    _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert not info["is_success"]  # 0.4
    assert (reward, terminated, truncated) == (-1, False, False)
    with pytest.raises(RefusedError, match="not a goal"):
        env.reset(options={"goal": (1.0, 2.0)})


def test_a_run_goes_on_where_it_was() -> None:
    one, other = (TrainingVecEnv(make_vec(PUSHER, 2, seed=1)) for _ in range(2))
    one.reset()
    rng = np.random.default_rng(0)
    for _ in range(130):
        one.step(np.array([0.8, 0], np.float32) + rng.uniform(-0.2, 0.2, (2, 2)).astype("f4"))
    assert one.seeds is not None
    other.replay(one.seeds, one.actions_since_barrier(), one.resets_since_barrier())
    for _ in range(30):
        actions = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
        ours: Any = one.step(actions)[0]
        theirs: Any = other.step(actions)[0]
        for name, part in ours.items():
            np.testing.assert_array_equal(part, theirs[name])
