"""Fetch and PointMaze in both back ends, stacking, and the shim for gymnasium-robotics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goal_testing import episodes, random_actions
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rlzoo.envs import TrainingVecEnv, check_api, compat, make_env, make_vec
from rlzoo.errors import RefusedError

pytest.importorskip("envpool", reason='needs pip install "rlzoo[goals]"')
pytest.importorskip("gymnasium_robotics", reason='needs pip install "rlzoo[goals]"')

from rlzoo.envs.goals.pool import GoalPoolEnv, GoalPoolVecEnv

BACKENDS = ("envpool", "gymnasium")
SIZES = {  # observation, goal, action, T
    "FetchReach-v4": (10, 3, 4, 50),
    "FetchPush-v4": (25, 3, 4, 50),
    "FetchSlide-v4": (25, 3, 4, 50),
    "FetchPickAndPlace-v4": (25, 3, 4, 50),
    "PointMaze_UMaze-v3": (4, 2, 2, 300),
    "PointMaze_Medium-v3": (4, 2, 2, 600),
    "PointMaze_Large_Diverse_GR-v3": (4, 2, 2, 800),
}
PICK, REACH, STACK = "FetchPickAndPlace-v4", "FetchReach-v4", "rlzoo/FetchStackTwo-v0"


def rollout(vec: VecEnv, steps: int, seed: int = 0) -> list[Any]:
    act = random_actions(vec, seed)
    first: Any = vec.reset()
    return [first, *(vec.step(act(first)) for _ in range(steps))]


# --- both back ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", SIZES)
def test_both_back_ends_have_the_same_spaces(env_id: str) -> None:
    size, goal, action, limit = SIZES[env_id]
    for backend in BACKENDS:
        env: Any = make_env(env_id, backend=backend)
        assert {name: space.shape for name, space in env.observation_space.items()} == {
            "observation": (size,), "achieved_goal": (goal,), "desired_goal": (goal,),
        }  # fmt: skip
        assert env.action_space.shape == (action,)
        assert env.spec.max_episode_steps == limit
        threshold = 0.05 if env_id.startswith("Fetch") else 0.45
        assert env.get_wrapper_attr("distance_threshold") == threshold
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        env.close()
    ours, theirs = (make_vec(env_id, 1, backend=backend) for backend in BACKENDS)
    assert isinstance(ours, GoalPoolVecEnv)
    assert isinstance(theirs, DummyVecEnv)
    assert ours.observation_space == theirs.observation_space
    assert list(ours.observation_space) == list(theirs.observation_space)  # type: ignore[call-overload]
    assert ours.action_space == theirs.action_space


def test_envpool_is_the_default() -> None:
    assert isinstance(make_env(REACH), GoalPoolEnv)
    assert isinstance(make_vec(REACH, 2), GoalPoolVecEnv)
    assert isinstance(make_vec(REACH, 1, render_mode="rgb_array"), DummyVecEnv)
    with pytest.raises(RefusedError, match="batched"):
        make_env(REACH, backend="batched")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", [REACH, PICK, "FetchPushDense-v4", "PointMaze_UMaze-v3"])
def test_rewards_are_those_that_the_environment_computes(env_id: str, backend: str) -> None:
    vec = make_vec(env_id, 3, backend=backend, max_episode_steps=30)
    for observation, rewards, dones, infos in rollout(vec, 25)[1:]:
        assert not dones.any()
        asked = vec.env_method(
            "compute_reward", observation["achieved_goal"], observation["desired_goal"], {},
            indices=[0],
        )[0]  # fmt: skip
        np.testing.assert_allclose(rewards, asked, rtol=1e-6)
        threshold = vec.get_attr("distance_threshold")[0]
        away = np.linalg.norm(observation["achieved_goal"] - observation["desired_goal"], axis=1)
        assert [info["is_success"] for info in infos] == (away < threshold).tolist()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", [REACH, "PointMaze_UMaze-v3"])
def test_episodes_end_as_sb3_expects(env_id: str, backend: str) -> None:
    """envpool itself resets in the next step and ignores the action of that step."""
    vec = make_vec(env_id, 2, seed=4, backend=backend, max_episode_steps=5, positions_only=2)
    assert vec.get_attr("spec")[0].max_episode_steps == 5
    assert vec.env_is_wrapped(Monitor) == [True, True]
    previous: Any = vec.reset()
    push = np.ones((2, *(vec.action_space.shape or ())), np.float32)
    for t in range(1, 16):
        observation, _, dones, infos = vec.step(push)
        assert dones.all() == dones.any() == (t % 5 == 0)
        assert all(info["TimeLimit.truncated"] == (t % 5 == 0) for info in infos)
        for index, info in enumerate(infos):
            last = info.get("terminal_observation")
            assert (last is not None) == (t % 5 == 0)
            following = last or {name: part[index] for name, part in observation.items()}
            assert following["observation"].shape == (2,)
            moved = np.abs(following["achieved_goal"] - previous["achieved_goal"][index]).max()
            # Every step moves it, also the first of an episode.
            assert 1e-4 < moved < 0.2, t
            same_goal = following["desired_goal"] == previous["desired_goal"][index]
            assert same_goal.all()
            if last is not None:
                assert info["episode"]["l"] == 5
                assert (observation["desired_goal"][index] != last["desired_goal"]).any()
        previous = observation


def test_a_copy_depends_on_its_own_seed_only() -> None:
    many = make_vec(PICK, 3, seed=7, max_episode_steps=4, num_threads=2)
    one = make_vec(PICK, 1, max_episode_steps=4)
    one._seeds = [many._seeds[2]]
    seen = rollout(many, 10)
    single: Any = one.reset()
    np.testing.assert_array_equal(single["observation"][0], seen[0]["observation"][2])
    act = random_actions(many)
    for observation, *_ in seen[1:]:
        single = one.step(act({})[2:])[0]
        np.testing.assert_array_equal(single["observation"][0], observation["observation"][2])


def test_a_run_in_envpool_goes_on_where_it_was() -> None:
    one, other = (TrainingVecEnv(make_vec(REACH, 2, seed=1)) for _ in range(2))
    one.reset()
    act = random_actions(one)
    for _ in range(60):
        one.step(act({}))
    assert one.seeds is not None
    other.replay(one.seeds, one.actions_since_barrier(), one.resets_since_barrier())
    for _ in range(45):
        actions = act({})
        ours: Any = one.step(actions)[0]
        theirs: Any = other.step(actions)[0]
        for name, part in ours.items():
            np.testing.assert_array_equal(part, theirs[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_positions_only_keeps_the_first_numbers(backend: str) -> None:
    full, short = (
        make_vec(PICK, 2, seed=3, backend=backend, max_episode_steps=3, **more)
        for more in ({}, {"positions_only": 10})
    )
    assert short.observation_space["observation"].shape == (10,)  # type: ignore[index]
    single = make_env(PICK, backend=backend, positions_only=10)
    assert single.reset(seed=0)[0]["observation"].shape == (10,)
    assert single.step(np.zeros(4, np.float32))[0]["observation"].shape == (10,)
    for one, other in zip(rollout(full, 7), rollout(short, 7), strict=True):
        first, second = (one, other) if isinstance(one, dict) else (one[0], other[0])
        np.testing.assert_array_equal(first["observation"][:, :10], second["observation"])
        np.testing.assert_array_equal(first["desired_goal"], second["desired_goal"])
    with pytest.raises(RefusedError, match="positions_only=26"):
        make_vec(PICK, 1, backend=backend, positions_only=26)


def test_single_environments_follow_the_api() -> None:
    check_api(make_env(PICK), PICK)
    check_api(make_env(PICK, backend="gymnasium"), PICK)
    check_env(make_env(REACH), skip_render_check=True)
    check_api(make_env("PointMaze_UMaze-v3"))


def test_what_is_refused() -> None:
    for env_id in ("FetchPickAndPlace-v3", "FetchReach-v1"):
        with pytest.raises(RefusedError, match="starts elsewhere") as refused:
            make_env(env_id)
        assert env_id.replace(env_id[-1], "4") in str(refused.value)
    with pytest.raises(RefusedError, match="options"):
        make_env(REACH).reset(options={"goal": (0, 0, 0)})
    vec = make_vec(REACH, 2)
    vec.set_options({"goal": (0, 0, 0)})
    with pytest.raises(RefusedError, match="options"):
        vec.reset()
    vec.reset()
    with pytest.raises(RefusedError, match="gravity"):
        make_vec(REACH, 1, gravity=2)
    with pytest.raises(RefusedError, match="max_episode_steps"):
        make_vec(REACH, 1, max_episode_steps=0)


# --- the shim ------------------------------------------------------------------------------------


def test_gymnasium_robotics_still_needs_the_shim() -> None:
    """Fails once upstream compares joint types in a way that works; then remove the shim."""
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            "import gymnasium, gymnasium_robotics; gymnasium.make('FetchReach-v4')",
        ],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(compat.__file__).parents[2])},
    )  # fmt: skip
    assert made.returncode == 1, "compat.integer_joints is no longer needed"
    assert "AssertionError" in made.stderr


def test_the_shim_passes_everything_else_on() -> None:
    make_env(REACH, backend="gymnasium")
    from gymnasium_robotics.utils import mujoco_utils

    patched: Any = mujoco_utils.mujoco  # type: ignore[attr-defined]
    assert isinstance(patched.mjtJoint.mjJNT_FREE, int)
    assert np.int32(3) in (patched.mjtJoint.mjJNT_HINGE, patched.mjtJoint.mjJNT_SLIDE)
    assert patched.mj_forward is sys.modules["mujoco"].mj_forward
    compat.integer_joints()
    assert mujoco_utils.mujoco is patched  # type: ignore[attr-defined]


def test_importing_it_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    code = "from rlzoo.envs import make_env; make_env('FetchReach-v4', backend='gymnasium')"
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(compat.__file__).parents[2])},
    )  # fmt: skip
    assert "Adroit" not in made.stderr


# --- stacking ------------------------------------------------------------------------------------


def test_the_stacking_task_is_that_of_the_page() -> None:
    env: Any = make_env(STACK)
    assert env.spec.max_episode_steps == 150
    assert env.observation_space["observation"].shape == (16,)
    assert env.observation_space["desired_goal"].shape == (6,)
    for seed in range(30):
        observation, _ = env.reset(seed=seed)
        numbers, goal = observation["observation"], observation["desired_goal"]
        gripper, cubes = numbers[:3], numbers[3:9].reshape(2, 3)
        np.testing.assert_array_equal(numbers[9:15].reshape(2, 3), cubes - gripper)
        np.testing.assert_array_equal(observation["achieved_goal"], cubes.ravel())
        np.testing.assert_allclose(goal, [*cubes[0], *(cubes[0] + (0, 0, 0.05))])
        away = np.linalg.norm((cubes - env.unwrapped.initial_gripper_xpos)[:, :2], axis=1)
        assert (away >= 0.1).all()
        assert (np.abs((cubes - env.unwrapped.initial_gripper_xpos)[:, :2]) <= 0.15).all()
        assert np.linalg.norm(cubes[0] - cubes[1]) >= 0.08
    check_env(env.unwrapped, skip_render_check=True)
    check_api(env, STACK)
    asked, _ = env.reset(options={"goal": np.full(6, 0.5)})
    assert (asked["desired_goal"] == 0.5).all()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_cube_beside_the_other_is_not_stacked(legacy: bool) -> None:
    env: Any = make_env(STACK, legacy_success=legacy).unwrapped
    goal = env.reset(seed=0)[0]["desired_goal"]
    below = goal[:3]
    beside = np.concatenate([below, below + (0.05, 0, 0)])  # noqa: RUF005
    above = np.concatenate([below, below + (0, 0, 0.05)])  # noqa: RUF005
    assert bool(env.success(beside, goal)) is legacy  # what the paper's code accepts
    assert env.success(above, goal)
    assert env.compute_reward(np.stack([above, beside]), np.stack([goal, goal]), {}).tolist() == [
        0.0, 0.0 if legacy else -1.0,
    ]  # fmt: skip
    lying = np.concatenate([below + (0.049, 0, 0), above[3:]])  # noqa: RUF005
    off = np.concatenate([below + (0.051, 0, 0), above[3:]])  # noqa: RUF005
    assert env.success(lying, goal)
    assert bool(env.success(off, goal)) is legacy
    assert env.distance_threshold == (0.08 if legacy else 0.05)


def test_random_actions_do_not_stack() -> None:
    vec = make_vec(STACK, 3, max_episode_steps=40)
    assert episodes(vec, random_actions(vec)).share == 0
