"""The vector of a training: it changes nothing, and a fresh one can take over its state."""

from __future__ import annotations

import copy
import importlib.util
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from rlzoo.core.seeding import stream
from rlzoo.envs import TrainingVecEnv, make_vec
from rlzoo.errors import RefusedError

LENGTHS = {
    "Pendulum-v1": 17,
    "CartPole-v1": 500,  # Falls after some 20 steps of random actions.
    "Acrobot-v1": 17,
    "MountainCarContinuous-v0": 17,
    "Hopper-v4": 1000,  # Falls after some 20 steps of random actions.
    "HalfCheetah-v4": 17,
    "Swimmer-v4": 17,
    "Reacher-v4": 17,
    "LunarLander-v3": 40,
}
"""Environments with a length of episode that makes several of them end here."""

LENGTHS_FOR_TEST = [
    pytest.param(
        env_id,
        marks=pytest.mark.skipif(
            env_id.startswith("Lunar") and importlib.util.find_spec("Box2D") is None,
            reason="Box2D is not installed",
        ),
    )
    for env_id in LENGTHS
]


@pytest.fixture(scope="module", autouse=True)
def quick_workers() -> None:
    """Import the heavy packages once instead of once per worker."""
    multiprocessing.set_forkserver_preload(["stable_baselines3.common.vec_env.subproc_vec_env"])


@pytest.fixture
def training_vec() -> Iterator[Callable[..., TrainingVecEnv]]:
    made: list[TrainingVecEnv] = []

    def make(env_id: str, *args: Any, **kwargs: Any) -> TrainingVecEnv:
        made.append(TrainingVecEnv(make_vec(env_id, *args, **kwargs)))
        return made[-1]

    yield make
    for vec in made:
        vec.close()


def random_actions(vec: Any, steps: int, seed: int = 0) -> np.ndarray:
    """Actions of shape [steps, n_envs, ...], in the dtype of the space."""
    space = copy.deepcopy(vec.action_space)
    space.seed(seed)
    return np.array([[space.sample() for _ in range(vec.num_envs)] for _ in range(steps)])


def drive(vec: Any, actions: np.ndarray) -> list[Any]:
    """Step through and return all that was seen, without the wall time of the episodes."""
    seen = []
    for row in actions:
        observations, rewards, dones, infos = vec.step(row.copy())
        for info in infos:
            info.get("episode", {}).pop("t", None)
        seen.append((observations, rewards, dones, list(infos), list(vec.reset_infos)))
    return seen


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal in every bit, type and key."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        assert_same(list(ours.values()), list(theirs.values()))
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(ours, (np.ndarray, np.generic)):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()
    else:
        assert ours == theirs


def episodes(seen: list[Any]) -> int:
    return sum(int(row[2].sum()) for row in seen)


# --- nothing changes -----------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["Hopper-v4", "CartPole-v1", "Pendulum-v1"])
def test_a_healthy_environment_is_left_as_it_is(env_id: str) -> None:
    """Against SB3's own vector of gymnasium.make, seeded the same way."""
    from stable_baselines3.common.monitor import Monitor

    plain = DummyVecEnv([lambda: Monitor(gym.make(env_id)) for _ in range(2)])
    plain._seeds = [stream(3, "env", index) for index in range(2)]
    ours = TrainingVecEnv(make_vec(env_id, 2, seed=3))
    assert_same(ours.reset(), plain.reset())
    actions = random_actions(plain, 250)
    expected = drive(plain, actions)
    assert episodes(expected) > 0
    assert_same(drive(ours, actions), expected)


class Counting(gym.Env[Any, Any]):
    """Says at every reset how often it was reset; an episode has one step."""

    def __init__(self) -> None:
        self.observation_space = self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.resets += 1
        return np.zeros(1, np.float32), {"resets": self.resets}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, True, False, {}


@pytest.mark.parametrize("vector", [DummyVecEnv, SubprocVecEnv])
def test_what_a_reset_said_is_passed_on(vector: type[Any]) -> None:
    vec = TrainingVecEnv(vector([Counting, Counting]))
    vec.reset()
    assert list(vec.reset_infos) == [{"resets": 1}, {"resets": 1}]
    vec.step(np.zeros((2, 1), np.float32))
    assert list(vec.reset_infos) == [{"resets": 2}, {"resets": 2}]
    vec.close()


def test_a_training_is_left_as_it_is() -> None:
    weights = []
    for wrap in (TrainingVecEnv, lambda vec: vec):
        vec = VecNormalize(wrap(make_vec("Pendulum-v1", 2)))
        model = PPO("MlpPolicy", vec, n_steps=64, n_epochs=2, seed=0, device="cpu").learn(256)
        weights.append(np.concatenate([p.detach().ravel() for p in model.policy.parameters()]))
    np.testing.assert_array_equal(weights[0], weights[1])


# --- replay --------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [False, True], ids=["here", "processes"])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("env_id", LENGTHS_FOR_TEST)
def test_a_fresh_vector_goes_on_bit_by_bit(
    env_id: str, n_envs: int, processes: bool, training_vec: Callable[..., TrainingVecEnv]
) -> None:
    kwargs = {"processes": processes, "max_episode_steps": LENGTHS[env_id]}
    first = training_vec(env_id, n_envs, seed=1, **kwargs)
    other = training_vec(env_id, n_envs, seed=2, **kwargs)
    actions = random_actions(first, 300)

    # From the first reset on, into a fresh vector that was made with another seed.
    first.reset()
    seen = drive(first, actions[:100])
    assert episodes(seen) >= 2 * n_envs
    log = first.actions_since_barrier()
    assert_same(log, actions[:100])
    assert_same(other.replay(first.seeds, log), seen[-1][0])
    assert_same(other.actions_since_barrier(), log)
    seen = drive(first, actions[100:150])
    assert_same(drive(other, actions[100:150]), seen)

    # The same again into the vector that has been replayed already.
    assert_same(other.replay(first.seeds, first.actions_since_barrier()), seen[-1][0])
    assert_same(drive(other, actions[150:180]), drive(first, actions[150:180]))

    # After a barrier in the middle of episodes, into a vector that has never been reset.
    seeds = [stream(9, "barrier", index) for index in range(n_envs)]
    start = first.barrier(seeds)
    seen = drive(first, actions[180:240])
    fresh = training_vec(env_id, n_envs, seed=5, **kwargs)
    assert_same(fresh.replay(seeds, actions[180:180]), start)
    assert_same(fresh.replay(first.seeds, first.actions_since_barrier()), seen[-1][0])
    seen = drive(first, actions[240:])
    assert episodes(seen) >= n_envs
    assert_same(drive(fresh, actions[240:]), seen)


def test_the_log_and_its_seeds(training_vec: Callable[..., TrainingVecEnv]) -> None:
    vec = training_vec("Pendulum-v1", 2, seed=4)
    assert vec.seeds is None
    vec.reset()
    assert vec.seeds == [stream(4, "env", 0), stream(4, "env", 1)]
    empty = vec.actions_since_barrier()
    assert (empty.shape, empty.dtype) == ((0, 2, 1), np.float32)
    vec.step(np.ones((2, 1), np.float32))
    assert vec.actions_since_barrier().shape == (1, 2, 1)
    vec.barrier([7, np.int64(8)])
    assert vec.seeds == [7, 8]
    assert vec.actions_since_barrier().shape == (0, 2, 1)
    discrete = training_vec("CartPole-v1", 3)
    discrete.reset()
    assert discrete.actions_since_barrier().shape == (0, 3)
    discrete.step(np.array([0, 1, 1]))
    assert_same(discrete.actions_since_barrier(), np.array([[0, 1, 1]]))


def test_barrier_seeds_as_a_reset_does(training_vec: Callable[..., TrainingVecEnv]) -> None:
    vec = training_vec("Pendulum-v1", 2, monitor=False)
    start = vec.barrier([11, 12])
    for index in range(2):
        expected, _ = gym.make("Pendulum-v1").reset(seed=11 + index)
        np.testing.assert_array_equal(start[index], expected)
    with pytest.raises(RefusedError, match="3 seeds"):
        vec.barrier([1, 2, 3])


def test_resets_without_a_seed_are_replayed_too(
    training_vec: Callable[..., TrainingVecEnv],
) -> None:
    vec, fresh = (training_vec("Pendulum-v1", 2, seed=seed) for seed in (0, 1))
    actions = random_actions(vec, 30)
    vec.reset()
    vec.reset()
    drive(vec, actions[:10])
    vec.reset()
    vec.reset()
    drive(vec, actions[10:15])
    last = vec.reset()
    assert vec.resets_since_barrier() == [0, 10, 10, 15]
    log = vec.actions_since_barrier()
    assert_same(fresh.replay(vec.seeds, log, vec.resets_since_barrier()), last)
    assert fresh.resets_since_barrier() == [0, 10, 10, 15]
    assert_same(fresh.actions_since_barrier(), log)
    assert_same(drive(fresh, actions[15:]), drive(vec, actions[15:]))
    vec.barrier([1, 2])
    assert vec.resets_since_barrier() == []


class Rude(gym.Env[Any, Any]):
    """Changes the action that it is given, and shows its dtype."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-9.0, 9.0, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        seen = action.copy()
        action *= 0
        return np.float32(seen), 0.0, False, False, {"dtype": str(seen.dtype)}


def test_what_is_logged_is_what_the_environment_got() -> None:
    vec = TrainingVecEnv(DummyVecEnv([Rude, Rude]))
    vec.reset()
    for dtype in (np.float32, np.float64):
        assert vec.step(np.full((2, 2), 0.1, dtype))[3][1] == {
            "dtype": "float32",
            "TimeLimit.truncated": False,
        }
    log = vec.actions_since_barrier()
    assert_same(log, np.full((2, 2, 2), 0.1, np.float32))
    vec.replay([0, 1], log)
    assert_same(log, np.full((2, 2, 2), 0.1, np.float32))
    assert_same(vec.actions_since_barrier(), log)
    with pytest.raises(TypeError):
        vec.step(np.ones((2, 2), np.complex64))


def test_normalisation_outside_is_not_touched_by_a_replay() -> None:
    vec = VecNormalize(TrainingVecEnv(make_vec("Pendulum-v1", 2)))
    vec.reset()
    drive(vec, random_actions(vec, 20))
    before = copy.deepcopy(vec.obs_rms)
    inner = vec.venv
    inner.replay(inner.seeds, inner.actions_since_barrier())
    assert vec.obs_rms.count == before.count
    np.testing.assert_array_equal(vec.obs_rms.mean, before.mean)


def test_an_error_that_no_environment_raised_stays_as_it_is() -> None:
    vec = TrainingVecEnv(make_vec("Pendulum-v1", 2))
    vec.reset()
    with pytest.raises(IndexError):
        vec.step(np.ones((1, 1), np.float32))
    vec.step(np.ones((2, 1), np.float32))
