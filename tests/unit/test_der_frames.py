"""Frames stored once: what is sampled is what the agent saw, whatever happens at resets."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from rlzoo.agents.der.frames import FrameReplayBuffer, default_stack
from rlzoo.agents.der.prioritized import PrioritizedReplayBuffer
from rlzoo.core.replay_files import ReplayFiles, check_supported, row_arrays
from rlzoo.errors import RefusedError

SPACE = spaces.Box(0, 255, (4, 6, 6), np.uint8)
ACTIONS = spaces.Discrete(3)


class Screen:
    """Makes stacks of random frames with the kinds of resets that environments have."""

    def __init__(self, seed: int, n_envs: int = 1, shape: tuple[int, ...] = (4, 1, 6, 6)) -> None:
        self.rng, self.n_envs, self.shape = np.random.default_rng(seed), n_envs, shape
        self.stacks = np.zeros((n_envs, *shape), np.uint8)
        for env in range(n_envs):
            self.reset(env, "blank")

    def frame(self) -> np.ndarray:
        return self.rng.integers(0, 256, self.shape[1:], np.uint8)

    def push(self, env: int) -> None:
        self.stacks[env] = np.concatenate([self.stacks[env, 1:], self.frame()[None]])

    def reset(self, env: int, how: str) -> None:
        if how == "blank":
            self.stacks[env] = 0
            self.push(env)
        elif how == "repeat":
            self.stacks[env] = self.frame()
        elif how == "other":
            for _ in range(4):
                self.push(env)
        elif how == "noop":  # a lost life: frames stay, and a frame passes unseen
            self.push(env)
        # "same": a lost life, the last observation is the first of the next episode

    def observe(self) -> np.ndarray:
        return self.stacks.reshape(self.n_envs, -1, *self.shape[2:]).copy()


def fill(
    buffers: list[PrioritizedReplayBuffer], screen: Screen, steps: int, seed: int = 1
) -> list[np.ndarray]:
    """Step all environments with random ends; the same transitions go into every buffer."""
    rng = np.random.default_rng(seed)
    n = screen.n_envs
    seen = []
    for _ in range(steps):
        obs = screen.observe()
        for env in range(n):
            screen.push(env)
        next_obs = screen.observe()
        done = rng.random(n) < 0.12
        infos = [{"TimeLimit.truncated": bool(d and rng.random() < 0.5)} for d in done]
        action, reward = rng.integers(0, 3, n), rng.normal(size=n)
        for buffer in buffers:
            buffer.add(obs, next_obs, action, reward, done, infos)
        seen.append(obs)
        for env in np.flatnonzero(done | (rng.random(n) < 0.02)):  # now and then unannounced
            screen.reset(int(env), rng.choice(["blank", "repeat", "other", "noop", "same"]))
    return seen


def pair(size: int, n_envs: int = 1, n_steps: int = 3) -> list[PrioritizedReplayBuffer]:
    """One buffer that keeps whole observations, and one that keeps frames."""
    return [
        cls(size, SPACE, ACTIONS, "cpu", n_envs, n_steps=n_steps)
        for cls in (PrioritizedReplayBuffer, FrameReplayBuffer)
    ]


def assert_same(whole: PrioritizedReplayBuffer, frames: PrioritizedReplayBuffer) -> int:
    """Compare every entry that the frame buffer can sample; return how many there are."""
    assert frames.can_sample
    leaves = np.flatnonzero(frames.sum_tree.get(np.arange(frames.sum_tree.n_leaves)))
    ripe = whole.sum_tree.get(leaves) > 0
    assert ripe.all()
    a, b = (x._batch(leaves, np.ones(len(leaves)), None) for x in (whole, frames))
    for name in ("observations", "actions", "rewards", "dones", "discounts"):
        assert th.equal(getattr(a, name), getattr(b, name)), name
    going_on = a.dones.squeeze(-1) == 0
    assert th.equal(a.next_observations[going_on], b.next_observations[going_on])
    assert b.observations.dtype == th.uint8
    return len(leaves)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_entries_as_with_whole_observations(seed: int, n_envs: int) -> None:
    buffers = pair(600 * n_envs, n_envs)
    fill(buffers, Screen(seed, n_envs), 500)
    assert assert_same(*buffers) >= 490 * n_envs


@pytest.mark.parametrize("n_envs", [1, 2])
def test_when_the_ring_has_wrapped(n_envs: int) -> None:
    buffers = pair(100 * n_envs, n_envs)
    screen = Screen(5, n_envs)
    for round_ in range(8):
        fill(buffers, screen, 57, seed=round_)
        n = assert_same(*buffers)
    # Rows behind the newest one may have lost frames, those of an open window wait.
    assert n >= (100 - 8 - 4) * n_envs - 6


def test_frames_that_run_out_of_room_take_the_oldest_rows_along() -> None:
    buffers = pair(4000)
    frames = buffers[1]
    rng, obs = np.random.default_rng(0), np.zeros((1, 4, 6, 6), np.uint8)
    for _ in range(3000):  # every step is truncated: an extra frame, and three for the next stack
        obs = rng.integers(0, 256, obs.shape, np.uint8)
        following = np.concatenate([obs[:, 1:], obs[:, :1] + 1], 1)
        for buffer in buffers:
            arguments = np.zeros(1), np.ones(1), np.ones(1), [{"TimeLimit.truncated": True}]
            buffer.add(obs, following, *arguments)
    n = assert_same(*buffers)
    assert n < len(frames.extra_frames) < 3000  # type: ignore[attr-defined]
    newest = {(frames.pos - 1 - k) % 4000 for k in range(20)}
    alive = set(np.flatnonzero(frames.sum_tree.get(np.arange(4000))).tolist())
    assert newest <= alive


def test_blank_and_repeated_frames_take_no_room() -> None:
    buffer, screen = pair(200)[1], Screen(0)
    for step in range(100):
        obs = screen.observe()
        screen.push(0)
        done = np.array([step % 10 == 9])
        buffer.add(obs, screen.observe(), np.zeros(1), np.ones(1), done, [{}])
        if done:
            screen.reset(0, "blank" if step % 20 == 9 else "repeat")
    assert buffer.n_extras == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", [1, 3])  # first as an older frame, or as the newest of a row
def test_a_frame_that_every_episode_shows_outlives_its_first_row(place: int) -> None:
    buffers, screen = pair(100), Screen(0)
    logo = screen.frame()
    for _ in range(430):
        screen.reset(0, "other")
        screen.stacks[0, place] = logo
        place = 1
        obs = screen.observe()
        screen.push(0)
        for buffer in buffers:
            arguments = np.zeros(1), np.ones(1), np.ones(1), [{}]
            buffer.add(obs, screen.observe(), *arguments)
        if buffers[1].pos % 10 == 0:
            assert_same(*buffers)


def test_memory() -> None:
    frames, whole = (
        cls(20_000, spaces.Box(0, 255, (4, 84, 84), np.uint8), ACTIONS, "cpu")
        for cls in (FrameReplayBuffer, PrioritizedReplayBuffer)
    )
    size = sum(x.nbytes for x in vars(frames).values() if isinstance(x, np.ndarray))
    assert size / 20_000 * 100_000 < 0.8e9
    assert whole.observations.nbytes + whole.next_observations.nbytes > 7 * size


def test_images_that_are_not_stacked() -> None:
    space = spaces.Box(0, 255, (3, 6, 6), np.uint8)
    whole, frames = (
        PrioritizedReplayBuffer(1000, space, ACTIONS, "cpu"),
        FrameReplayBuffer(1000, space, ACTIONS, "cpu", stack=1),
    )
    fill([whole, frames], Screen(0, shape=(1, 3, 6, 6)), 250)
    assert assert_same(whole, frames) > 240


def test_what_is_not_a_stack_is_refused() -> None:
    with pytest.raises(RefusedError, match="not stacks of 4"):
        FrameReplayBuffer(300, spaces.Box(0, 255, (3, 6, 6), np.uint8), ACTIONS)
    buffer = FrameReplayBuffer(300, SPACE, ACTIONS)
    random = [np.random.default_rng(i).integers(0, 256, (1, 4, 6, 6), np.uint8) for i in (0, 1)]
    with pytest.raises(RefusedError, match="frame_stack=1"):
        buffer.add(*random, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    assert [default_stack(spaces.Box(0, 255, (n, 8, 8), np.uint8)) for n in (1, 3, 4, 12)] == [
        1, 1, 4, 4,
    ]  # fmt: skip


def test_checkpoints_write_the_new_rows_only() -> None:
    # The whole story, files included, is tests/conformance/test_resume.py, row der-frames.
    buffer = pair(500)[1]
    check_supported(buffer)
    assert {"frames", "stacks", "next_stacks", "actions", "rewards"} <= set(row_arrays(buffer))
    assert all(len(array) == 500 for array in row_arrays(buffer).values())
    fill([buffer], Screen(0), 40)
    parts, links = ReplayFiles().parts(buffer, 40)
    state = parts["replay"]["state"]
    assert {"nodes", "unripe", "newest", "newest_stack", "extra_frames"} <= set(state)
    assert (state["n_added"], state["max_priority"]) == (40, 1.0)
    assert links == []


def test_rows_but_the_newest_never_change() -> None:
    # What ReplayFiles relies on.
    buffer = pair(400)[1]
    screen = Screen(3)
    before: dict[str, np.ndarray] = {}
    for n in range(1, 300):
        fill([buffer], screen, 1, seed=n)
        now = {name: array[: n - 1].copy() for name, array in row_arrays(buffer).items()}
        for name, array in before.items():
            assert np.array_equal(now[name][: len(array)], array), (n, name)
        before = now
