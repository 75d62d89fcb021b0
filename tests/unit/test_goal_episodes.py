"""Demonstrations towards goals: layout, padding, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlzoo.core.goal_episodes import GoalEpisodes
from rlzoo.errors import RefusedError


def _episode(length: int, actions: bool = True, as_dict: bool = True) -> dict[str, Any]:
    rng = np.random.default_rng(length)
    states = rng.normal(size=(length + 1, 3))
    goal = rng.normal(size=2)
    episode: dict[str, Any] = {"success": length > 2}
    if as_dict:
        episode["observations"] = {
            "observation": states,
            "achieved_goal": states[:, :2],
            "desired_goal": np.tile(goal, (length + 1, 1)),
        }
    else:
        episode |= {
            "observations": states,
            "achieved_goals": states[:, :2],
            "desired_goals": goal,
        }
    if actions:
        episode["actions"] = rng.uniform(-1, 1, size=(length, 1))
    return episode


@pytest.mark.parametrize("as_dict", [True, False])
def test_episodes_are_padded_by_the_last_state(as_dict: bool) -> None:
    raw = [_episode(4, as_dict=as_dict), _episode(2, as_dict=as_dict)]
    episodes = GoalEpisodes.from_episodes(raw, env_id="Task-v0", metadata={"sigma": 0.1})
    assert (len(episodes), episodes.horizon, episodes.n_steps) == (2, 4, 6)
    assert episodes.observations.shape == (2, 5, 3)
    assert episodes.observations.dtype == np.float32
    assert episodes.lengths.tolist() == [4, 2]
    assert episodes.lengths.dtype == np.int64
    np.testing.assert_array_equal(episodes.observations[1, 3:], episodes.observations[1, [2, 2]])
    np.testing.assert_array_equal(episodes.achieved_goals[1, 4], episodes.achieved_goals[1, 2])
    assert episodes.actions is not None
    assert not episodes.actions[1, 2:].any()
    assert episodes.success is not None
    assert episodes.success.tolist() == [True, False]
    assert (episodes.env_id, episodes.metadata) == ("Task-v0", {"sigma": 0.1})
    assert episodes.select([1]).lengths.tolist() == [2]
    assert episodes.steps_taken.tolist() == [[True] * 4, [True, True, False, False]]


def test_objects_like_those_of_minari() -> None:
    raw = SimpleNamespace(**_episode(3))
    episodes = GoalEpisodes.from_episodes([raw])
    assert episodes.actions is not None
    assert episodes.actions.shape == (1, 3, 1)


@pytest.mark.parametrize("how", ["none", "nan", "marked", "dropped"])
def test_states_only(how: str) -> None:
    raw = [_episode(4, actions=how != "none"), _episode(2, actions=how != "none")]
    if how == "nan":
        for episode in raw:
            episode["actions"][:] = np.nan
    episodes = GoalEpisodes.from_episodes(
        raw, metadata={"actions_valid": False} if how == "marked" else None
    )
    if how == "dropped":
        assert not episodes.state_only
        episodes = episodes.without_actions()
    assert episodes.state_only
    assert episodes.actions is None


def _arrays(**changes: Any) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        "observations": np.zeros((2, 4, 3)),
        "achieved_goals": np.zeros((2, 4, 2)),
        "desired_goals": np.zeros((2, 2)),
        "actions": np.zeros((2, 3, 1)),
    }
    for name, change in changes.items():
        arrays[name] = change(arrays[name]) if callable(change) else change
    return arrays


def _put(place: tuple[int, ...], value: float) -> Any:
    def change(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.zeros((2, 4))}, r"observations has shape \[2, 4\]"),
        ({"observations": np.zeros((0, 4, 3))}, r"observations has shape \[0, 4, 3\]"),
        ({"observations": [["a"]]}, "not an array of numbers"),
        ({"achieved_goals": np.zeros((2, 3, 2))}, r"achieved_goals has shape \[2, 3, 2\]"),
        ({"desired_goals": np.zeros((2, 3))}, r"desired_goals has shape \[2, 3\]"),
        ({"actions": np.zeros((2, 4, 1))}, r"actions has shape \[2, 4, 1\][\s\S]*\[2, 3, 1\]"),
        ({"observations": _put((1, 2, 0), np.inf)}, r"observations\[1, 2, 0\] is inf"),
        ({"actions": _put((0, 1, 0), np.nan)}, r"actions\[0, 1, 0\] is nan[\s\S]*actions=None"),
        ({"lengths": [3, 4]}, "episode 1 has length 4"),
        ({"lengths": [0, 3]}, "episode 0 has length 0"),
        ({"lengths": [3]}, r"lengths has shape \[1\]"),
        ({"success": [True]}, r"success has shape \[1\]"),
    ],
)
def test_what_does_not_fit_is_refused_in_three_lines(changes: Any, message: str) -> None:
    GoalEpisodes(**_arrays())
    with pytest.raises(RefusedError, match=message) as caught:
        GoalEpisodes(**_arrays(**changes))
    assert len(str(caught.value).splitlines()) <= 3


def _without(key: str) -> dict[str, Any]:
    episode = _episode(3)
    del episode["observations"][key]
    return episode


def _moving_goal() -> dict[str, Any]:
    episode = _episode(3)
    episode["observations"]["desired_goal"][2, 1] += 1
    return episode


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "no episode"),
        ([_episode(3), _episode(2, actions=False)], "Demonstration 1 has no actions"),
        ([_episode(3), _without("achieved_goal")], "Demonstration 1 has no achieved_goal"),
        ([_moving_goal()], "Demonstration 0 changes its desired goal at step 2"),
        ([{**_episode(3), "actions": np.zeros((4, 1))}], r"actions has shape \[4, 1\]"),
        ([_episode(3), {**_episode(2), "actions": np.zeros((2, 5))}], r"Demonstration 1: actions"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(raw: list[Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message) as caught:
        GoalEpisodes.from_episodes(raw)
    assert len(str(caught.value).splitlines()) <= 3
