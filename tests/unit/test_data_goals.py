"""Observations with goals: collected flat, stored as dicts, read as demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from rlzoo.data import goals, minari_io, shards
from rlzoo.data.collect import collect
from rlzoo.data.policies import Step
from rlzoo.data.transitions import Transitions
from rlzoo.errors import RefusedError

LIMIT = 6
LAYOUT = {"achieved_goal": 2, "desired_goal": 2, "observation": 3}


class Point(gym.Env[Any, Any]):
    """A point moves by half the action; success within 0.2 of the goal. Float64, as in Fetch."""

    observation_space = spaces.Dict(
        observation=spaces.Box(-np.inf, np.inf, (3,), np.float64),
        achieved_goal=spaces.Box(-2, 2, (2,), np.float64),
        desired_goal=spaces.Box(-1, 1, (2,), np.float64),
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.t, self.at = 0, np.zeros(2)
        self.goal = self.np_random.uniform(-1, 1, 2)
        return self.seen(), {}

    def seen(self) -> dict[str, Any]:
        observation = np.append(self.at, self.t)
        return {"observation": observation, "achieved_goal": self.at, "desired_goal": self.goal}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        self.t += 1
        self.at = np.clip(self.at + 0.5 * action, -2, 2)
        near = float(np.linalg.norm(self.at - self.goal)) < 0.2
        return self.seen(), near - 1.0, False, self.t == LIMIT, {"is_success": float(near)}


class Homing:
    """Goes to the goal, and on its fourth step away again."""

    normals = uniforms = 0

    def __init__(self, away: int = 4) -> None:
        self.away = away

    def act(self, observations: Any, step: Step, deterministic: bool = False) -> Any:
        assert sorted(observations) == sorted(goals.KEYS)
        towards = (observations["desired_goal"] - observations["achieved_goal"]) / 0.5
        at = observations["observation"][:, 2:]
        return np.where(at >= self.away, 1.0, np.clip(towards, -1, 1))

    def describe(self) -> dict[str, Any]:
        return {"kind": "homing"}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))


def homing(**options: Any) -> Transitions:
    return collect(Point, Homing(), size=4 * LIMIT, seed=3, n_envs=4, **options)


def test_the_three_vectors_lie_side_by_side() -> None:
    data = homing()
    assert data.metadata[goals.LAYOUT] == LAYOUT
    assert data.observations.shape == (24, 7)
    assert data.observations.dtype == np.float32
    parts = goals.split(data.observations, LAYOUT)
    assert np.array_equal(parts["observation"][:, 2].reshape(4, LIMIT), np.tile(range(6), (4, 1)))
    assert np.array_equal(parts["observation"][:, :2], parts["achieved_goal"])
    assert np.array_equal(goals.join(parts), data.observations)
    low = data.observation_space.low  # type: ignore[attr-defined]
    assert low.tolist() == [-2, -2, -1, -1, -np.inf, -np.inf, -np.inf]


def test_success_is_kept_for_every_episode() -> None:
    data = homing()
    assert data.metadata[goals.SUCCESSES] == [True] * 4
    assert data.metadata[goals.FINAL_SUCCESSES] == [False] * 4
    stays = collect(Point, Homing(away=99), size=4 * LIMIT, seed=3, n_envs=4)
    assert stays.metadata[goals.FINAL_SUCCESSES] == [True] * 4
    wanders = collect(Point, "random", size=40 * LIMIT, seed=3, n_envs=4)
    assert not all(wanders.metadata[goals.SUCCESSES])


def test_what_was_collected_before_a_kill_keeps_its_success(tmp_path: Path) -> None:
    whole = homing(work_dir=tmp_path / "work")
    for path in (tmp_path / "work").glob("*.npz"):  # as if half of the slots had been lost
        kept = [episode for episode in shards._episodes(path) if episode.slot < 2]
        assert len(kept) == 2
        path.unlink()
        folder = shards.ShardFolder(tmp_path / "work", 0)
        for episode in kept:
            folder.add(episode)
        folder.flush()
    again = homing(work_dir=tmp_path / "work")
    assert again.fingerprint == whole.fingerprint
    assert again.metadata == whole.metadata


def test_minari_sees_dicts_and_the_round_trip_is_exact() -> None:
    saved = minari_io.save(homing(), "my/point-v0")
    loaded = minari_io.load("my/point-v0")
    assert loaded.fingerprint == saved.fingerprint
    assert loaded.metadata == saved.metadata
    assert loaded.observation_space == saved.observation_space
    theirs = minari.load_dataset("my/point-v0")
    assert isinstance(theirs.observation_space, spaces.Dict)
    facts = list(theirs.storage.get_episode_metadata(range(4)))
    assert [bool(f["success"]) for f in facts] == [True] * 4
    assert [bool(f["final_success"]) for f in facts] == [False] * 4
    for i, episode in enumerate(theirs.iterate_episodes()):
        rows = slice(i * LIMIT, (i + 1) * LIMIT)
        parts = goals.split(saved.observations[rows], LAYOUT)
        last = goals.split(saved.next_observations[rows][-1], LAYOUT)
        for key in goals.KEYS:
            assert np.array_equal(episode.observations[key][:-1], parts[key])
            assert np.array_equal(episode.observations[key][-1], last[key])


def test_sets_that_minari_wrote_are_read() -> None:
    rng = np.random.default_rng(0)
    sizes = dict(observation=3, achieved_goal=2, desired_goal=2)
    walks = []
    for _ in range(2):
        walk = {key: rng.normal(size=(LIMIT + 1, n)) for key, n in sizes.items()}
        walk["desired_goal"][:] = walk["desired_goal"][0]
        walks.append(walk)
    last = np.arange(LIMIT) == LIMIT - 1
    minari.create_dataset_from_buffers(
        "their/point-v0",
        [
            EpisodeBuffer(
                observations=walk, actions=rng.uniform(-1, 1, (LIMIT, 2)),
                rewards=list(rng.normal(size=LIMIT)), terminations=~last & False, truncations=last,
            )
            for walk in walks
        ],
        observation_space=Point.observation_space,
        action_space=Point.action_space,
    )  # fmt: skip
    data = minari_io.load("their/point-v0")
    assert data.metadata[goals.LAYOUT] == LAYOUT
    for i, walk in enumerate(walks):
        rows = goals.join(walk).astype(np.float32)
        assert np.array_equal(data.observations[i * LIMIT : (i + 1) * LIMIT], rows[:-1])
        assert np.array_equal(data.next_observations[(i + 1) * LIMIT - 1], rows[-1])
    assert goals.to_goal_episodes(data).observations.shape == (2, LIMIT + 1, 3)


def test_data_become_demonstrations() -> None:
    data = homing(metadata={"env_id": "Point-v0", "id": "my/point-v0"})
    shown = goals.to_goal_episodes(data, "Point-v0")
    assert len(shown) == 4
    assert shown.horizon == LIMIT
    assert shown.actions is not None
    assert np.array_equal(shown.actions.reshape(-1, 2), data.actions)
    assert np.array_equal(shown.observations[:, :-1].reshape(-1, 3), data.observations[:, 4:])
    last = data.next_observations[LIMIT - 1 :: LIMIT]
    assert np.array_equal(shown.achieved_goals[:, -1], last[:, :2])
    assert np.array_equal(shown.desired_goals, last[:, 2:4])
    assert shown.success is not None
    assert shown.success.all()
    assert (shown.env_id, shown.metadata["id"]) == ("Point-v0", "my/point-v0")


def test_demonstrations_of_states_have_no_actions_on_disk_or_in_memory() -> None:
    minari_io.save(goals.without_actions(homing()), "my/states-v0")
    data = minari_io.load("my/states-v0")
    assert not data.actions.any()
    assert goals.to_goal_episodes(data).state_only
    assert not goals.to_goal_episodes(homing()).state_only


def test_data_of_another_kind_are_refused() -> None:
    plain = collect(lambda: gym.make("Pendulum-v1"), "random", size=10, seed=0)
    with pytest.raises(RefusedError, match="no goals"):
        goals.to_goal_episodes(plain)
    data = homing(metadata={"env_id": "Point-v0"})
    with pytest.raises(RefusedError, match="another task: Point-v0"):
        goals.to_goal_episodes(data, "FetchReach-v4")
    with pytest.raises(RefusedError, match="does not fit"):
        goals.to_goal_episodes(data.with_metadata(goal_layout={**LAYOUT, "observation": 4}))


def test_other_dicts_have_no_layout() -> None:
    box = spaces.Box(-1, 1, (2,))
    assert goals.goal_layout(box) is None
    assert goals.goal_layout(spaces.Dict(observation=box, achieved_goal=box)) is None
    image = spaces.Box(0, 255, (4, 4), np.uint8)
    assert goals.goal_layout(spaces.Dict(dict.fromkeys(goals.KEYS, image))) is None
    assert goals.goal_layout(Point.observation_space) == LAYOUT


def test_spaces_go_both_ways() -> None:
    flat = goals.flat_space(Point.observation_space)
    back = goals.dict_space(flat, LAYOUT)
    for key in goals.KEYS:
        part: Any = Point.observation_space[key]
        assert np.array_equal(back[key].low, part.low)  # type: ignore[attr-defined]
    assert goals.flat_space(back) == flat
