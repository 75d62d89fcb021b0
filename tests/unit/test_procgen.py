"""CoinRun and Procgen: levels and their splits, ends, replay, arguments, blind policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo.agents.registry import get_agent
from rlzoo.config.resolve import resolve
from rlzoo.core.seeding import stream
from rlzoo.data.collect import collect
from rlzoo.data.policies import BatchPolicy
from rlzoo.envs import TrainingVecEnv, check_env_id, make_env, make_vec
from rlzoo.envs.blind import RightJump
from rlzoo.envs.procgen import GAMES, MAX_LEVEL, Levels, ProcgenVecEnv, levels_of
from rlzoo.errors import RefusedError
from rlzoo.runs.evaluate import RandomShare, make_eval_env, play_episodes, run_episodes
from rlzoo.runs.policies import RandomActions
from rlzoo.runs.train import environments

envpool: Any = pytest.importorskip("envpool", reason='needs pip install "rlzoo[coinrun]"')
try:
    make_vec("CoinRun")
except RefusedError as refused:
    pytest.skip(str(refused), allow_module_level=True)

RIGHT, JUMP_RIGHT, NOTHING = 7, 8, 4


def coinrun(n_envs: int = 1, **kwargs: Any) -> Any:
    return make_vec("CoinRun", n_envs, **kwargs)


def runs(steps: int, n_envs: int, seed: int = 0) -> np.ndarray:
    """Actions that finish levels: to the right, mostly with jumps."""
    jumps = np.random.default_rng(seed).random((steps, n_envs)) < 0.8
    return np.where(jumps, JUMP_RIGHT, RIGHT)


# --- levels --------------------------------------------------------------------------------------


def levels_played(episodes: int, **kwargs: Any) -> list[int]:
    """Levels of so many episodes, from the infos of their steps; cut short, as time is."""
    vec = coinrun(40, max_episode_steps=2, **kwargs)
    vec.reset()
    played: list[int] = []
    while len(played) < episodes:
        for done, info in zip(*vec.step(runs(1, 40)[0])[2:], strict=True):
            if done:
                played.append(info["level_seed"])
    return played


@pytest.mark.parametrize("levels", [{}, {"num_levels": 50, "start_level": 30}], ids=["200", "50"])
def test_test_levels_were_never_trained_on(levels: dict[str, int]) -> None:
    train = levels_played(2000, split="train", **levels)
    test = levels_played(2000, split="test", **levels)
    first, count = levels.get("start_level", 0), levels.get("num_levels", 200)
    assert set(train) == set(range(first, first + count))  # all of them come up
    assert set(train).isdisjoint(test)
    assert min(test) >= first + count
    assert len(set(test)) > 1990  # of two thousand millions
    assert np.mean(test) == pytest.approx(MAX_LEVEL / 2, rel=0.05)
    few = levels_played(600, split="test", test_levels=20, **levels)
    assert set(few) == set(range(first + count, first + count + 20))


def test_the_ranges_of_the_splits() -> None:
    assert levels_of("train", 200) == Levels(0, 200)
    assert levels_of("test", 200) == levels_of(None, 200) == Levels(200, MAX_LEVEL - 200)
    assert levels_of("test", 5, 7, 3) == Levels(12, 3)
    assert levels_of("train", 0) == levels_of(None, 0) == Levels(0, MAX_LEVEL)
    assert (199 in Levels(0, 200), 200 in Levels(0, 200)) == (True, False)


def test_trainings_and_evaluations_have_their_levels_by_themselves() -> None:
    assert coinrun(training=True).levels == coinrun(split="train").levels == Levels(0, 200)
    assert (
        coinrun().levels
        == coinrun(split="test").levels
        == coinrun(training=True, split="test").levels
    )
    hard: Any = make_vec("procgen/coinrun-hard-v0", split="train")
    assert hard.levels == coinrun(distribution="hard", split="train").levels == Levels(0, 500)
    overrides = ["run.env_kwargs={num_levels: 70, paint_vel_info: true}", "run.n_envs=2"]
    config = resolve(get_agent("ppo"), "CoinRun", overrides=overrides)
    with environments(config, seed=0) as vec:
        assert vec.unwrapped.levels == Levels(0, 70)  # type: ignore[attr-defined]
    evaluation: Any = make_eval_env("CoinRun", 2, **config.run_settings().env_kwargs)
    assert evaluation.levels.start == 70
    one: Any = make_env("CoinRun", training=True, num_levels=3, split="test").unwrapped
    assert one.pool.levels.start == 3


def test_the_level_that_is_told_is_the_level_that_is_played() -> None:
    vec = coinrun(3, split="train")
    first = vec.reset()
    for index in range(3):
        level = vec.reset_infos[index]["level_seed"]
        alone = coinrun(split="train", num_levels=1, start_level=level)
        np.testing.assert_array_equal(alone.reset()[0], first[index])
    now = [info["level_seed"] for info in vec.reset_infos]
    changes = 0
    for row in runs(150, 3):
        seen, _, dones, infos = vec.step(row)
        assert [info["level_seed"] for info in infos] == now
        for index in np.flatnonzero(dones):
            now[index] = vec.reset_infos[index]["level_seed"]
            alone = coinrun(split="train", num_levels=1, start_level=now[index])
            np.testing.assert_array_equal(alone.reset()[0], seen[index])
            changes += 1
    assert changes >= 3


# --- ends ----------------------------------------------------------------------------------------


def test_steps_are_those_of_envpool_without_the_step_between_episodes() -> None:
    vec = coinrun(4, seed=3, num_levels=0)
    seeds = [int(seed) & 0x7FFFFFFF for seed in vec._seeds]
    plain = [envpool.make_gymnasium("CoinrunEasy-v0", num_envs=1, seed=[s]) for s in seeds]
    seen = vec.reset()
    np.testing.assert_array_equal(seen, [pool.reset()[0][0] for pool in plain])
    assert (seen.dtype, seen.shape) == (np.uint8, (4, 3, 64, 64))
    ends: list[tuple[float, int]] = []
    for row in runs(220, 4):
        seen, rewards, dones, infos = vec.step(row)
        for index, pool in enumerate(plain):
            action = row[index : index + 1].astype(np.int32)
            last, reward, terminated, truncated, _ = pool.step(action)
            assert (rewards[index], dones[index]) == (reward[0], (terminated | truncated)[0])
            if dones[index]:
                info = infos[index]
                np.testing.assert_array_equal(info["terminal_observation"], last[0])
                assert info["TimeLimit.truncated"] is False
                assert info["episode"]["r"] == rewards[index]
                ends.append((float(reward[0]), info["prev_level_complete"]))
                last = pool.step(action)[0]
            np.testing.assert_array_equal(seen[index], last[0])
    assert {(10.0, 1), (0.0, 0)} == set(ends)  # the coin, and a fall or a saw


def test_the_time_limit_is_a_truncation() -> None:
    vec = coinrun(3, num_levels=0, seed=5)  # nothing happens to who does nothing
    previous = vec.reset()
    for step in range(1000):
        assert step == 0 or not dones.any()  # noqa: F821
        seen, rewards, dones, infos = vec.step(np.full(3, NOTHING))
        if step == 998:
            previous = seen
    assert dones.all()
    assert not rewards.any()
    for index, info in enumerate(infos):
        assert info["TimeLimit.truncated"] is True
        assert (info["episode"]["l"], info["prev_level_complete"]) == (1000, 0)
        change = np.abs(info["terminal_observation"].astype(int) - previous[index])
        assert change.mean() < 3  # the end of that level, not the start of the next one
        following = vec.reset_infos[index]["level_seed"]
        assert following != info["level_seed"]
        alone = coinrun(split="train", num_levels=1, start_level=following)
        np.testing.assert_array_equal(alone.reset()[0], seen[index])


def test_a_coin_in_the_step_of_the_limit_is_a_termination() -> None:
    """envpool calls it a truncation; here the pool is told another limit, to meet it often."""
    vec = coinrun(40, split="train", num_levels=1, start_level=3)
    vec.reset()
    steps = 0
    while True:
        steps += 1
        dones = vec.step(np.full(40, JUMP_RIGHT))[2]
        if dones.any():
            break
    vec._config["max_episode_steps"] = steps
    vec._pool = None
    vec.reset()
    for _ in range(steps):
        _, rewards, dones, infos = vec.step(np.full(40, JUMP_RIGHT))
    assert dones.all()
    assert (rewards == 10).all()
    assert not any(info["TimeLimit.truncated"] for info in infos)


def test_episodes_can_be_cut_earlier() -> None:
    vec = coinrun(2, max_episode_steps=5)
    vec.reset()
    ends = [vec.step(np.full(2, NOTHING)) for _ in range(10)]
    assert [bool(end[2].all()) for end in ends] == ([False] * 4 + [True]) * 2
    assert all(info["TimeLimit.truncated"] for info in ends[4][3] + ends[9][3])
    assert ends[9][3][0]["episode"]["l"] == 5


# --- seeds ---------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_frames_whatever_the_threads() -> None:
    one, other = (coinrun(4, seed=2, num_threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.reset(), other.reset())
    assert (coinrun(4, seed=1).reset() != one.reset()).any()
    other.reset()
    for row in runs(150, 4):
        ours, theirs = one.step(row), other.step(row)
        for part in range(3):
            np.testing.assert_array_equal(ours[part], theirs[part])


@pytest.mark.parametrize("after", [0, 30, 200])
def test_replay_brings_a_fresh_vector_into_the_same_state(after: int) -> None:
    vec = TrainingVecEnv(coinrun(3, training=True))
    vec.reset()
    for row in runs(40, 3):
        vec.step(row)
    vec.barrier([5, 6, 2**32 - 1])
    done = [vec.step(row)[2] for row in runs(after, 3, seed=1)]
    if after == 200:
        assert np.sum(done, axis=0).min() >= 2
    assert vec.seeds is not None
    again = TrainingVecEnv(coinrun(3, seed=8, training=True))
    again.replay(vec.seeds, vec.actions_since_barrier(), vec.resets_since_barrier())
    for row in runs(100, 3, seed=2):
        ours, theirs = vec.step(row), again.step(row)
        for part in range(3):
            np.testing.assert_array_equal(ours[part], theirs[part])
        assert [i["level_seed"] for i in ours[3]] == [i["level_seed"] for i in theirs[3]]


# --- some of the copies --------------------------------------------------------------------------


class Looks:
    """Acts on what it sees: runs, jumps, or stands, as the sum of the pixels says."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:  # fmt: skip
        sums = observation.reshape(len(observation), -1).sum(-1)
        return np.array([JUMP_RIGHT, RIGHT, JUMP_RIGHT, NOTHING])[sums % 4], state


def played_in_full(episodes: int, n_envs: int, seed: int, epsilon: float) -> list[tuple[int, ...]]:
    """Play as an evaluation does, but step every copy until the last episode is over."""
    vec = coinrun(n_envs, max_episode_steps=70)
    vec._seeds = [stream(seed, "eval", "eval", index) for index in range(n_envs)]
    seeds = [stream(seed, "eval", "eval", "epsilon", index) for index in range(n_envs)]
    share = RandomShare(vec.action_space, epsilon, seeds)
    left = np.array([(episodes + index) // n_envs for index in range(n_envs)])
    seen, found = vec.reset(), []
    while left.any():
        actions = share(Looks().predict(seen)[0], np.arange(n_envs))
        seen, _, dones, infos = vec.step(actions)
        for index in np.flatnonzero(dones & (left > 0)):
            left[index] -= 1
            found.append((infos[index]["episode"]["r"], infos[index]["episode"]["l"]))
    return found


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
@pytest.mark.parametrize(("episodes", "n_envs"), [(17, 5), (3, 5)])
def test_resting_copies_change_no_episode_and_are_not_stepped(
    episodes: int, n_envs: int, epsilon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    playing = min(n_envs, episodes)
    expected = played_in_full(episodes, playing, 4, epsilon)
    stepped = []
    receive = ProcgenVecEnv._receive

    def counted(self: ProcgenVecEnv) -> Any:
        batch = receive(self)
        stepped.append(len(batch.rewards))
        return batch

    monkeypatch.setattr(ProcgenVecEnv, "_receive", counted)
    vec = coinrun(n_envs, max_episode_steps=70)
    for _ in range(2):  # the copies that rested play again
        found = play_episodes(Looks(), vec, episodes, 4, epsilon=epsilon)
        assert list(zip(found.returns, found.lengths, strict=True)) == expected
        assert sum(stepped) < playing * len(stepped)
        # A copy steps as long as it has episodes left, and not one step longer.
        assert sum(stepped) == found.lengths.sum()
        stepped.clear()
    assert len(set(found.lengths)) > 1


def test_a_part_of_a_part_goes_on_where_the_copies_are() -> None:
    whole, vec = coinrun(5, seed=3), coinrun(5, seed=3)
    whole.reset(), vec.reset()
    rows, part = np.arange(5), vec
    for step, actions in enumerate(runs(160, 5)):
        if step in (10, 60):
            some = np.array([0, 2, 3]) if step == 10 else np.array([2, 1])
            rows, part = rows[some], part.some(some)
        ours, theirs = part.step(actions[rows]), whole.step(actions)
        for ours_part, theirs_part in zip(ours[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(ours_part, theirs_part[rows])
        for info, row in zip(ours[3], rows, strict=True):
            assert without_times(info) == without_times(theirs[3][row])
    assert [part.reset_infos[i] for i in range(2)] == [whole.reset_infos[row] for row in rows]
    assert rows.tolist() == [3, 2]
    part._seeds = [8, 9]
    alone = coinrun(2)
    alone._seeds = [8, 9]
    np.testing.assert_array_equal(part.reset(), alone.reset())
    for ours, theirs in zip(part.step(runs(1, 2)[0])[:3], alone.step(runs(1, 2)[0]), strict=False):
        np.testing.assert_array_equal(ours, theirs)


def without_times(info: dict[str, Any]) -> dict[str, Any]:
    """Compare what a step says, whatever the clock says."""
    plain = {name: value for name, value in info.items() if name != "terminal_observation"}
    if "episode" in info:
        plain["episode"] = {name: info["episode"][name] for name in "rl"}
        plain["end"] = info["terminal_observation"].tobytes()
    return plain


# --- games and arguments -------------------------------------------------------------------------


def test_every_game_in_every_distribution() -> None:
    known = {name for name in envpool.list_all_envs() if "Procgen" in str(_class_of(name))}
    ours = set()
    for game, distributions in GAMES.items():
        for distribution in distributions:
            vec: Any = make_vec(f"procgen/{game}-{distribution}-v0", 2)
            assert vec.reset().shape == (2, 3, 64, 64)
            vec.step(np.array([NOTHING, 0]))
            ours.add(vec.task)
            vec.close()
    assert ours == known
    assert len(GAMES) == 16


def _class_of(task: str) -> str:
    return str(envpool.registration.registry.envpools[task]["gymnasium"][1])


def test_exploration_is_one_level() -> None:
    vec = make_vec("procgen/coinrun-exploration-v0", 3, training=True)
    first = vec.reset()
    assert len({info["level_seed"] for info in vec.reset_infos}) == 1
    np.testing.assert_array_equal(first[0], first[1])


def test_the_actions_of_the_first_coinrun() -> None:
    few, all_of_them = coinrun(7, reduced_actions=True), coinrun(7)
    assert few.action_space == spaces.Discrete(7)
    np.testing.assert_array_equal(few.reset(), all_of_them.reset())
    for _ in range(12):
        seen = few.step(np.arange(7))[0]
        np.testing.assert_array_equal(seen, all_of_them.step(np.array([4, 7, 1, 5, 8, 2, 3]))[0])
    with pytest.raises(ValueError, match="Actions"):
        few.step(np.full(7, 7))


def test_the_speed_can_be_painted_into_the_corner() -> None:
    plain, painted = coinrun(), coinrun(paint_vel_info=True)
    plain.reset(), painted.reset()
    for _ in range(10):
        one, other = plain.step(np.array([JUMP_RIGHT]))[0], painted.step(np.array([JUMP_RIGHT]))[0]
    different = (one[0] != other[0]).any(axis=0)
    assert different[:13, :26].mean() > 0.5
    assert not different[13:].any()
    assert not different[:, 26:].any()
    assert (coinrun(use_backgrounds=False).reset() != coinrun().reset()).any()


def test_one_environment_is_a_copy_of_the_vector() -> None:
    vec = coinrun(1, seed=4)
    env = make_env("CoinRun", render_mode="rgb_array")
    seen, info = env.reset(seed=vec._seeds[0])
    np.testing.assert_array_equal(seen, vec.reset()[0])
    assert info == vec.reset_infos[0]
    terminated, steps = False, 0
    while not terminated:
        seen, reward, terminated, truncated, info = env.step(JUMP_RIGHT)
        expected, rewards, dones, infos = vec.step(np.array([JUMP_RIGHT]))
        assert (reward, terminated, truncated) == (rewards[0], dones[0], False)
        last = infos[0]["terminal_observation"] if terminated else expected[0]
        np.testing.assert_array_equal(seen, last)
        steps += 1
    assert info["level_seed"] == infos[0]["level_seed"]
    frame: Any = env.render()
    assert frame.shape == (256, 256, 3)
    np.testing.assert_array_equal(frame[::4, ::4], seen.transpose(1, 2, 0))
    assert gym.make("CoinRun").reset(seed=1)[0].shape == (3, 64, 64)


def test_copies_one_by_one_are_the_same() -> None:
    """As videos have them; with the checks of the API on the way."""
    pool, copies = coinrun(2, seed=6), coinrun(2, seed=6, backend="gymnasium")
    assert isinstance(copies, DummyVecEnv)
    drawn = coinrun(2, seed=6, render_mode="rgb_array")
    drawn.reset()
    assert drawn.get_images()[1].shape == (256, 256, 3)
    np.testing.assert_array_equal(pool.reset(), copies.reset())
    for row in runs(120, 2):
        ours, theirs = pool.step(row), copies.step(row)
        for part in range(3):
            np.testing.assert_array_equal(ours[part], theirs[part])


def test_agents_take_the_images_as_they_are() -> None:
    vec = coinrun(2, training=True)
    ppo = PPO("CnnPolicy", vec, n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(16)
    assert ppo.get_env() is vec  # no wrapper that moves the channels


# --- policies that do not look -------------------------------------------------------------------


def test_who_does_not_look_scores_as_it_did() -> None:
    """400 episodes gave 6.3 +- 0.24 and 2.5 +- 0.22; `benchmarks/coinrun_blind.py` repeats it."""
    vec = coinrun(60, num_levels=0)
    returns, _ = run_episodes(RightJump(vec.action_space, seed=0), vec, 180, seed=0)
    assert 5.0 <= returns.mean() <= 7.6
    random = RandomActions(vec.action_space)
    random.set_random_seed(0)
    returns, lengths = run_episodes(random, vec, 60, seed=0)
    assert returns.mean() < 4.5
    assert 0.15 < np.mean(lengths == 1000) < 0.6


def test_right_jump_acts_as_it_says() -> None:
    for space, right, jump in ((spaces.Discrete(15), 7, 8), (spaces.Discrete(7), 1, 4)):
        policy = RightJump(space, 0.3, seed=1)
        actions, state = policy.predict(np.zeros((4000, 3, 64, 64), np.uint8), "state")
        assert state == "state"
        assert set(actions.tolist()) == {right, jump}
        assert np.mean(actions == jump) == pytest.approx(0.3, abs=0.03)
        policy.set_random_seed(1)
        np.testing.assert_array_equal(policy.predict(np.zeros((4000, 1)))[0], actions)
        assert isinstance(policy, BatchPolicy)
        assert policy.describe() == {"kind": "right-jump", "p": 0.3}


def test_the_collector_takes_games_and_blind_policies() -> None:
    policy = RightJump(spaces.Discrete(15))
    data = collect(lambda: make_env("CoinRun", split="train"), policy, 300, seed=0, n_envs=2)
    assert data.observations.shape == (300, 3, 64, 64)
    assert set(np.unique(data.actions)) == {RIGHT, JUMP_RIGHT}
    assert data.rewards.sum() > 0


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: coinrun(split="test", num_levels=0), "none is left for a test"),
        (lambda: coinrun(num_levels=0, start_level=5), "none is left for a test or to start at"),
        (lambda: coinrun(split="validation"), "Allowed: 'train' or 'test'"),
        (lambda: coinrun(num_levels=-1), "num_levels=-1 is out of range"),
        (lambda: coinrun(num_levels=1.5), "num_levels=1.5 is not an integer"),
        (lambda: coinrun(start_level=2**31 - 100), "leaves none for the test"),
        (lambda: coinrun(distribution="medium"), "Allowed: easy, hard, exploration"),
        (lambda: coinrun(distribution="exploration", num_levels=3), "one level"),
        (lambda: make_vec("procgen/coinrun-hard-v0", distribution="easy"), "cannot be set"),
        (lambda: make_env("procgen/coinrun-hard-v0", game="maze"), "cannot be set"),
        (lambda: coinrun(paint_vel=True), "Did you mean 'paint_vel_info'"),
        (lambda: coinrun(paint_vel_info=1), "not a truth value"),
        (lambda: coinrun(use_sequential_levels=True), "belong to no split"),
        (lambda: coinrun(processes=True), "envpool, which has threads"),
        (lambda: coinrun(num_threads=0), "num_threads=0 is out of range"),
        (lambda: coinrun(max_episode_steps=0), "max_episode_steps=0 is out of range"),
        (lambda: coinrun(backend="procgen"), "Allowed: 'envpool' or 'gymnasium'"),
        (lambda: make_vec("procgen/maze-extreme-v0"), "procgen/maze-memory-v0"),
        (lambda: RightJump(spaces.Discrete(4)), "no right and no jump in Discrete(4)"),
        (lambda: RightJump(spaces.Discrete(15), p=1.5), "p=1.5 is out of range"),
    ],
)
def test_refusals(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        call()
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("env_id", "meant"),
    [
        ("coinrun", "CoinRun"),
        ("CoinRun-v0", "CoinRun"),
        ("procgen:procgen-coinrun-v0", "CoinRun"),
        ("procgen:procgen-maze-v0", "procgen/maze-easy-v0"),
        ("CoinrunHard-v0", "procgen/coinrun-hard-v0"),
        ("starpilot", "procgen/starpilot-easy-v0"),
    ],
)
def test_other_names_of_the_games(env_id: str, meant: str) -> None:
    with pytest.raises(RefusedError, match=f"Did you mean '{meant}'"):
        check_env_id(env_id)
