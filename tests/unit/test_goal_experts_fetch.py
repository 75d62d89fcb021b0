"""Scripted experts of Fetch and of stacking, in both back ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from goal_testing import episodes, expert, random_actions

from rlzoo.data.experts import scripted_expert
from rlzoo.envs import make_vec

pytest.importorskip("envpool", reason='needs pip install "rlzoo[goals]"')
pytest.importorskip("gymnasium_robotics", reason='needs pip install "rlzoo[goals]"')

PICK, STACK = "FetchPickAndPlace-v4", "rlzoo/FetchStackTwo-v0"


@pytest.mark.parametrize(
    ("backend", "n", "more"),
    [("envpool", 60, {}), ("gymnasium", 15, {}), ("envpool", 15, {"positions_only": 10})],
    ids=["envpool", "gymnasium", "positions"],
)
def test_pick_and_place(backend: str, n: int, more: dict[str, Any]) -> None:
    vec = make_vec(PICK, n, seed=1, backend=backend, **more)  # T = 50
    result = episodes(vec, expert(scripted_expert(PICK), vec))
    assert result.share == 1.0
    assert result.final.all()
    assert result.first.mean() == pytest.approx(14, abs=3)


def test_random_actions_do_not_pick_and_place() -> None:
    vec = make_vec(PICK, 20, seed=1)
    assert episodes(vec, random_actions(vec)).share <= 0.15


def test_noise_makes_demonstrators_worse() -> None:
    vec = make_vec(PICK, 20, seed=2)
    policy = scripted_expert(PICK)
    shares = [episodes(vec, expert(policy, vec, noise, noise)).share for noise in (0.1, 0.3)]
    assert shares[0] >= 0.65
    assert shares[1] <= 0.5


def test_reach() -> None:
    vec = make_vec("FetchReach-v4", 20, seed=1, max_episode_steps=15)
    assert episodes(vec, expert(scripted_expert("FetchReach-v4"), vec)).final.all()


def test_push() -> None:
    vec = make_vec("FetchPush-v4", 12, seed=1, max_episode_steps=100)
    assert episodes(vec, expert(scripted_expert("FetchPush-v4"), vec)).share >= 0.8


def test_stack() -> None:
    vec = make_vec(STACK, 12, seed=2, max_episode_steps=60)
    result = episodes(vec, expert(scripted_expert(STACK), vec))
    assert result.share >= 0.95
    assert result.final.mean() >= 0.9  # released, and the tower stands
    assert result.first.mean() == pytest.approx(29, abs=6)


def test_phases_begin_anew_with_each_episode() -> None:
    """One row begins an episode in the middle of another's; both act as if they were alone."""
    vec = make_vec(STACK, 1, seed=2, max_episode_steps=60)
    policy, fresh = scripted_expert(STACK), scripted_expert(STACK)
    first = expert(policy, vec)
    seen: Any = vec.reset()
    for _ in range(12):
        seen = vec.step(first(seen))[0]
    again: Any = make_vec(STACK, 1, seed=9).reset()
    np.testing.assert_array_equal(expert(policy, vec)(again), expert(fresh, vec)(again))
