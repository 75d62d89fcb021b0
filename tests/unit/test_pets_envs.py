"""The tasks of PETS against the page's values, MuJoCo's own kinematics, and their torch rewards."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch as th
from gymnasium.utils.env_checker import check_env

import rlzoo.envs  # noqa: F401 - registers the tasks
from rlzoo.core.mpc_tasks import get_task
from rlzoo.core.mpc_tasks.pets import end_effector

SIZES = {
    "rlzoo/PETSCartPole-v0": (4, 1, 200, 0.04, 3.0),
    "rlzoo/Reacher7DoF-v0": (17, 7, 150, 0.02, 20.0),
    "rlzoo/PETSPusher-v0": (20, 7, 150, 0.04, 2.0),
    "rlzoo/PETSHalfCheetah-v0": (18, 6, 1000, 0.05, 1.0),
    "rlzoo/Ant30-v0": (28, 8, 1000, 0.05, 1.0),
}
EVERY = pytest.mark.parametrize("env_id", SIZES)


def make(env_id: str) -> Any:
    return gym.make(env_id)


def returns(env_id: str, n: int, still: bool = False) -> np.ndarray:
    env = make(env_id)
    env.action_space.seed(0)
    found = np.zeros(n)
    for episode in range(n):
        env.reset(seed=episode)
        done = False
        while not done:
            action = env.action_space.sample()
            _, reward, terminated, done, _ = env.step(action * 0 if still else action)
            assert not terminated
            found[episode] += float(reward)
    return found


@EVERY
def test_sizes_and_gymnasium_checker(env_id: str) -> None:
    env = make(env_id)
    n_observations, n_actions, steps, dt, bound = SIZES[env_id]
    assert env.observation_space.shape == (n_observations,)
    assert env.action_space.shape == (n_actions,)
    assert env.action_space.high == pytest.approx(bound)
    assert env.spec is not None
    assert env.spec.max_episode_steps == steps
    assert env.unwrapped.dt == pytest.approx(dt)
    check_env(env.unwrapped, skip_render_check=True)
    copy = pickle.loads(pickle.dumps(env.unwrapped))
    assert (copy.reset(seed=5)[0] == env.unwrapped.reset(seed=5)[0]).all()


@EVERY
def test_the_known_reward_is_what_is_paid(env_id: str) -> None:
    env, task = make(env_id), get_task(env_id)
    task.check(*(SIZES[env_id][:2]))
    env.action_space.seed(1)
    observation, _ = env.reset(seed=1)
    rows = []
    for _ in range(60):
        action = env.action_space.sample()
        following, reward, *_ = env.step(action)
        rows.append((observation, action.astype(np.float64), following, reward))
        observation = following
    before, actions, after, paid = (
        th.as_tensor(np.array(part)) for part in zip(*rows, strict=True)
    )
    assert task.reward is not None
    # Gymnasium's cheetah squares actions in float32.
    tolerance = 1e-6 if "Cheetah" in env_id else 1e-12
    th.testing.assert_close(task.reward(before, actions, after), paid, rtol=0, atol=tolerance)


@EVERY
def test_the_known_reward_has_a_gradient(env_id: str) -> None:
    n_observations, n_actions = SIZES[env_id][:2]
    generator = th.Generator().manual_seed(0)
    after = th.randn(3, n_observations, generator=generator, dtype=th.float64, requires_grad=True)
    actions = th.randn(3, n_actions, generator=generator, dtype=th.float64, requires_grad=True)
    task = get_task(env_id)
    assert task.reward is not None
    reward = task.reward
    assert th.autograd.gradcheck(lambda a, o: reward(o.detach(), a, o), (actions, after))
    assert task.look(after).isfinite().all()


@pytest.mark.parametrize(
    ("env_id", "still", "mean", "deviation", "n"),
    [
        ("rlzoo/PETSCartPole-v0", False, -4.5, 0.8, 20),
        ("rlzoo/PETSCartPole-v0", True, 2.8, 0.7, 20),
        ("rlzoo/Ant30-v0", False, 16, 9, 6),
    ],
)
def test_returns_of_the_page(
    env_id: str, still: bool, mean: float, deviation: float, n: int
) -> None:
    """Within three standard errors; the page does not say of how many episodes its own are."""
    found = returns(env_id, n, still)
    assert abs(found.mean() - mean) < 3 * deviation / np.sqrt(n)


def test_the_end_effector_is_mujocos() -> None:
    """For all angles, also beyond the limits of the joints, where the formula of HoT fails."""
    env = make("rlzoo/Reacher7DoF-v0").unwrapped
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, (100, 7))
    found = end_effector(th.as_tensor(angles)).numpy()
    for row, expected in zip(angles, found, strict=True):
        env.data.qpos[:] = row
        mujoco.mj_kinematics(env.model, env.data)
        np.testing.assert_allclose(env.end_effector, expected, atol=1e-12)


def test_the_goal_of_the_arm_is_new_in_every_episode_and_seen() -> None:
    env = make("rlzoo/Reacher7DoF-v0")
    goals = np.array([env.reset(seed=seed)[0][7:10] for seed in range(400)])
    assert goals.mean(0) == pytest.approx([0, 0.25, 0], abs=4 * 0.1 / 20)
    assert goals.std(0) == pytest.approx(0.1, rel=0.15)
    assert env.step(np.zeros(7, np.float32))[0][7:10] == pytest.approx(goals[-1])
    assert get_task("rlzoo/Reacher7DoF-v0").dae_dims is not None
    assert not {7, 8, 9} & set(get_task("rlzoo/Reacher7DoF-v0").dae_dims or ())


def test_an_upright_pole_in_the_middle_earns_one() -> None:
    env = make("rlzoo/PETSCartPole-v0").unwrapped
    env.reset(seed=0)
    env.set_state(np.array([0, np.pi]), np.zeros(2))
    assert env._reward(env._get_obs(), np.zeros(1)) == pytest.approx(1)
    # The tip of the formula is the end of MuJoCo's pole, but for the millimetre that it leans.
    geom = env.data.geom("pole")
    tip = geom.xpos - geom.xmat.reshape(3, 3)[:, 2] * 0.3 * np.sign(-geom.xmat[8])
    assert tip[2] == pytest.approx(0.6, abs=1e-3)


def test_the_pusher_has_the_start_and_the_limit_of_pets() -> None:
    env = make("rlzoo/PETSPusher-v0")
    model = env.unwrapped.model
    assert model.joint("r_shoulder_pan_joint").range[1] == 2.0
    objects = np.array([env.reset(seed=seed)[0][17:20] for seed in range(300)])
    # Slides along y, then x, from (0.45, -0.05).
    assert objects.mean(0) == pytest.approx([0.6, -0.3, -0.275], abs=4 * 0.025 / np.sqrt(300))
    assert objects[:, :2].std(0) == pytest.approx(0.025, rel=0.15)


def test_velocities_are_those_of_the_body() -> None:
    for env_id in ("rlzoo/PETSHalfCheetah-v0", "rlzoo/Ant30-v0"):
        env = make(env_id)
        env.action_space.seed(0)
        first, _ = env.reset(seed=0)
        assert first[0] == 0
        start = env.unwrapped.data.qpos[0]
        seen = sum(env.step(env.action_space.sample())[0][0] for _ in range(100))
        moved = env.unwrapped.data.qpos[0] - start
        # The ant's is taken from bodies that are a hundredth of a second behind.
        assert seen * env.unwrapped.dt == pytest.approx(moved, abs=0.03)
    assert (make("rlzoo/Ant30-v0").unwrapped.model.actuator_gear[:, 0] == 30).all()
