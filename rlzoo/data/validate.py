"""The checks that a data set passes before anything trains on it.

:func:`find_problems` looks, :func:`validate` refuses, :func:`repair` and :func:`drop_bad` help.
Errors are what makes training wrong or break off; warnings are what a person should know.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.data.schema import (
    DISCRETE,
    action_dtype,
    add_note,
    chain_breaks,
    rows_where,
)
from rlzoo.data.transitions import Transitions
from rlzoo.errors import RefusedError

TOLERANCE = 1e-6
"""How far an action may lie outside of its bounds, relative to ``max(1, |bound|)``."""

_FLOATS = ("observations", "actions", "rewards", "next_observations")
_ROW_ARRAYS = (*_FLOATS, "terminations", "truncations")


class DatasetWarning(UserWarning):
    """Something in a data set that is allowed but should be known."""


@dataclass(frozen=True)
class Problem:
    """One aspect in which a data set is wrong or unusual.

    Args:
        kind: Stable name of the aspect, such as ``"not_finite"``.
        message: One sentence without the count and place.
        count: How often it occurs (rows, episodes or arrays, as the message says).
        first: First place, ``"episode i, step t (row r)"``; empty when it has none.
        severity: ``"error"`` is refused, ``"warning"`` is said.
    """

    kind: str
    message: str
    count: int = 1
    first: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return self.message + (f", first at {self.first}" if self.first else "")


def place(t: Transitions, row: int) -> str:
    """Return ``"episode i, step t (row r)"`` for a row."""
    episode = int(np.searchsorted(t.episode_starts, row, side="right")) - 1
    return f"episode {episode}, step {row - int(t.episode_starts[episode])} (row {row})"


def find_problems(
    t: Transitions, *, batch_size: int | None = None, horizon: int | None = None
) -> list[Problem]:
    """Return everything that is wrong or unusual, errors first.

    Args:
        t: The data set.
        batch_size: Rows that a training batch needs; fewer is an error.
        horizon: Steps that one episode must offer (n-step, HER); it is an error when no episode
            has as many.

    Returns:
        Problems; an empty list for a data set without any. Values are looked at only when
        lengths, shapes and dtypes are right.
    """
    problems = _structure(t) or _formats(t)
    if not problems:
        checks = (_finite, _bounds, _flags, _sizes, _links, _duplicates, _rewards)
        problems = [problem for check in checks for problem in check(t)]
        problems += _too_small(t, batch_size, horizon)
    return sorted(problems, key=lambda p: p.severity)


def validate(
    t: Transitions, *, batch_size: int | None = None, horizon: int | None = None
) -> Transitions:
    """Return the data set if it can be trained on.

    A row with both flags set counts as a termination (the environment's own end wins over the
    cut): the truncation is cleared. That, and every warning, is said through ``warnings`` and
    recorded in ``metadata["notes"]``.

    Raises:
        RefusedError: Naming up to three errors with their counts and first places.
    """
    problems = find_problems(t, batch_size=batch_size, horizon=horizon)
    errors = [p for p in problems if p.severity == "error"]
    if errors:
        raise _refusal(t, errors)
    for problem in problems:
        warnings.warn(f"{t.dataset_id}: {problem}", DatasetWarning, stacklevel=2)
    both = t.terminations & t.truncations
    if both.any():
        t = replace(t, truncations=t.truncations & ~both)
    return add_note(t, *(str(p) for p in problems))


def _refusal(t: Transitions, errors: list[Problem]) -> RefusedError:
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    kinds = {p.kind for p in errors}
    todo = []
    if "not_finite" in kinds:
        todo.append("--drop-bad drops the episodes with NaN or Inf")
    if "action_bounds" in kinds and isinstance(t.action_space, spaces.Box):
        todo.append("--repair clip clips the actions")
    if kinds & {"too_small", "horizon"}:
        todo.append("Take a larger data set or a smaller batch or horizon")
    advice = "; ".join(todo) or "Collect or export the data set again"
    return RefusedError(
        f"Data set {t.dataset_id}: {'; '.join(str(p) for p in errors[:3])}{more}.",
        "",
        f"{advice}.",
    )


def repair(t: Transitions, how: str = "clip") -> Transitions:
    """Return a data set whose actions are clipped to the bounds, with a note of how many were.

    Args:
        t: The data set.
        how: Only ``"clip"``.

    Raises:
        RefusedError: If ``how`` is unknown or the action space has no bounds to clip to.
    """
    if how != "clip":
        raise RefusedError(f"repair={how!r} is unknown.", "Allowed: 'clip'.")
    if not isinstance(t.action_space, spaces.Box):
        raise RefusedError("Discrete actions cannot be clipped.", "Allowed: Box actions.")
    clipped = np.clip(t.actions, t.action_space.low, t.action_space.high)
    changed = int(((clipped != t.actions) & ~np.isnan(t.actions)).reshape(len(t), -1).any(1).sum())
    if not changed:
        return t
    note = f"repaired: actions of {changed} of {len(t)} rows clipped to their bounds"
    return add_note(replace(t, actions=clipped.astype(t.actions.dtype)), note)


def drop_bad(t: Transitions) -> Transitions:
    """Return the data set without the episodes that hold NaN or Inf, with a note of how many.

    Raises:
        RefusedError: If no episode is left, or the arrays do not fit together.
    """
    structural = _structure(t) or _formats(t)
    if structural:
        raise _refusal(t, structural)
    rows = np.unique(np.concatenate([_non_finite_rows(getattr(t, name)) for name in _FLOATS]))
    bad = np.unique(np.searchsorted(t.episode_starts, rows, side="right") - 1)
    if not len(bad):
        return t
    if len(bad) == t.n_episodes:
        raise RefusedError(
            f"Data set {t.dataset_id}: every episode ({t.n_episodes}) holds NaN or Inf.",
            "",
            "Collect or export the data set again.",
        )
    kept = t.select_episodes(np.setdiff1d(np.arange(t.n_episodes), bad))
    return add_note(
        kept,
        f"dropped {len(bad)} of {t.n_episodes} episodes ({len(t) - len(kept)} rows) "
        "with NaN or Inf",
    )


# --- structure: nothing else can be looked at before these hold ---------------------------------


def _structure(t: Transitions) -> list[Problem]:
    lengths = {name: len(getattr(t, name)) for name in _ROW_ARRAYS}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        return [Problem("lengths", f"lengths differ ({shown})", len(set(lengths.values())) - 1)]
    if not lengths["rewards"]:
        return [Problem("empty", "the data set is empty (0 transitions)")]
    return _episode_bounds(t.episode_starts, lengths["rewards"])


def _episode_bounds(starts: NDArray[np.int64], n: int) -> list[Problem]:
    if starts.ndim != 1 or starts.dtype.kind != "i" or len(starts) < 2:
        return [Problem("episode_starts", "episode_starts is not a list of at least 2 row numbers")]
    if starts[0] != 0 or starts[-1] != n:
        message = f"episode_starts runs from {starts[0]} to {starts[-1]}, not from 0 to {n}"
        return [Problem("episode_starts", message)]
    wrong = np.flatnonzero(np.diff(starts) <= 0)
    if len(wrong):
        message = f"{len(wrong)} episodes have no rows"
        return [Problem("episode_starts", message, len(wrong), f"episode {wrong[0]}")]
    return []


def _formats(t: Transitions) -> list[Problem]:
    observation = (t.observation_space.dtype, t.observation_space.shape or ())
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
        "observations": observation,
        "actions": (action_dtype(t.action_space), t.action_space.shape or ()),
        "rewards": (np.float32, ()),
        "terminations": (np.bool_, ()),
        "truncations": (np.bool_, ()),
        "next_observations": observation,
    }
    problems = []
    for name, (dtype, shape) in wanted.items():
        array = getattr(t, name)
        if array.shape[1:] != shape:
            message = f"{name} have shape {array.shape[1:]} per row, not {shape}"
            problems.append(Problem("shape", message))
        if array.dtype != dtype:
            message = f"{name} have dtype {array.dtype}, not {np.dtype(dtype)}"
            problems.append(Problem("dtype", message))
    return problems


# --- values -------------------------------------------------------------------------------------


def _non_finite_rows(array: NDArray[Any]) -> NDArray[np.int64]:
    if array.dtype.kind != "f":
        return np.zeros(0, np.int64)
    return rows_where(len(array), int(array[:1].nbytes), lambda rows: ~np.isfinite(array[rows]))


def _at(t: Transitions, kind: str, message: str, rows: NDArray[np.int64]) -> list[Problem]:
    """Return one error about ``rows``, none when there are none; ``{n}`` is their number."""
    if not len(rows):
        return []
    return [Problem(kind, message.format(n=len(rows)), len(rows), place(t, int(rows[0])))]


def _warn(problems: list[Problem]) -> list[Problem]:
    return [replace(p, severity="warning") for p in problems]


def _finite(t: Transitions) -> list[Problem]:
    problems = []
    for name in _FLOATS:
        rows = _non_finite_rows(getattr(t, name))
        problems += _at(t, "not_finite", f"{name} are NaN or Inf in {{n}} rows", rows)
    return problems


def _bounds(t: Transitions) -> list[Problem]:
    low, high = action_bounds(t.action_space)
    below = low - TOLERANCE * np.maximum(1, np.abs(low))
    above = high + TOLERANCE * np.maximum(1, np.abs(high))

    def outside(rows: slice) -> NDArray[Any]:
        actions = t.actions[rows]
        mask: NDArray[Any] = ((actions < below) | (actions > above)) & np.isfinite(actions)
        return mask

    rows = rows_where(len(t), int(t.actions[:1].nbytes), outside)
    shown = f"[{np.min(low):g}, {np.max(high):g}]"
    return _at(
        t, "action_bounds", f"actions are outside of their bounds {shown} in {{n}} rows", rows
    )


def action_bounds(space: spaces.Space[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the lowest and highest action of a Box, Discrete or MultiDiscrete space, float64."""
    if isinstance(space, spaces.Box):
        return space.low.astype(np.float64), space.high.astype(np.float64)
    if not isinstance(space, DISCRETE):
        raise RefusedError(
            f"{type(space).__name__} actions are not supported.",
            "Allowed: Box, Discrete or MultiDiscrete actions.",
        )
    low = np.asarray(space.start, dtype=np.float64)
    count = space.n if isinstance(space, spaces.Discrete) else space.nvec
    return low, low + np.asarray(count) - 1


def _flags(t: Transitions) -> list[Problem]:
    last = t.episode_starts[1:] - 1
    ended = t.terminations | t.truncations
    both = np.flatnonzero(t.terminations & t.truncations)
    still_open = last[~ended[last]]
    inner = ended.copy()
    inner[last] = False
    return [
        *_at(t, "open_episode", "{n} episodes end without a termination or truncation", still_open),
        *_at(
            t,
            "inner_flag",
            "{n} rows inside an episode are marked as its end",
            np.flatnonzero(inner),
        ),
        *_warn(
            _at(
                t,
                "both_flags",
                "{n} rows are termination and truncation at once (counted as termination)",
                both,
            )
        ),
    ]


def _sizes(t: Transitions) -> list[Problem]:
    single = t.episode_starts[:-1][t.episode_lengths == 1]
    return _warn(_at(t, "one_step", "{n} episodes have one step", single))


def _too_small(t: Transitions, batch_size: int | None, horizon: int | None) -> list[Problem]:
    problems = []
    if batch_size is not None and len(t) < batch_size:
        message = f"{len(t)} transitions are fewer than one batch ({batch_size})"
        problems.append(Problem("too_small", message))
    longest = int(t.episode_lengths.max())
    if horizon is not None and longest < horizon:
        message = f"the longest episode has {longest} steps, fewer than the horizon ({horizon})"
        problems.append(Problem("horizon", message))
    return problems


def _links(t: Transitions) -> list[Problem]:
    last = t.episode_starts[1:-1] - 1  # of every episode but the final one
    cut = last[t.truncations[last] & ~t.terminations[last]]
    equal = t.next_observations[cut] == t.observations[cut + 1]
    same = equal.all(axis=tuple(range(1, equal.ndim)))
    gaps = "{n} rows do not lead to the next row of their episode"
    links = "{n} truncated episodes lead to the first observation of the next episode"
    return [
        *_warn(_at(t, "chain", gaps, chain_breaks(t))),
        *_warn(_at(t, "linked_episodes", links, cut[same])),
    ]


def _duplicates(t: Transitions) -> list[Problem]:
    # Equal actions, rewards and first observation make an episode the same for every purpose here.
    seen: set[bytes] = set()
    twice = []
    for start, stop in itertools.pairwise(t.episode_starts.tolist()):
        parts = (t.observations[start], t.actions[start:stop], t.rewards[start:stop])
        key = _digest(*parts)
        if key in seen:
            twice.append(start)
        seen.add(key)
    message = "{n} episodes are copies of earlier ones"
    return _warn(_at(t, "duplicates", message, np.asarray(twice, np.int64)))


def _rewards(t: Transitions) -> list[Problem]:
    if len(t) < 2 or t.rewards.min() != t.rewards.max():
        return []
    message = f"all rewards are {t.rewards[0]:g}"
    return [Problem("constant_rewards", message, len(t), severity="warning")]


def _digest(*arrays: NDArray[Any]) -> bytes:
    digest = blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
