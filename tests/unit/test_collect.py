"""The collector: what it stores is what happened, and only the recipe decides about it."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlzoo.core.seeding import stream
from rlzoo.data import shards
from rlzoo.data.collect import collect
from rlzoo.data.policies import Step
from rlzoo.data.transitions import Transitions
from rlzoo.errors import FailedError, RefusedError

FIELDS = (
    "observations",
    "actions",
    "rewards",
    "terminations",
    "truncations",
    "next_observations",
    "episode_starts",
)


class Counter(gym.Env[Any, Any]):
    """Observation ``[episode seed, t]``; ends by itself after 3 to 12 steps, or never."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(np.float32([-2, 0]), np.float32([2, 1]))

    def __init__(self, endless: bool = False, limit: int | None = None, break_at: int = -1) -> None:
        self.endless, self.limit, self.break_at = endless, limit, break_at

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(3, 13))
        self.key = float(self.np_random.random())
        return np.array([self.key, 0.0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        self.t += 1
        if self.t == self.break_at:
            raise ValueError("the physics exploded")
        reward = self.t + float(action.sum())
        over = not self.endless and self.t >= self.length
        return np.array([self.key, float(self.t)]), reward, over, self.t == self.limit, {}


def make(env_id: str, **kwargs: Any) -> Callable[[], Any]:
    return functools.partial(gym.make, env_id, disable_env_checker=True, **kwargs)


def same(a: Transitions, b: Transitions) -> bool:
    return all(
        getattr(a, name).dtype == getattr(b, name).dtype
        and getattr(a, name).tobytes() == getattr(b, name).tobytes()
        for name in FIELDS
    )


def check_linked(data: Transitions) -> None:
    """Rows of an episode follow each other; flags are at its last row only."""
    ends = data.episode_starts[1:] - 1
    ended = data.terminations | data.truncations
    assert ended[ends].all()
    assert ended.sum() == len(ends)
    inside = np.setdiff1d(np.arange(len(data)), ends)
    assert np.array_equal(data.next_observations[inside], data.observations[inside + 1])
    assert data.episode_starts[0] == 0
    assert data.episode_starts[-1] == len(data)


def interrupt_after(rows: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(("size", "n_envs"), [(1, 1), (5, 16), (100, 1), (257, 9), (160, 16)])
def test_sizes_and_quotas(size: int, n_envs: int) -> None:
    data = collect(Counter, "random", size, seed=3, n_envs=n_envs)
    assert len(data) == size
    check_linked(data)
    for name in ("observations", "actions", "rewards", "next_observations"):
        assert getattr(data, name).dtype == np.float32
    # an episode of the environment starts at t = 0 and ends where it says, unless it was cut
    assert (data.observations[data.episode_starts[:-1], 1] == 0).all()
    assert not data.truncations[data.episode_starts[1:][data.complete] - 1].any()
    cut = data.episode_starts[1:][~data.complete] - 1
    assert data.truncations[cut].all()
    assert not data.terminations[cut].any()
    assert len(cut) <= n_envs
    assert (data.next_observations[cut, 1] == data.observations[cut, 1] + 1).all()
    assert np.allclose(data.rewards, data.next_observations[:, 1] + data.actions.sum(axis=1))


def test_an_episode_depends_on_seed_slot_and_number_only() -> None:
    data = collect(Counter, "random", 300, seed=5, n_envs=3)
    longer = collect(Counter, "random", 600, seed=5, n_envs=3)
    for slot in range(3):  # quotas of 100 and of 200: the longer one goes on where the other ends
        short, long = slice(100 * slot, 100 * slot + 100), slice(200 * slot, 200 * slot + 100)
        assert np.array_equal(data.actions[short], longer.actions[long])
        assert np.array_equal(data.next_observations[short], longer.next_observations[long])
    env = Counter()
    for slot in range(3):
        observation, _ = env.reset(seed=stream(5, "collect", "env", slot, 0))
        assert data.observations[100 * slot, 0] == np.float32(observation[0])
    assert not same(data, collect(Counter, "random", 300, seed=6, n_envs=3))


def test_replaying_the_stored_actions_gives_the_stored_transitions() -> None:
    data = collect(make("Hopper-v4"), "random", 500, seed=0, n_envs=2)
    check_linked(data)
    assert (np.diff(data.episode_starts) < 250).all()
    env = make("Hopper-v4")()
    slot, episode = 0, 0
    for start, end in zip(data.episode_starts, data.episode_starts[1:], strict=False):
        if start == 250:
            slot, episode = 1, 0
        observation, _ = env.reset(seed=stream(0, "collect", "env", slot, episode))
        for row in range(start, end):
            assert np.array_equal(data.observations[row], observation.astype(np.float32))
            observation, reward, terminated, *_ = env.step(data.actions[row])
            assert np.array_equal(data.next_observations[row], observation.astype(np.float32))
            assert data.rewards[row] == np.float32(reward)
            assert data.terminations[row] == terminated
        episode += 1


def test_time_limits_and_cuts_are_told_apart() -> None:
    data = collect(functools.partial(Counter, endless=True, limit=10), "random", 25, 0, n_envs=1)
    assert data.episode_lengths.tolist() == [10, 10, 5]
    assert np.flatnonzero(data.truncations).tolist() == [9, 19, 24]
    assert not data.terminations.any()
    assert data.metadata["cut_episodes"] == [2]
    assert data.next_observations[9, 1] == 10
    exact = collect(functools.partial(Counter, endless=True, limit=10), "random", 20, 0, n_envs=1)
    assert exact.metadata["cut_episodes"] == []


def test_terminal_wins_when_the_time_limit_falls_on_the_same_step() -> None:
    data = collect(functools.partial(Counter, limit=3), "random", 600, 0, n_envs=1)
    both = data.episode_starts[1:][data.complete] - 1
    assert data.terminations[both].any()
    assert not (data.terminations & data.truncations).any()


def test_random_actions_follow_the_law_of_the_space() -> None:
    data = collect(Counter, "random", 20_000, seed=0)
    low, high = Counter.action_space.low, Counter.action_space.high
    scaled = (data.actions - low) / (high - low)
    assert scaled.min() >= 0
    assert scaled.max() <= 1
    # standard errors: 0.289 / sqrt(20000) = 0.002, and 0.007 for the correlations
    assert np.allclose(scaled.mean(axis=0), 0.5, atol=0.01)
    assert np.allclose(scaled.std(axis=0), 0.2887, atol=0.01)
    # no two episodes begin with the same noise, nor from the same state
    firsts = data.episode_starts[:-1]
    for column in (data.actions[firsts, 0], data.observations[firsts, 0]):
        assert len(np.unique(column)) > 0.99 * data.n_episodes
    both = np.concatenate([scaled[:-1], scaled[1:]], axis=1)
    assert np.allclose(np.corrcoef(both.T), np.eye(4), atol=0.03)


def test_discrete_actions_and_observations() -> None:
    data = collect(make("FrozenLake-v1"), "random", 4_000, seed=0)
    assert data.actions.dtype == data.observations.dtype == np.int64
    assert data.observations.shape == data.actions.shape == (4_000,)
    check_linked(data)
    assert np.allclose(np.bincount(data.actions) / 4_000, 0.25, atol=0.03)


class Middle:
    """A scripted expert: half of the observation's clock, in the form of SB3's ``predict``."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        n = 0 if episode_start[0] else state
        return np.array([[0.1 * n, 0.5]]), n + 1


def test_scripted_experts_keep_their_state_through_an_episode() -> None:
    data = collect(Counter, Middle(), 200, seed=0, n_envs=4)
    assert np.allclose(data.actions[:, 0], 0.1 * data.observations[:, 1])


class Fixed:
    """Always the middle of the second action, and a fifth of the range of the first."""

    normals = uniforms = 0

    def act(self, observations: Any, step: Step, deterministic: bool = False) -> Any:
        return np.tile(np.float32([-1.2, 0.5]), (len(observations), 1))

    def describe(self) -> dict[str, Any]:
        return {"kind": "fixed"}


def test_epsilon_replaces_actions() -> None:
    data = collect(Counter, Fixed(), 8_000, seed=0, epsilon=0.25)
    replaced = data.actions[:, 1] != 0.5
    assert np.isclose(replaced.mean(), 0.25, atol=0.02)
    assert np.array_equal(replaced, data.actions[:, 0] != np.float32(-1.2))
    assert np.isclose(data.actions[replaced, 0].std(), 4 / 12**0.5, atol=0.05)
    always = collect(Counter, Fixed(), 300, seed=0, epsilon=1.0)
    assert (always.actions[:, 1] != 0.5).all()


def test_gaussian_noise_is_in_units_of_the_scaled_action() -> None:
    data = collect(Counter, Fixed(), 8_000, seed=0, gaussian_noise=0.2)
    # 0.2 of half the range, which is 2 and 0.5; none of it reaches a bound often
    noise = data.actions - np.float32([-1.2, 0.5])
    assert np.allclose(noise.std(axis=0), [0.4, 0.1], rtol=0.05)
    assert np.allclose(noise.mean(axis=0), [0, 0], atol=0.02)
    clipped = collect(Counter, Fixed(), 400, seed=0, gaussian_noise=50.0).actions
    assert set(clipped[:, 1]) >= {0.0, 1.0}
    assert clipped.max() <= 2
    assert clipped.min() >= -2


def test_workers_do_not_change_a_byte(tmp_path: Path) -> None:
    alone = collect(make("Hopper-v4"), "random", 6_000, seed=1)
    seen: list[tuple[int, int]] = []
    arguments: dict[str, Any] = {"seed": 1, "workers": 2, "work_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):  # workers are stopped, and keep what they finished
        collect(make("Hopper-v4"), "random", 6_000, progress=interrupt_after(1_500), **arguments)
    together = collect(
        make("Hopper-v4"), "random", 6_000, progress=lambda *a: seen.append(a), **arguments
    )
    assert same(alone, together)
    assert alone.metadata == together.metadata
    assert 0 < seen[0][0] < 6_000
    assert seen[-1] == (6_000, 6_000)
    assert seen == sorted(seen)


def test_progress_ends_at_the_size() -> None:
    seen: list[tuple[int, int]] = []
    collect(Counter, "random", 50, seed=0, n_envs=3, progress=lambda *a: seen.append(a))
    assert seen[-1] == (50, 50)
    assert seen == sorted(seen)


def test_global_generators_and_threads_are_left_alone() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    want = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    collect(Counter, Middle(), 20, seed=0, n_envs=1)
    assert (torch.rand(1), random.random(), np.random.rand()) == want  # noqa: NPY002
    assert torch.get_num_threads() == 2
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def test_an_interrupted_collection_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("rlzoo.data.collect.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(shards, "FLUSH_ROWS", 40)
    whole = collect(Counter, "random", 2_000, seed=4, n_envs=10)
    done: list[int] = []
    for rows in (300, 900, 1_700):
        with pytest.raises(KeyboardInterrupt):
            collect(
                Counter, "random", 2_000, 4, 10, work_dir=tmp_path, progress=interrupt_after(rows)
            )
    resumed = collect(
        Counter, "random", 2_000, 4, 10, work_dir=tmp_path, progress=lambda n, _: done.append(n)
    )
    assert same(whole, resumed)
    assert whole.metadata == resumed.metadata
    assert done[0] > 1_500  # little was lost
    again = collect(Counter, "random", 2_000, 4, 10, work_dir=tmp_path)
    assert same(whole, again)
    assert same(whole, collect(Counter, "random", 2_000, 4, 10, workers=2, work_dir=tmp_path))
    (tmp_path / "notes.txt").write_text("mine")
    shards.discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_damaged_shards_and_leftovers_are_collected_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(shards, "FLUSH_ROWS", 40)
    whole = collect(Counter, "random", 800, seed=4, n_envs=2, work_dir=tmp_path)
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) > 10
    files[0].write_bytes(files[0].read_bytes()[:-100])
    files[3].write_bytes(b"")
    data = bytearray(files[5].read_bytes())
    data[len(data) // 2] ^= 1
    files[5].write_bytes(data)
    files[7].unlink()
    (tmp_path / "g0000-x.npz.123.tmp").write_bytes(b"half")
    assert same(whole, collect(Counter, "random", 800, seed=4, n_envs=2, work_dir=tmp_path))
    assert not list(tmp_path.glob("*.tmp"))


def test_leftovers_of_another_collection_are_refused(tmp_path: Path) -> None:
    collect(Counter, "random", 100, seed=4, work_dir=tmp_path)
    with pytest.raises(RefusedError, match="differs in: collection"):
        collect(Counter, "random", 100, seed=5, work_dir=tmp_path)
    with pytest.raises(RefusedError, match="differs in: policy"):
        collect(Counter, Middle(), 100, seed=4, work_dir=tmp_path)
    (tmp_path / shards.CARD).write_text("{")
    with pytest.raises(RefusedError, match="another collection"):
        collect(Counter, "random", 100, seed=4, work_dir=tmp_path)


def test_a_folder_takes_one_collection_at_a_time(tmp_path: Path) -> None:
    def nested(done: int, total: int) -> None:
        collect(Counter, "random", 100, seed=4, work_dir=tmp_path)

    with pytest.raises(RefusedError, match="Another process is collecting"):
        collect(Counter, "random", 100, seed=4, work_dir=tmp_path, progress=nested)


@pytest.mark.parametrize("workers", [1, 2])
def test_case_38_a_failing_environment_is_named(tmp_path: Path, workers: int) -> None:
    broken = functools.partial(Counter, break_at=11)
    with pytest.raises(FailedError, match=r"slot \d+ failed at step 10 .*exploded") as caught:
        collect(broken, "random", 2_000, 4, n_envs=8, workers=workers, work_dir=tmp_path)
    assert "Seed 4, action [" in str(caught.value)
    assert list(tmp_path.glob("*.npz"))  # what was finished is kept


def test_actions_that_are_not_numbers_stop_the_collection() -> None:
    class Broken(Middle):
        def predict(self, observation: Any, state: Any = None, **k: Any) -> tuple[Any, Any]:
            return np.array([[np.nan, 0.5]]), None

    with pytest.raises(FailedError, match="NaN"):
        collect(Counter, Broken(), 100, seed=0)


class Pixels(Counter):
    observation_space = spaces.Box(0, 255, (4, 4, 3), np.uint8)

    def reset(self, **kwargs: Any) -> tuple[Any, Any]:
        super().reset(**kwargs)
        return self.np_random.integers(0, 256, (4, 4, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        _, *rest = super().step(action)
        return self.np_random.integers(0, 256, (4, 4, 3), np.uint8), *rest  # type: ignore[return-value]


def test_pixels_stay_bytes() -> None:
    data = collect(Pixels, "random", 100, seed=0, n_envs=2)
    assert data.observations.dtype == np.uint8
    assert data.observations.shape == (100, 4, 4, 3)
    check_linked(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"size": 1.5}, "size=1.5"),
        ({"n_envs": 0}, "n_envs=0"),
        ({"seed": -1}, "seed=-1"),
        ({"workers": 0}, "workers=0"),
        ({"epsilon": 1.5}, "epsilon=1.5"),
        ({"gaussian_noise": -0.1}, "gaussian_noise=-0.1"),
        ({"gaussian_noise": float("nan")}, "gaussian_noise=nan"),
        ({"policy": 3}, "3 is not a policy"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], message: str) -> None:
    arguments = {"policy": "random", "size": 10, "seed": 0, **changes}
    with pytest.raises(RefusedError, match=message):
        collect(Counter, **arguments)


def test_spaces_that_cannot_be_stored_are_refused() -> None:
    class Tuples(Counter):
        observation_space = spaces.Dict({"a": Counter.observation_space})  # type: ignore[assignment]

    class Unbounded(Counter):
        action_space = spaces.Box(-np.inf, np.inf, (2,))

    with pytest.raises(RefusedError, match="Cannot store observations of Dict"):
        collect(Tuples, "random", 10, seed=0)
    with pytest.raises(RefusedError, match="Cannot collect actions"):
        collect(Unbounded, "random", 10, seed=0)
    with pytest.raises(RefusedError, match="discrete actions"):
        collect(make("CartPole-v1"), "random", 10, seed=0, gaussian_noise=0.1)


def test_what_cannot_be_sent_to_a_worker_is_refused() -> None:
    import threading

    class Locked(Middle):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    with pytest.raises(RefusedError, match="workers=1"):
        collect(Counter, Locked(), 100, seed=0, workers=2)
