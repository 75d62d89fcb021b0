"""envpool behind SB3's interface: step by step like a ``DummyVecEnv`` of the same tasks."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlzoo.envs import TrainingVecEnv
from rlzoo.envs.envpool_vec import EnvpoolEnv, EnvpoolVecEnv
from rlzoo.errors import RefusedError

envpool: Any = pytest.importorskip("envpool", reason='needs pip install "rlzoo[coinrun]"')


def make(task: str, n_envs: int, seeds: list[int] | None = None, **kwargs: Any) -> EnvpoolVecEnv:
    vec = EnvpoolVecEnv(task, n_envs, **kwargs)
    vec._seeds = list(range(n_envs)) if seeds is None else list(seeds)
    return vec


def actions_for(vec: Any, steps: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (steps, vec.num_envs, *vec.action_space.shape)
    if isinstance(vec.action_space, spaces.Discrete):
        return rng.integers(vec.action_space.n, size=shape)
    return rng.uniform(vec.action_space.low, vec.action_space.high, shape).astype(np.float32)


# --- against DummyVecEnv -------------------------------------------------------------------------


def set_state(env: Any, observation: np.ndarray) -> None:
    """Bring Gymnasium's environment into the state that an observation shows."""
    env, values = env.unwrapped, observation.astype(np.float64)
    name = type(env).__name__
    if name == "CartPoleEnv":
        env.state, env.steps_beyond_terminated = values, None
    elif name == "PendulumEnv":
        env.state = np.array([np.arctan2(values[1], values[0]), values[2]])
    else:  # MuJoCo; the place along the track is not shown and changes nothing
        env.set_state(np.concatenate([[0.0], values[: env.model.nq - 1]]), values[-env.model.nv :])


@pytest.mark.parametrize(
    ("task", "limit", "own"),
    [
        ("CartPole-v1", None, 500),  # falls
        ("CartPole-v1", 12, 12),  # falls, is cut, or both in one step
        ("Pendulum-v1", None, 200),  # cut by the task
        ("Pendulum-v1", 7, 7),  # cut here
        ("Hopper-v4", 30, 30),
    ],
)
@pytest.mark.parametrize("monitor", [True, False])
def test_every_step_is_that_of_a_dummy_vec_env(
    task: str, limit: int | None, own: int, monitor: bool
) -> None:
    def one() -> Any:
        env = TimeLimit(gym.make(task).unwrapped, own)
        return Monitor(env) if monitor else env

    n_envs = 3
    ours, theirs = make(task, n_envs, step_limit=limit, monitor=monitor), DummyVecEnv(
        [one] * n_envs
    )  # fmt: skip
    assert ours.action_space.shape == theirs.action_space.shape
    assert ours.observation_space.shape == theirs.observation_space.shape
    seen, _ = ours.reset(), theirs.reset()
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}  # float32 in envpool's CartPole
    ends, kinds = 0, set()
    for row in actions_for(ours, 450):
        for index in range(n_envs):
            set_state(theirs.envs[index], seen[index])
        seen, rewards, dones, infos = ours.step(row)
        expected, their_rewards, their_dones, their_infos = theirs.step(row)
        np.testing.assert_array_equal(dones, their_dones)
        assert (seen.shape, rewards.dtype) == (expected.shape, their_rewards.dtype)
        np.testing.assert_allclose(rewards, their_rewards, **close)
        np.testing.assert_allclose(seen[~dones], expected[~dones], **close)
        for info, other in zip(infos, their_infos, strict=True):
            assert info["TimeLimit.truncated"] is bool(other["TimeLimit.truncated"])
            assert ("terminal_observation" in info) == ("terminal_observation" in other)
            assert ("episode" in info) == ("episode" in other)
            if "terminal_observation" in info:
                ends += 1
                kinds.add(info["TimeLimit.truncated"])
                end, true_end = info["terminal_observation"], other["terminal_observation"]
                np.testing.assert_allclose(end, true_end, **close)
            if "episode" in info:
                assert info["episode"].keys() == other["episode"].keys()
                assert info["episode"]["l"] == other["episode"]["l"]
                np.testing.assert_allclose(info["episode"]["r"], other["episode"]["r"], rtol=1e-3)
    assert ends >= 2 * n_envs
    assert kinds == {("CartPole-v1", None): {False}, ("CartPole-v1", 12): {False, True},
                     ("Hopper-v4", 30): {False, True}}.get((task, limit), {True})  # fmt: skip


def test_no_step_is_lost_and_none_is_made_up() -> None:
    """The pool alone needs one more step per episode, whose action and reward mean nothing."""
    vec = make("CartPole-v1", 3, seeds=[5, 6, 7])
    plain = [envpool.make_gymnasium("CartPole-v1", num_envs=1, seed=[s]) for s in (5, 6, 7)]
    seen = vec.reset()
    np.testing.assert_array_equal(seen, [pool.reset()[0][0] for pool in plain])
    for row in actions_for(vec, 200):
        seen, rewards, dones, infos = vec.step(row)
        for index, pool in enumerate(plain):
            last, reward, terminated, truncated, _ = pool.step(row[index : index + 1])
            assert dones[index] == (terminated | truncated)[0]
            assert rewards[index] == reward[0]
            if dones[index]:
                np.testing.assert_array_equal(infos[index]["terminal_observation"], last[0])
                last, reward, *_, info = pool.step(row[index : index + 1])
                assert (reward[0], info["elapsed_step"][0]) == (0, 0)
            np.testing.assert_array_equal(seen[index], last[0])


def test_dict_observations() -> None:
    vec = make("FetchReach-v4", 2)
    assert isinstance(vec.observation_space, spaces.Dict)
    seen = vec.reset()
    actions = actions_for(vec, 50)
    for row in actions:
        before = seen
        seen, _, dones, infos = vec.step(row)
    assert dones.all()  # after 50 steps
    for index, info in enumerate(infos):
        assert info["TimeLimit.truncated"]
        end = info["terminal_observation"]
        assert end.keys() == seen.keys()
        goal = "desired_goal"  # is that of the episode, not of the next one
        np.testing.assert_array_equal(end[goal], before[goal][index])
        assert (seen[goal][index] != end[goal]).any()


# --- seeds ---------------------------------------------------------------------------------------


def drive(vec: Any, actions: np.ndarray) -> list[Any]:
    seen = []
    for row in actions:
        observations, rewards, dones, infos = vec.step(row)
        for info in infos:
            info.get("episode", {}).pop("t", None)
        seen.append((observations.tobytes(), rewards.tobytes(), dones.tobytes(), repr(infos)))
    return seen


def test_a_copy_depends_on_its_seed_and_actions_only() -> None:
    whole, alone = make("CartPole-v1", 4, seeds=[1, 2, 3, 4]), make("CartPole-v1", 1, seeds=[3])
    np.testing.assert_array_equal(whole.reset()[2:3], alone.reset())
    for row in actions_for(whole, 150):
        ours, theirs = whole.step(row), alone.step(row[2:3])
        for part in range(3):
            np.testing.assert_array_equal(ours[part][2:3], theirs[part])


def test_the_number_of_threads_changes_nothing() -> None:
    found = []
    for threads in (1, 2, None):
        vec = make("Hopper-v4", 5, num_threads=threads, step_limit=20)
        found.append([vec.reset().tobytes(), *drive(vec, actions_for(vec, 80))])
    assert found[0] == found[1] == found[2]


def test_resets_go_on_in_the_stream_and_seeds_begin_it_again() -> None:
    vec = make("CartPole-v1", 2, seeds=[8, 9])
    first, second = vec.reset(), vec.reset()
    assert (first != second).any()
    vec.step(np.array([0, 1]))
    vec._seeds = [8, 9]
    np.testing.assert_array_equal(vec.reset(), first)
    np.testing.assert_array_equal(vec.reset(), second)
    vec.seed(8)  # adds the number of the copy, as SB3 does
    np.testing.assert_array_equal(vec.reset(), first)
    unseeded = EnvpoolVecEnv("CartPole-v1", 2)
    assert (unseeded.reset() != EnvpoolVecEnv("CartPole-v1", 2).reset()).any()


def test_large_seeds_fit() -> None:
    ends = [make("CartPole-v1", 1, seeds=[seed]).reset().tobytes() for seed in (2**32 - 1, 2**31)]
    assert ends[0] != ends[1]
    assert ends[1] == make("CartPole-v1", 1, seeds=[0]).reset().tobytes()  # 31 bits


@pytest.mark.parametrize("after", [0, 1, 60, 150])
def test_replay_brings_a_fresh_pool_into_the_same_state(after: int) -> None:
    vec = TrainingVecEnv(make("CartPole-v1", 3))
    vec.reset()
    drive(vec, actions_for(vec, 40))
    vec.barrier([11, 12, 2**32 - 1])
    drive(vec, actions_for(vec, after, seed=1))
    if after == 150:
        vec.reset()
        drive(vec, actions_for(vec, 30, seed=3))
    assert vec.seeds is not None
    again = TrainingVecEnv(make("CartPole-v1", 3, seeds=[0, 0, 0], num_threads=2))
    again.replay(vec.seeds, vec.actions_since_barrier(), vec.resets_since_barrier())
    later = actions_for(vec, 100, seed=2)
    assert drive(again, later) == drive(vec, later)


def test_a_reset_while_a_step_is_under_way() -> None:
    vec = make("CartPole-v1", 2, seeds=[8, 9])
    vec.reset()
    expected = vec.reset()
    vec._seeds = [8, 9]
    vec.reset()
    vec.step_async(np.array([0, 1]))
    np.testing.assert_array_equal(vec.reset(), expected)
    assert vec.step(np.array([0, 1]))[0].shape == (2, 4)


# --- the rest of the interface -------------------------------------------------------------------


def test_sb3_trains_and_evaluates_with_it(recwarn: pytest.WarningsRecorder) -> None:
    vec = make("CartPole-v1", 2)
    model = PPO("MlpPolicy", VecNormalize(vec), n_steps=64, seed=0, device="cpu").learn(256)
    assert len(model.ep_info_buffer or ()) > 0
    returns, lengths = evaluate_policy(model, vec, 5, return_episode_rewards=True)
    assert returns == lengths  # a reward of 1 per step
    warned = [str(w.message) for w in recwarn if "precision lowered" not in str(w.message)]
    assert not [text for text in warned if "Monitor" in text or "render" in text], warned


def test_what_copies_in_c_do_not_have() -> None:
    vec = make("CartPole-v1", 2)
    assert vec.get_attr("render_mode") == [None, None]
    assert vec.render_mode is None
    assert vec.env_is_wrapped(Monitor) == [True, True]
    assert vec.env_is_wrapped(TimeLimit, indices=1) == [False]
    assert make("CartPole-v1", 1, monitor=False).env_is_wrapped(Monitor) == [False]
    assert not vec.has_attr("state")
    for call in (lambda: vec.set_attr("state", 0), lambda: vec.env_method("render")):
        with pytest.raises(AttributeError, match="in envpool has no"):
            call()


@pytest.mark.parametrize(
    "actions", [[0], [0, 2], [-1, 0], [[0, 1], [0, 1]]], ids=["few", "large", "negative", "shape"]
)
def test_actions_that_c_would_not_notice(actions: list[Any]) -> None:
    vec = make("CartPole-v1", 2)
    with pytest.raises(RuntimeError, match=re.escape("reset()")):
        vec.step(np.array([0, 1]))
    vec.reset()
    with pytest.raises(ValueError, match="Actions"):
        vec.step(np.array(actions))
    assert vec.step(np.array([0, 1]))[0].shape == (2, 4)


def test_closing_ends_the_threads() -> None:
    def threads() -> int:
        return len(os.listdir(f"/proc/{os.getpid()}/task"))

    before = threads()
    vec = make("CartPole-v1", 4, num_threads=4)
    vec.reset()
    made = threads()
    assert made >= before + 4
    for _ in range(5):
        vec._seeds = [1, 2, 3, 4]
        vec.reset()
    assert threads() <= made  # those of the earlier pools are gone
    vec.close()
    assert threads() <= made - 4
    vec.close()


def test_threads_leave_a_core_for_the_agent() -> None:
    cores = len(os.sched_getaffinity(0))
    assert make("CartPole-v1", 64)._config["num_threads"] == max(1, cores - 1)
    assert make("CartPole-v1", 1)._config["num_threads"] == 1


def test_one_environment_with_gymnasiums_interface() -> None:
    env = EnvpoolEnv(make("CartPole-v1", 1))
    first, info = env.reset(seed=4)
    assert info == {}
    np.testing.assert_array_equal(first, make("CartPole-v1", 1, seeds=[4]).reset()[0])
    steps, terminated = 0, False
    while not terminated:
        observation, reward, terminated, truncated, _ = env.step(1)
        steps += 1
        assert (type(reward), type(terminated), truncated) == (float, bool, False)
    assert env.observation_space.contains(observation)
    assert steps < 15
    assert (env.reset()[0] != first).any()
    env.close()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: make("CartPole-v9", 1), "has no task 'CartPole-v9'"),
        (lambda: make("CartPole-v1", 1, gravity=3), "gravity"),
        (lambda: make("CartPole-v1", 1, num_threads=0), "num_threads=0 is out of range"),
        (lambda: make("CartPole-v1", 1, step_limit=0), "step_limit=0 is out of"),
    ],
)
def test_refusals(call: Any, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        call()
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_envpool_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(RefusedError, match="rlzoo\\[coinrun\\]"):
        make("CartPole-v1", 1)
