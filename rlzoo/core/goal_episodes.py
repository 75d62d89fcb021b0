"""Demonstrations towards goals, in one layout: agents, data sets and experts agree on this class.

An episode of length ``L`` has states ``0..L`` and actions ``0..L-1``. Episodes of different length
share arrays that are padded at the end: states by repeating the last one, actions by zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlzoo.errors import RefusedError

_GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")
_AXES = {
    "observations": "[N, T+1, do]",
    "achieved_goals": "[N, T+1, dg]",
    "desired_goals": "[N, dg]",
    "actions": "[N, T, da]",
}


@dataclass(frozen=True, eq=False)
class GoalEpisodes:
    """``N`` episodes of up to ``T`` steps, checked on construction.

    Arrays are cast to float32 (no copy where they are float32 already). Actions that are NaN
    throughout mean the same as None: states only.

    Args:
        observations: ``[N, T+1, do]``.
        achieved_goals: ``[N, T+1, dg]``.
        desired_goals: ``[N, dg]``, one per episode.
        actions: ``[N, T, da]``, or None for demonstrations of states only.
        lengths: Steps of every episode, int64 ``[N]``, in ``[1, T]``; None: all have ``T``.
        success: Whether an episode reached its goal, bool ``[N]``; None: not known.
        env_id: Environment that they come from; empty: not known.
        metadata: Anything else as plain values, such as the noise of the expert.

    Raises:
        RefusedError: For shapes that do not fit together or values that are not finite.
    """

    observations: NDArray[np.float32]
    achieved_goals: NDArray[np.float32]
    desired_goals: NDArray[np.float32]
    actions: NDArray[np.float32] | None = None
    lengths: NDArray[np.int64] = None  # type: ignore[assignment]  # set in __post_init__
    success: NDArray[np.bool_] | None = None
    env_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, axes in _AXES.items():
            value = getattr(self, name)
            if value is not None:
                _set(self, name, _floats(name, value, axes))
        _check_shapes(self)
        horizon = self.horizon
        given: Any = self.lengths
        lengths = np.full(len(self), horizon) if given is None else given
        _set(self, "lengths", _checked_lengths(lengths, len(self), horizon))
        if self.success is not None:
            _set(self, "success", _per_episode("success", self.success, len(self)).astype(bool))
        if self.actions is not None and np.isnan(self.actions[self.steps_taken]).all():
            _set(self, "actions", None)
        for name in _AXES:
            _check_finite(name, getattr(self, name))

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def horizon(self) -> int:
        """``T``, the number of steps that the arrays have room for."""
        return int(self.observations.shape[1]) - 1

    @property
    def state_only(self) -> bool:
        """Whether there are no actions."""
        return self.actions is None

    @property
    def steps_taken(self) -> NDArray[np.bool_]:
        """Which steps are not padding, ``[N, T]``."""
        return np.arange(self.horizon) < self.lengths[:, None]

    @property
    def n_steps(self) -> int:
        """Steps of all episodes together, padding left out."""
        return int(self.lengths.sum())

    def without_actions(self) -> GoalEpisodes:
        """Return the same states without actions."""
        return dataclasses.replace(self, actions=None)

    def select(self, episodes: Sequence[int] | NDArray[Any] | slice) -> GoalEpisodes:
        """Return some of the episodes, by index, mask or slice."""
        chosen = episodes if isinstance(episodes, slice) else np.asarray(episodes)
        arrays: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[chosen]
            for name in (*_AXES, "lengths", "success")
        }
        return dataclasses.replace(self, **arrays)

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Mapping[str, Any] | Any],
        *,
        success: ArrayLike | None = None,
        env_id: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Pad and stack single episodes.

        Args:
            episodes: Mappings, or objects with attributes of the same names (as Minari's episodes):
                ``observations`` of ``L+1`` rows with ``achieved_goals`` and ``desired_goals``
                beside them, or ``observations`` as a mapping with the keys ``observation``,
                ``achieved_goal`` and ``desired_goal``. Optional: ``actions`` of ``L`` rows (in all
                episodes or in none) and ``success``. Desired goals may be one vector, or ``L+1``
                equal rows.
            success: Whether each reached its goal, ``[N]``, instead of what the episodes say.
            env_id: Environment that they come from.
            metadata: Anything else; ``actions_valid=False`` says that the actions mean nothing.

        Raises:
            RefusedError: For a missing part, a goal that changes within an episode, or what the
                class itself refuses.
        """
        parts = [_parts(index, episode) for index, episode in enumerate(episodes)]
        if not parts:
            raise RefusedError(
                "There is no episode among the demonstrations.", "Allowed: one episode or more."
            )
        without = [i for i, part in enumerate(parts) if part["actions"] is None]
        if 0 < len(without) < len(parts):
            raise RefusedError(
                f"Demonstration {without[0]} has no actions, others have.",
                "Allowed: actions in all episodes, or in none.",
            )
        metadata = dict(metadata or {})
        use_actions = not without and metadata.get("actions_valid", True)
        if success is None and all(part["success"] is not None for part in parts):
            success = [bool(part["success"]) for part in parts]
        horizon = max(len(part["observations"]) - 1 for part in parts)
        states = ("observations", "achieved_goals")
        padded = {name: _stack(name, parts, horizon + 1) for name in states}
        return cls(
            **padded,
            desired_goals=_same_width("desired_goals", [p["desired_goals"] for p in parts]),
            actions=_stack("actions", parts, horizon) if use_actions else None,
            lengths=np.array([len(part["observations"]) - 1 for part in parts], np.int64),
            success=None if success is None else np.asarray(success, bool),
            env_id=env_id,
            metadata=metadata,
        )


def _set(episodes: GoalEpisodes, name: str, value: Any) -> None:
    object.__setattr__(episodes, name, value)


def _floats(name: str, value: ArrayLike, axes: str) -> NDArray[np.float32]:
    try:
        array = np.ascontiguousarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise RefusedError(
            f"Demonstrations: {name} is not an array of numbers ({str(error)[:100]}).",
            f"Allowed: {axes}.",
        ) from error
    if array.ndim != axes.count(",") + 1 or 0 in array.shape:
        raise RefusedError(
            f"Demonstrations: {name} has shape {list(array.shape)}.",
            f"Allowed: {axes}, with at least one episode, one step and one number.",
        )
    return array


def _check_shapes(episodes: GoalEpisodes) -> None:
    n, rows, _ = episodes.observations.shape
    goal_size = episodes.achieved_goals.shape[-1]
    wanted = {
        "observations": (n, max(rows, 2), episodes.observations.shape[-1]),
        "achieved_goals": (n, rows, goal_size),
        "desired_goals": (n, goal_size),
    }
    if episodes.actions is not None:
        wanted["actions"] = (n, rows - 1, episodes.actions.shape[-1])
    for name, shape in wanted.items():
        found = getattr(episodes, name).shape
        if found != shape:
            raise RefusedError(
                f"Demonstrations: {name} has shape {list(found)}.",
                f"Allowed here: {list(shape)}, that is {_AXES[name]}.",
                "Pad shorter episodes and give their lengths, or use GoalEpisodes.from_episodes.",
            )


def _per_episode(name: str, value: ArrayLike, n: int) -> NDArray[Any]:
    array = np.asarray(value)
    if array.shape != (n,):
        raise RefusedError(
            f"Demonstrations: {name} has shape {list(array.shape)}.", f"Allowed here: [{n}]."
        )
    return array


def _checked_lengths(value: ArrayLike, n: int, horizon: int) -> NDArray[np.int64]:
    lengths = _per_episode("lengths", value, n)
    wrong = np.flatnonzero(~((lengths >= 1) & (lengths <= horizon) & (lengths % 1 == 0)))
    if len(wrong):
        raise RefusedError(
            f"Demonstrations: episode {wrong[0]} has length {lengths[wrong[0]]}.",
            f"Allowed here: 1 to {horizon} steps.",
        )
    return lengths.astype(np.int64)


def _check_finite(name: str, array: NDArray[np.float32] | None) -> None:
    if array is None or np.isfinite(array).all():
        return
    first = np.argwhere(~np.isfinite(array))[0]
    place = ", ".join(str(i) for i in first)
    raise RefusedError(
        f"Demonstrations: {name}[{place}] is {array[tuple(first)]}.",
        "Allowed: finite numbers; actions may be NaN throughout, which means states only.",
        "Drop the episode, or give actions=None.",
    )


def _parts(index: int, episode: Any) -> dict[str, Any]:
    """Return one episode as arrays ``[L+1, do]``, ``[L+1, dg]``, ``[dg]``, ``[L, da]`` or None."""
    if not isinstance(episode, Mapping):
        names = ("observations", "achieved_goals", "desired_goals", "actions", "success")
        episode = {name: getattr(episode, name, None) for name in names}
    observations = episode.get("observations")
    if isinstance(observations, Mapping):
        found = [observations.get(key) for key in _GOAL_KEYS]
    else:
        found = [observations, episode.get("achieved_goals"), episode.get("desired_goals")]
    missing = [key for key, value in zip(_GOAL_KEYS, found, strict=True) if value is None]
    if missing:
        raise RefusedError(
            f"Demonstration {index} has no {', '.join(missing)}.",
            f"Allowed: observations with {', '.join(_GOAL_KEYS)}.",
            "Take demonstrations of an environment with goals.",
        )
    states, achieved = (np.asarray(value) for value in found[:2])
    parts = {
        "observations": states,
        "achieved_goals": achieved,
        "desired_goals": _one_goal(index, np.asarray(found[2])),
        "actions": None if episode.get("actions") is None else np.asarray(episode["actions"]),
        "success": episode.get("success"),
    }
    _check_rows(index, parts)
    return parts


def _one_goal(index: int, goals: NDArray[Any]) -> NDArray[Any]:
    if goals.ndim < 2:
        return goals
    changed = (goals != goals[:1]).reshape(len(goals), -1).any(axis=1)
    if changed.any() and np.isfinite(goals).all():
        raise RefusedError(
            f"Demonstration {index} changes its desired goal at step {int(changed.argmax())}.",
            "Allowed: one goal for a whole episode.",
            "Split the episode where the goal changes.",
        )
    return np.asarray(goals[0])


def _check_rows(index: int, parts: Mapping[str, Any]) -> None:
    rows = len(parts["observations"]) if parts["observations"].ndim == 2 else 0
    wanted = {"observations": max(rows, 2), "achieved_goals": rows, "actions": rows - 1}
    for name, count in wanted.items():
        array = parts[name]
        if array is not None and (array.ndim != 2 or len(array) != count):
            raise RefusedError(
                f"Demonstration {index}: {name} has shape {list(array.shape)}.",
                f"Allowed here: {count} rows of numbers (states 0 to L, actions 0 to L-1).",
            )


def _same_width(name: str, rows: list[NDArray[Any]]) -> NDArray[Any]:
    for index, row in enumerate(rows):
        if row.shape[-1:] != rows[0].shape[-1:]:
            raise RefusedError(
                f"Demonstration {index}: {name} has shape {list(row.shape)}.",
                f"Allowed here: {rows[0].shape[-1]} numbers per row, as in the first episode.",
                "Do not mix demonstrations of different tasks.",
            )
    return np.stack(rows)


def _stack(name: str, parts: list[dict[str, Any]], rows: int) -> NDArray[Any]:
    """Pad every array of one kind to ``rows`` rows and stack them."""
    padded = []
    for part in parts:
        array = part[name]
        missing = rows - len(array)
        tail = np.repeat(array[-1:], missing, axis=0)
        if name == "actions":
            # NaN stays NaN, so that actions that are NaN throughout are recognised.
            tail = np.where(np.isnan(tail), tail, 0.0)
        padded.append(np.concatenate([array, tail]))
    return _same_width(name, padded)
