"""Apples and fires: rules, starts, batches, and the published baselines (paper page, 4.2)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_sb3

from rlzoo.core.foraging import STEPS, WIDTH, AppleFireGrid
from rlzoo.core.simulator_vec import SimulatorVecEnv
from rlzoo.envs import TrainingVecEnv, check_api, make_vec
from rlzoo.errors import RefusedError

GRID = "rlzoo/AppleFireGrid-v0"
CELLS = WIDTH * WIDTH
DOWN, UP, RIGHT, LEFT, STAY = range(5)


def one_hot(actions: Any) -> th.Tensor:
    return th.eye(5, dtype=th.float64)[th.as_tensor(actions)]


def by_hand(items: dict[tuple[int, int], int], place: tuple[int, int], length: int) -> Any:
    """Return an environment with these things in it; rows and columns from 0 to 9."""
    env: Any = gym.make(GRID).unwrapped
    env.reset(seed=0)
    env.cells[:] = 0
    for (row, column), kind in items.items():
        env.cells[row + 2, column + 2] = kind
    env.place, env.length = (place[0] + 2, place[1] + 2), length
    return env


def state_of(env: Any) -> th.Tensor:
    numbers = [*env.cells.ravel(), *env.place, env.steps, env.length, env.score]
    return th.tensor([numbers], dtype=th.float64)


# ----------------------------------------------------------------------- rules


def test_an_episode_by_hand() -> None:
    """An apple once, a fire every time, a wall that stops; the mean is paid at the end."""
    env = by_hand({(0, 1): 1, (1, 1): 2, (2, 0): 1}, (0, 0), 6)
    actions, places = [RIGHT, STAY, DOWN, DOWN, LEFT, LEFT], []
    task, state, scores = AppleFireGrid(), state_of(env), []
    for step, action in enumerate(actions):
        observation, reward, terminated, truncated, _ = env.step(np.int64(action))
        state, seen, batch_reward, ended = task.step(state, one_hot([action]))
        np.testing.assert_array_equal(seen[0], observation)
        assert float(batch_reward[0]) == pytest.approx(reward)
        assert bool(ended[0]) == terminated == (step == 5)
        assert not truncated
        assert th.equal(state, state_of(env))
        places.append((env.place[0] - 2, env.place[1] - 2))
        scores.append(env.score)
        if step < 5:
            assert reward == 0
    assert places == [(0, 1), (0, 1), (1, 1), (2, 1), (2, 0), (2, 0)]
    assert scores == [7, 8, 1, 2, 9, 10]
    assert reward == pytest.approx(10 / 6)


def test_the_view_is_centred_and_shows_an_eaten_apple_once() -> None:
    env = by_hand({(4, 5): 1, (3, 4): 2, (9, 9): 1}, (4, 4), 50)
    view = env.step(np.int64(STAY))[0].reshape(2, 5, 5)
    assert np.argwhere(view).tolist() == [[0, 2, 3], [1, 1, 2]]
    view = env.step(np.int64(RIGHT))[0].reshape(2, 5, 5)
    assert np.argwhere(view).tolist() == [[0, 2, 2], [1, 1, 1]]
    view = env.step(np.int64(LEFT))[0].reshape(2, 5, 5)
    assert np.argwhere(view).tolist() == [[1, 1, 2]]


@pytest.mark.parametrize(
    ("action", "place", "after"),
    [(DOWN, (9, 4), (9, 4)), (UP, (0, 4), (0, 4)), (RIGHT, (4, 9), (4, 9)), (LEFT, (4, 0), (4, 0)),
     (DOWN, (4, 4), (5, 4)), (UP, (4, 4), (3, 4)), (RIGHT, (4, 4), (4, 5)), (LEFT, (4, 4), (4, 3))],
)  # fmt: skip
def test_walls_stop(action: int, place: tuple[int, int], after: tuple[int, int]) -> None:
    env = by_hand({}, place, 10)
    env.step(np.int64(action))
    assert env.place == (after[0] + 2, after[1] + 2)


def test_starts() -> None:
    states = AppleFireGrid().start(np.random.default_rng(0), (20, 200))
    cells = states[..., :CELLS].reshape(20, 200, WIDTH, WIDTH)
    assert ((cells == 1).sum((-1, -2)) == 30).all()
    assert ((cells == 2).sum((-1, -2)) == 30).all()
    assert cells[..., :2, :].sum() == cells[..., -2:, :].sum() == 0
    assert cells[..., :2].sum() == cells[..., -2:].sum() == 0
    row, column = states[..., CELLS].astype(int), states[..., CELLS + 1].astype(int)
    here = np.take_along_axis(states, (row * WIDTH + column)[..., None], -1)
    assert (here == 0).all()
    # Every cell is as likely as any other.
    for kind, share in ((1, 0.3), (2, 0.3)):
        found = (cells == kind).mean((0, 1))[2:-2, 2:-2]
        np.testing.assert_allclose(found, share, atol=5 * math.sqrt(share * (1 - share) / 4_000))
    lengths = states[..., CELLS + 3]
    assert lengths.min() == 8
    assert lengths.max() == STEPS
    assert (lengths % 2 == 0).all()
    assert (lengths == 8).mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(4_000))
    assert lengths.mean() == pytest.approx(14.998, abs=4 * lengths.std() / math.sqrt(4_000))


# --------------------------------------------------------------------- batches


def test_the_batch_is_the_environment_step_by_step() -> None:
    """To the bit, over ends of episodes."""
    batch, copies = make_vec(GRID, 3, seed=5), make_vec(GRID, 3, seed=5, backend="gymnasium")
    assert isinstance(batch, SimulatorVecEnv)
    assert batch.observation_space == copies.observation_space
    assert batch.action_space == copies.action_space
    np.testing.assert_array_equal(batch.reset(), copies.reset())
    rng, ends, longest = np.random.default_rng(0), 0, 0
    for _ in range(1_500):
        actions = rng.integers(0, 5, 3)
        (one, reward, done, infos), (other, expected, over, theirs) = (
            vec.step(actions) for vec in (batch, copies)
        )
        np.testing.assert_array_equal(done, over)
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(reward, expected)
        for mine, yours in zip(infos, theirs, strict=True):
            assert mine["TimeLimit.truncated"] == yours["TimeLimit.truncated"] is False
            if "episode" in yours:
                ends += 1
                longest = max(longest, yours["episode"]["l"])
                assert mine["episode"]["l"] == yours["episode"]["l"]
                assert mine["episode"]["r"] == pytest.approx(yours["episode"]["r"], abs=1e-6)
                last = (mine["terminal_observation"], yours["terminal_observation"])
                np.testing.assert_array_equal(*last)
    assert ends > 200
    assert longest == STEPS  # where the time limit of Gymnasium strikes as well


def test_single_precision_is_enough() -> None:
    task, rng = AppleFireGrid(), np.random.default_rng(3)
    double = th.from_numpy(task.start(rng, (50,)))
    single = double.float()
    for _ in range(STEPS):
        action = one_hot(rng.integers(0, 5, 50))
        double, seen, reward, ended = task.step(double, action)
        single, view, paid, over = task.step(single, action.float())
        assert th.equal(single.double(), double)
        assert th.equal(view.double(), seen)
        assert th.equal(over, ended)
        th.testing.assert_close(paid.double(), reward, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ["batched", "gymnasium"])
def test_a_fresh_vector_takes_over_the_state_of_another(backend: str) -> None:
    def make(seed: int) -> TrainingVecEnv:
        return TrainingVecEnv(make_vec(GRID, 2, seed=seed, backend=backend))

    rng = np.random.default_rng(0)
    one, other = make(3), make(4)
    one.reset()
    for _ in range(100):
        last = one.step(rng.integers(0, 5, 2))[0]
    assert one.seeds is not None
    again = other.replay(one.seeds, one.actions_since_barrier(), one.resets_since_barrier())
    np.testing.assert_array_equal(again, last)
    for action in rng.integers(0, 5, (100, 2)):
        np.testing.assert_array_equal(one.step(action)[0], other.step(action)[0])


def test_actions_that_do_not_exist() -> None:
    vec = make_vec(GRID, 2)
    vec.reset()
    for actions in ([0, 5], [-1, 0]):
        with pytest.raises(ValueError, match="Discrete"):
            vec.step(np.array(actions))
    with pytest.raises(ValueError, match="shape"):
        vec.step(np.zeros((2, 1)))
    with pytest.raises(RefusedError, match="split"):
        make_vec(GRID, split="test")


# --------------------------------------------------------------- what is known


def test_the_shifted_view_is_right_where_it_can_be() -> None:
    """Away from walls: every cell that was seen before, and no eaten apple."""
    task, rng = AppleFireGrid(), np.random.default_rng(1)
    state = th.from_numpy(task.start(rng, (3_000,)))
    # Eat first, as an eaten apple shows in the observation that came with the step only.
    state, seen, _, _ = task.step(state, one_hot(rng.integers(0, 5, 3_000)))
    actions = rng.integers(0, 5, 3_000)
    after, true, _, _ = task.step(state, one_hot(actions))
    foreseen = task.foresee(seen, one_hot(actions))
    walked = (after[:, CELLS : CELLS + 2] != state[:, CELLS : CELLS + 2]).any(-1).numpy()
    free = walked | (actions == STAY)
    assert 0.8 < free.mean() < 1
    new = np.zeros((5, 5, 5), bool)
    new[DOWN, 4], new[UP, 0], new[RIGHT, :, 4], new[LEFT, :, 0] = True, True, True, True
    known = ~np.concatenate([new, new], 1).reshape(5, 50)[actions]
    same = (foreseen == true).numpy()
    assert same[free][known[free]].all()
    assert not same[free][~known[free]].all()
    assert not same[~free].all()
    assert (foreseen.numpy()[~known] == 0).all()
    assert seen[:, 12].sum() > 100
    centre = task.foresee(seen, one_hot(np.full(3_000, STAY)))[:, 12]
    assert not centre.any()


def test_scores_of_views() -> None:
    task, views = AppleFireGrid(), th.zeros(3, 50, dtype=th.float64)
    views[1, 12], views[2, 37] = 1, 1
    reward, ended = task.judge(views)
    assert (reward * STEPS).tolist() == pytest.approx([1, 7, -7])
    assert not ended.any()


# ------------------------------------------------------------------- baselines

Policy = Callable[[th.Tensor, th.Tensor], th.Tensor]


def mean_return(policy: Policy, fires: bool = True, n: int = 4_000) -> tuple[float, float]:
    """Return mean and standard error of the returns of a policy of states and views."""
    task = AppleFireGrid()
    state = th.from_numpy(task.start(np.random.default_rng(1), (n,)))
    if not fires:
        state[:, :CELLS][state[:, :CELLS] == 2] = 0
    seen, total, alive = task.observe(state), th.zeros(n), th.ones(n, dtype=th.bool)
    for _ in range(STEPS):
        state, seen, reward, ended = task.step(state, one_hot(policy(state, seen)))
        total += reward * alive
        alive &= ~ended
    assert not alive.any()
    return float(total.mean()), float(total.std()) / math.sqrt(n)


def at_random(n_actions: int) -> Policy:
    generator = th.Generator().manual_seed(0)
    return lambda state, seen: th.randint(n_actions, (len(seen),), generator=generator)


def greedy() -> Policy:
    """To the best neighbour, at random among equals; not into a wall, which is as good as here."""
    generator = th.Generator().manual_seed(0)

    def act(state: th.Tensor, seen: th.Tensor) -> th.Tensor:
        view = seen.view(-1, 2, 5, 5)
        worth = 6 * view[:, 0] - 8 * view[:, 1]
        around = th.stack([worth[:, 3, 2], worth[:, 1, 2], worth[:, 2, 3], worth[:, 2, 1]], 1)
        row, column = state[:, CELLS], state[:, CELLS + 1]
        wall = th.stack([row == 11, row == 2, column == 11, column == 2], 1)
        here = -8 * view[:, 1, 2, 2] - 0.5
        around = th.where(wall, here.unsqueeze(1), around)
        return (around + 0.1 * th.rand(around.shape, generator=generator)).argmax(1)

    return act


def test_standing_still() -> None:
    mean, error = mean_return(lambda state, seen: th.full((len(seen),), STAY))
    assert (mean, error) == (1, 0)


@pytest.mark.parametrize(
    ("policy", "fires", "published"),
    [(at_random(5), True, -0.27), (at_random(4), True, -0.16), (at_random(4), False, 2.05),
     (greedy(), True, 3.40), (greedy(), False, 3.75)],
    ids=["random", "random-moves", "random-moves-no-fires", "greedy", "greedy-no-fires"],
)  # fmt: skip
def test_published_baselines(policy: Policy, fires: bool, published: float) -> None:
    """Of 4,000 episodes each, so that both means have an error."""
    mean, error = mean_return(policy, fires)
    print(f"{mean:.3f} +- {error:.3f}")
    assert mean == pytest.approx(published, abs=4 * error * math.sqrt(2) + 0.005)


# -------------------------------------------------------------------- Gymnasium


def test_the_checkers_have_nothing_to_say() -> None:
    env = gym.make(GRID, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        check_sb3(env.unwrapped)
    check_api(env, GRID)
    assert gym.make(GRID).unwrapped.render() is None


def test_the_picture_shows_what_is_where() -> None:
    env = by_hand({(0, 0): 1, (9, 9): 2}, (0, 3), 10)
    env.render_mode = "rgb_array"
    image = env.render()
    assert image.shape == (384, 384, 3)
    middle = {place: tuple(image[32 * place[0] + 16, 32 * place[1] + 16]) for place in
              ((0, 0), (1, 1), (10, 10), (1, 4), (5, 5), (3, 6))}  # fmt: skip
    assert middle[0, 0] == (120, 120, 125)  # wall
    assert middle[1, 1] == (70, 150, 60)  # apple
    assert middle[10, 10] == (200, 90, 40)  # fire
    assert middle[1, 4] == (50, 90, 160)  # agent
    assert middle[5, 5] == (250, 250, 248)  # floor
    assert middle[3, 6] == (225, 232, 245)  # floor in view


def test_sb3_learns_in_it() -> None:
    model = PPO("MlpPolicy", make_vec(GRID, 4), n_steps=16, batch_size=32, n_epochs=1, seed=0)
    assert model.learn(128).num_timesteps == 128
