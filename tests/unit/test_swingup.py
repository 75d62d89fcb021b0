"""Cart-pole swing-up: equations of motion, rewards, starts, batches (paper page, 4.1, test 1)."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_sb3

from rlzoo.core.simulator_vec import SimulatorVecEnv
from rlzoo.core.swingup import LIMIT, CartPoleSwingUp
from rlzoo.envs import TrainingVecEnv, check_api, make_vec
from rlzoo.envs.swingup import draw

EASY, HARD = "rlzoo/CartPoleSwingUp-v0", "rlzoo/CartPoleSwingUpHard-v0"

# State, action, next state, reward, terminated: measured, to ten digits.
TRANSITIONS = [
    ((0, 0, math.pi, 0), 1, (0, 0.16, math.pi, -0.4), 0, False),
    ((0, 0, 0, 0), 1, (0, 0.16, 0, 0.4), 1, False),
    ((0.5, -0.3, 2.0, 1.5), -0.4, (0.497, -0.3606416863, 2.015, 1.7863221331), 0.2701781132, False),
    ((-1.2, 2.0, 0.3, -4.0), 2, (-1.18, 2.1540160554, 0.26, -3.5596068951), 0.7042644814, False),
    ((2.39, 5, 1, 0), 0, (2.44, 5.0131859358, 1, 0.2243921056), -0.0201602069, True),
]


@pytest.mark.parametrize(("state", "action", "after", "reward", "ended"), TRANSITIONS)
def test_reference_transitions(
    state: tuple[float, ...], action: float, after: tuple[float, ...], reward: float, ended: bool
) -> None:
    env: Any = gym.make(EASY).unwrapped
    env.reset(seed=0)
    env.state = state
    _, got, terminated, truncated, _ = env.step(np.array([action]))
    assert env.state == pytest.approx(after, abs=1e-9)
    assert got == pytest.approx(reward, abs=1e-9)
    assert (terminated, truncated) == (ended, False)

    task = CartPoleSwingUp()
    states = th.tensor([state, state], dtype=th.float64)
    stepped, seen, rewards, over = task.step(states, th.full((2, 1), action, dtype=th.float64))
    th.testing.assert_close(stepped[1], th.tensor(after, dtype=th.float64), atol=1e-9, rtol=0)
    assert rewards.tolist() == pytest.approx([reward] * 2, abs=1e-9)
    assert over.tolist() == [ended] * 2
    th.testing.assert_close(seen, task.observe(stepped))
    foreseen = task.foresee(task.observe(states), th.full((2, 1), action, dtype=th.float64))
    th.testing.assert_close(foreseen, seen, atol=1e-12, rtol=0)


def test_hanging_at_rest_stays() -> None:
    task = CartPoleSwingUp()
    state = th.tensor([[0.0, 0.0, math.pi, 0.0]], dtype=th.float64)
    for _ in range(100):
        state, _, reward, _ = task.step(state, th.zeros(1, 1, dtype=th.float64))
    th.testing.assert_close(state, th.tensor([[0.0, 0.0, math.pi, 0.0]], dtype=th.float64))
    assert float(reward) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("env_id", [EASY, HARD])
def test_the_batch_is_the_environment_step_by_step(env_id: str) -> None:
    """Over ends of episodes; rounding grows near upright, hence the tolerance."""
    batch, copies = make_vec(env_id, 3, seed=5), make_vec(env_id, 3, seed=5, backend="gymnasium")
    assert isinstance(batch, SimulatorVecEnv)
    assert batch.observation_space == copies.observation_space
    np.testing.assert_array_equal(batch.reset(), copies.reset())
    rng = np.random.default_rng(0)
    push, ends = np.zeros((3, 1), np.float32), 0
    for step in range(1_010):
        if step % 20 == 0:
            push = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        (one, reward, done, infos), (other, expected, over, theirs) = (
            vec.step(push) for vec in (batch, copies)
        )
        np.testing.assert_array_equal(done, over)
        np.testing.assert_allclose(one, other, atol=1e-3, rtol=1e-3)
        np.testing.assert_allclose(reward, expected, atol=1e-3)
        for mine, yours in zip(infos, theirs, strict=True):
            assert mine["TimeLimit.truncated"] == yours["TimeLimit.truncated"]
            if "episode" in yours:
                ends += 1
                assert mine["episode"]["l"] == yours["episode"]["l"]
                assert mine["episode"]["r"] == pytest.approx(yours["episode"]["r"], abs=0.05)
                last = (mine["terminal_observation"], yours["terminal_observation"])
                np.testing.assert_allclose(*last, atol=1e-3, rtol=1e-3)
    assert ends >= 3


def test_starts() -> None:
    rng = np.random.default_rng(0)
    easy, hard = (CartPoleSwingUp(hard).start(rng, (100, 200)) for hard in (False, True))
    hanging = np.array([0, 0, math.pi, 0])
    assert easy.shape == (100, 200, 4)
    np.testing.assert_allclose(easy.mean((0, 1)), hanging, atol=0.01)
    np.testing.assert_allclose(easy.std((0, 1)), 0.2, atol=0.005)
    high = np.array([LIMIT, 10, math.pi / 2, 10])
    spread = np.abs(hard - hanging).max((0, 1))
    assert (spread <= high).all()
    assert (spread > 0.99 * high).all()
    np.testing.assert_allclose(hard.std((0, 1)), high / math.sqrt(3), rtol=0.02)


def test_a_third_of_the_hard_starts_is_lost() -> None:
    """Full braking keeps 66.6 % on the track (page, 4.1): hence the ceiling near 630."""
    task = CartPoleSwingUp(hard=True)
    state = th.from_numpy(task.start(np.random.default_rng(1), (6_000,)))
    brake = -state[:, 1:2].sign()
    moving = kept = th.ones(len(state), dtype=th.bool)
    for _ in range(150):
        state, _, _, ended = task.step(state, brake)
        kept = kept & ~(moving & ended)
        moving = moving & (state[:, 1:2] * brake < 0).squeeze(1)
    assert not moving[kept].any()
    assert float(kept.float().mean()) == pytest.approx(0.666, abs=0.02)


@pytest.mark.parametrize("env_id", [EASY, HARD])
def test_the_checkers_have_nothing_to_say(env_id: str) -> None:
    env = gym.make(env_id, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        check_sb3(env.unwrapped)
    check_api(env, env_id)
    assert env.render().shape == (400, 600, 3)
    assert gym.make(env_id).unwrapped.render() is None


def test_the_picture_shows_the_pole_where_it_is() -> None:
    up, right = draw(0, 0), draw(0, math.pi / 2)
    pole = (200, 90, 40)
    assert (up[150, 300] == pole).all()  # 0.5 m above the axle
    assert (right[200, 350] == pole).all()
    assert not (up[250, 300] == pole).any(-1).all()
    assert not (up == right).all()
    assert (draw(1.0, 0)[150, 400] == pole).all()


@pytest.mark.parametrize("backend", ["batched", "gymnasium"])
def test_a_fresh_vector_takes_over_the_state_of_another(backend: str) -> None:
    def make(seed: int) -> TrainingVecEnv:
        return TrainingVecEnv(make_vec(HARD, 2, seed=seed, backend=backend))

    rng = np.random.default_rng(0)
    one, other = make(3), make(4)
    first = one.reset()
    assert not np.array_equal(first, make(4).reset())
    for _ in range(300):
        last = one.step(rng.uniform(-1, 1, (2, 1)).astype(np.float32))[0]
    assert one.seeds is not None
    again = other.replay(one.seeds, one.actions_since_barrier(), one.resets_since_barrier())
    np.testing.assert_array_equal(again, last)
    actions = rng.uniform(-1, 1, (300, 2, 1)).astype(np.float32)
    for action in actions:
        np.testing.assert_array_equal(one.step(action)[0], other.step(action)[0])


def test_a_batch_refuses_what_it_does_not_have() -> None:
    vec = SimulatorVecEnv(CartPoleSwingUp(), 2)
    with pytest.raises(RuntimeError, match="reset"):
        vec.step(np.zeros((2, 1)))
    vec.reset()
    with pytest.raises(ValueError, match="shape"):
        vec.step(np.zeros((3, 1)))
    with pytest.raises(AttributeError, match="gymnasium"):
        vec.get_attr("state")
    with pytest.raises(AttributeError):
        vec.set_attr("state", 0)
    with pytest.raises(AttributeError):
        vec.env_method("render")
    assert vec.get_images() == [None, None]


class _Runaway(CartPoleSwingUp):
    """Its velocity is infinite after the third step of a start at 0."""

    def step(self, state: th.Tensor, action: th.Tensor) -> Any:
        after, seen, reward, ended = super().step(state, action)
        lost = after[..., 0] > 1
        return after, th.where(lost[..., None], th.inf, seen), reward, ended


def test_what_is_not_finite_ends_an_episode() -> None:
    vec = SimulatorVecEnv(_Runaway(), 2)
    vec.reset()
    vec.states[0] = th.tensor([0.995, 1.0, math.pi, 0.0])
    observations, rewards, dones, infos = vec.step(np.zeros((2, 1)))
    assert dones.tolist() == [True, False]
    assert rewards[0] == 0
    assert np.isfinite(observations).all()
    assert np.isfinite(infos[0]["terminal_observation"]).all()
    assert not infos[0]["TimeLimit.truncated"]


def test_sb3_learns_in_it() -> None:
    model = PPO("MlpPolicy", make_vec(EASY, 4), n_steps=16, batch_size=32, n_epochs=1, seed=0)
    assert model.learn(128).num_timesteps == 128
