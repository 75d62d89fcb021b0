"""MultiRoom: the tasks of the paper, and a batched simulator that is minigrid to the bit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.utils.seeding import np_random
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo.core.seeding import stream
from rlzoo.envs import TrainingVecEnv, check_api, make_env, make_vec, policy_for
from rlzoo.envs.multiroom import TASKS, env_id
from rlzoo.errors import RefusedError

pytest.importorskip("minigrid", reason='needs pip install "rlzoo[minigrid]"')

from minigrid.envs import MultiRoomEnv
from minigrid.wrappers import FullyObsWrapper

from rlzoo.envs.multiroom.env import MultiRoom
from rlzoo.envs.multiroom.simulator import Levels, Simulator
from rlzoo.envs.multiroom.vec import MultiRoomVecEnv

EMPTY, DOOR, GOAL = 1, 4, 8
LEFT, RIGHT, FORWARD, TOGGLE = 0, 1, 2, 5
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))

TABLE = {  # page, section 4.3: rooms, grid, steps
    "N1": (1, 1, 11, 20),
    "N2": (2, 2, 11, 40),
    "N3": (3, 3, 11, 60),
    "N2r": (1, 3, 9, 60),
    "N3r": (1, 3, 11, 60),
    "N5r": (1, 5, 15, 100),
}


def reference(task: str) -> gym.Env[Any, Any]:
    """Minigrid as it is."""
    rooms = TASKS[task]
    env = MultiRoomEnv(
        rooms.min_rooms, rooms.max_rooms, rooms.room_size, rooms.grid_size, rooms.grid_size
    )
    return FullyObsWrapper(env)


def planes(observation: Any, legacy: bool = True) -> np.ndarray:
    """Minigrid's full observation as ours: channels first, the agent as in 2019."""
    image = observation["image"].transpose(2, 0, 1).copy()
    ((x, y),) = np.argwhere(image[0] == 10)
    if legacy:
        image[:, x, y] = 255, image[2, x, y], 0
    return image


def way(observation: np.ndarray) -> int:
    """The first action of a shortest way to the goal, by breadth-first search."""
    objects, _, states = observation
    ((x, y),) = np.argwhere(objects == 255).tolist()
    start = (x, y, int(observation[1, x, y]))
    queue, first = deque([start]), {start: -1}
    while queue:
        state = queue.popleft()
        x, y, d = state
        if objects[x, y] == GOAL:
            return first[state]
        a, b = x + AHEAD[d][0], y + AHEAD[d][1]
        moves = [(LEFT, (x, y, (d - 1) % 4)), (RIGHT, (x, y, (d + 1) % 4))]
        if objects[a, b] in (EMPTY, DOOR, GOAL):
            is_closed = objects[a, b] == DOOR and states[a, b] == 1
            moves.append((TOGGLE if is_closed else FORWARD, (a, b, d)))
        for action, following in moves:
            if following not in first:
                first[following] = action if state == start else first[state]
                queue.append(following)
    raise AssertionError("there is no way")


def walk(rng: np.random.Generator, observation: np.ndarray, wild: float) -> int:
    """Mostly the way to the goal, so that doors and goals are met; a share of random actions."""
    return int(rng.integers(7)) if rng.random() < wild else way(observation)


def actions(n: int, n_envs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(
        7, (n, n_envs), p=[0.14, 0.14, 0.42, 0.02, 0.02, 0.24, 0.02]
    )


# --- the tasks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TABLE)
def test_the_tasks_are_those_of_the_paper(task: str) -> None:
    fewest, most, size, steps = TABLE[task]
    env = gym.make(f"rlzoo/MultiRoom-{task}-v0")
    inner: Any = env.unwrapped
    assert (inner.minNumRooms, inner.maxNumRooms, inner.max_steps) == (fewest, most, steps)
    assert env.observation_space == gym.spaces.Box(0, 255, (3, size, size), np.uint8)
    assert env.action_space == gym.spaces.Discrete(7)
    counts, sides = set(), set()
    for seed in range(60):
        _, info = env.reset(seed=seed)
        counts.add(info["rooms"])
        sides |= {side for room in inner.rooms for side in room.size}
    assert counts == set(range(fewest, most + 1))
    assert sides == set(range(4, 8 if task == "N5r" else 7))


@pytest.mark.parametrize("legacy", [True, False])
def test_first_observations_are_minigrids(legacy: bool) -> None:
    env, theirs = make_env(env_id("N3r"), legacy_agent_code=legacy), reference("N3r")
    for seed in range(20):
        ours = env.reset(seed=seed)[0]
        np.testing.assert_array_equal(ours, planes(theirs.reset(seed=seed)[0], legacy))
        assert (ours[0] == 255).sum() == legacy
        assert set(np.unique(ours[0])) <= {1, 2, DOOR, GOAL, 255 if legacy else 10}


def test_the_environment_can_be_used_everywhere() -> None:
    env = make_env(env_id("N3r"))
    check_api(env)
    assert policy_for(env.observation_space) == "CnnPolicy"
    drawn = gym.make(env_id("N3r"), render_mode="rgb_array")
    drawn.reset(seed=0)
    frame: Any = drawn.render()
    assert frame.ndim == 3
    vec = make_vec(env_id("N3r"), render_mode="rgb_array", backend="batched")
    assert isinstance(vec, DummyVecEnv)  # only minigrid draws


# --- against minigrid, step by step --------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "episodes"),
    [("N1", 300), ("N2", 150), ("N3", 100), ("N2r", 150), ("N3r", 250), ("N5r", 50)],
)
def test_every_step_is_minigrids(task: str, episodes: int) -> None:
    """1000 episodes in all; levels, observations, rewards, terminations, truncations."""
    n, rng = 10, np.random.default_rng(7)
    vec = make_vec(env_id(task), n, seed=3)
    assert isinstance(vec, MultiRoomVecEnv)
    theirs = [reference(task) for _ in range(n)]
    ours = vec.reset()
    for index, env in enumerate(theirs):
        first = env.reset(seed=stream(3, "env", index))[0]
        np.testing.assert_array_equal(ours[index], planes(first))
    done, won, cut = 0, 0, 0
    while done < episodes:
        # Some of the environments hurry, others stray until the time is over.
        moves = [walk(rng, ours[i], (0.05, 0.3, 0.6, 1.0)[i % 4]) for i in range(n)]
        ours, rewards, dones, infos = vec.step(np.array(moves))
        for index, env in enumerate(theirs):
            seen, reward, terminated, truncated, _ = env.step(moves[index])
            last = planes(seen)
            assert rewards[index] == np.float32(reward)
            assert dones[index] == (terminated or truncated)
            if not dones[index]:
                assert infos[index] == {}
            else:
                done, won, cut = done + 1, won + terminated, cut + (truncated and not terminated)
                info = infos[index]
                np.testing.assert_array_equal(info["terminal_observation"], last)
                assert info["TimeLimit.truncated"] == (truncated and not terminated)
                assert info["is_success"] is (reward > 0)
                assert info["rooms"] == len(env.unwrapped.rooms)
                last = planes(env.reset()[0])
            np.testing.assert_array_equal(ours[index], last)
    assert won > episodes / 5
    assert cut > episodes / 40


def test_the_goal_in_the_very_last_step_is_no_time_limit() -> None:
    vec = make_vec(env_id("N1"), 1, seed=5, max_steps=6, monitor=False)
    found = set()
    rng, observation = np.random.default_rng(0), vec.reset()
    for _ in range(3000):
        observation, reward, done, infos = vec.step(np.array([walk(rng, observation[0], 0.3)]))
        if done[0] and 0 < reward[0] < 0.101:
            found.add((bool(infos[0]["is_success"]), bool(infos[0]["TimeLimit.truncated"])))
    assert found == {(True, False)}


@pytest.mark.parametrize("device", [None, "cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_tensors_and_arrays_go_the_same_way(device: str | None) -> None:
    if device == "cuda" and not th.cuda.is_available():
        pytest.skip("there is no CUDA device")
    env = make_env(env_id("N3r")).unwrapped
    assert isinstance(env, MultiRoom)
    levels = [env.level(np_random(seed)[0]) for seed in range(60)]
    arrays, others = Simulator(40, 11, 60), Simulator(40, 11, 60, device=device)
    known, same = Levels.stack(levels), Levels.stack(levels, device)

    def there(values: Any) -> Any:
        return values if device is None else th.as_tensor(values, device=device)

    def here(values: Any) -> np.ndarray:
        return values if device is None else values.cpu().numpy()

    rng, ends = np.random.default_rng(0), 0
    everywhere = np.arange(40)
    arrays.place(everywhere, known[everywhere])
    others.place(there(everywhere), same[there(everywhere)])
    for row in actions(200, 40):
        one, other = arrays.step(row), others.step(there(row))
        for ours, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(ours, here(theirs))
        over = np.flatnonzero(one.terminated | one.truncated)
        picks = rng.integers(60, size=len(over))
        arrays.place(over, known[picks])
        others.place(there(over), same[there(picks)])
        np.testing.assert_array_equal(arrays.observations, here(others.observations))
        ends += len(over)
    assert ends > 100


# --- the vector ----------------------------------------------------------------------------------


def drive(vec: Any, rows: np.ndarray) -> list[Any]:
    seen = []
    for row in rows:
        observations, rewards, dones, infos = vec.step(row)
        ends = [
            (info["episode"]["r"], info["episode"]["l"], info["is_success"], info["rooms"],
             info["TimeLimit.truncated"], info["terminal_observation"].tobytes())
            for info, done in zip(infos, dones, strict=True) if done
        ]  # fmt: skip
        resets = [info["rooms"] for info in vec.reset_infos]
        seen.append((observations.tobytes(), rewards.tobytes(), dones.tobytes(), ends, resets))
    return seen


@pytest.mark.parametrize(
    "kwargs", [{}, {"num_levels": 7, "start_level": 3}, {"legacy_agent_code": False}]
)
def test_the_batch_is_the_vector_of_single_environments(kwargs: dict[str, Any]) -> None:
    batch = make_vec(env_id("N1"), 3, seed=1, **kwargs)
    single = make_vec(env_id("N1"), 3, seed=1, backend="gymnasium", **kwargs)
    assert isinstance(batch, MultiRoomVecEnv)
    assert isinstance(single, DummyVecEnv)
    assert batch.observation_space == single.observation_space
    for vec in (batch, single):
        assert vec.env_is_wrapped(Monitor) == [True] * 3
    rows = actions(150, 3)
    np.testing.assert_array_equal(batch.reset(), single.reset())
    expected = drive(single, rows)
    assert sum(len(row[3]) for row in expected) > 20
    assert drive(batch, rows) == expected
    for vec in (batch, single):  # a reset in the middle, and SB3's way to seed
        vec.reset()
    assert drive(batch, rows[:30]) == drive(single, rows[:30])
    for vec in (batch, single):
        vec.seed(11)
    np.testing.assert_array_equal(batch.reset(), single.reset())


def test_what_was_returned_stays_as_it_was() -> None:
    """SB3 adds the last observation to its buffer after the next step."""
    vec = make_vec(env_id("N3r"), 4)
    seen = [vec.reset()]
    kept = [seen[0].copy()]
    for row in actions(30, 4):
        seen.append(vec.step(row)[0])
        kept.append(seen[-1].copy())
    np.testing.assert_array_equal(seen, kept)


def test_seeds() -> None:
    first = [make_vec(env_id("N3r"), 3, seed=seed).reset() for seed in (0, 0, 1)]
    np.testing.assert_array_equal(first[0], first[1])
    assert (first[0] != first[2]).any(axis=(1, 2, 3)).all()
    assert len({row.tobytes() for row in first[0]}) == 3
    free = MultiRoomVecEnv(MultiRoom(1, 3), 2)  # without seeds the system gives some
    assert len({row.tobytes() for row in free.reset()}) == 2


def test_a_finite_number_of_levels() -> None:
    one = make_env(env_id("N1"))
    allowed = {one.reset(seed=seed)[0].tobytes() for seed in range(3, 10)}
    vec = make_vec(env_id("N1"), 4, num_levels=7, start_level=3)
    starts = {row.tobytes() for row in vec.reset()}
    for row in actions(300, 4):
        observations, _, dones, _ = vec.step(row)
        starts |= {start.tobytes() for start in observations[dones]}
    assert starts == allowed


@pytest.mark.parametrize("after", [1, 25, 120])
def test_replay_brings_a_fresh_vector_into_the_same_state(after: int) -> None:
    vec = TrainingVecEnv(make_vec(env_id("N3r"), 3, seed=0))
    vec.reset()
    drive(vec, actions(50, 3))
    vec.barrier([5, 6, 7])
    drive(vec, actions(after, 3, seed=1))
    assert vec.seeds == [5, 6, 7]
    again = TrainingVecEnv(make_vec(env_id("N3r"), 3, seed=9))
    again.replay(vec.seeds, vec.actions_since_barrier(), vec.resets_since_barrier())
    rows = actions(100, 3, seed=2)
    assert drive(again, rows) == drive(vec, rows)


@pytest.mark.parametrize(("task", "published"), [("N1", 0.23), ("N3r", 0.16)])
def test_success_of_random_actions(task: str, published: float) -> None:
    vec = make_vec(env_id(task), 100, seed=0)
    vec.reset()
    wins: dict[int, list[bool]] = {}
    for row in np.random.default_rng(0).integers(7, size=(500, 100)):
        for info in vec.step(row)[3]:
            if info:
                wins.setdefault(info["rooms"], []).append(info["is_success"])
    every = [win for part in wins.values() for win in part]
    assert len(every) > 600
    assert abs(np.mean(every) - published) < 0.04
    if task == "N3r":  # almost all of it comes from levels with one room
        assert set(wins) == {1, 2, 3}
        assert np.mean(wins[1]) > 0.35
        assert np.mean(wins[2]) < 0.05
        assert np.mean(wins[3]) < 0.05


def test_every_level_can_be_solved_in_time() -> None:
    vec = make_vec(env_id("N3"), 20, seed=0)
    observations, left = vec.reset(), set(range(20))
    for _ in range(60):
        step = vec.step(np.array([way(row) for row in observations]))
        observations = step[0]
        for index in [i for i in left if step[2][i]]:
            assert step[3][index]["is_success"]
            left.discard(index)
    assert not left


# --- refusals ------------------------------------------------------------------------------------


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(RefusedError) as caught:
        call()
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_levels": -1}, "num_levels=-1 is out of range"),
        ({"start_level": 5}, "start_level=5 without num_levels"),
        ({"max_steps": 0}, "max_steps=0 is out of range"),
        ({"max_rooms": 0}, "max_rooms=0 is out of range"),
        ({"room_size": 3}, "room_size=3 is out of range"),
        ({"levels": 5}, "levels"),
        ({"backend": "envpool"}, "no backend 'envpool'"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], said: str) -> None:
    assert said in refusal(lambda: make_vec(env_id("N3r"), **arguments))


def test_an_unknown_task() -> None:
    assert "rlzoo/MultiRoom-N3r-v0" in refusal(lambda: make_env("rlzoo/MultiRoom-N4r-v0"))
    assert "no split 'test'" in refusal(lambda: make_vec(env_id("N3r"), split="test"))


@pytest.mark.parametrize("row", [[0, 7], [0, -1], [0], [[0, 1]]])
def test_actions_that_do_not_fit(row: list[Any]) -> None:
    vec = make_vec(env_id("N3r"), 2)
    vec.reset()
    with pytest.raises(ValueError, match="Actions"):
        vec.step(np.array(row))


def test_single_environments_are_not_there() -> None:
    vec = make_vec(env_id("N3r"), 2)
    assert vec.get_attr("max_steps") == [60, 60]
    for call in (
        lambda: vec.get_attr("agent_pos"),
        lambda: vec.set_attr("agent_pos", 0),
        lambda: vec.env_method("hash"),
    ):
        with pytest.raises(AttributeError, match="backend"):
            call()
