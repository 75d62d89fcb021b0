"""What a data set holds, as plain data: the numbers that ``rlzoo dataset check`` prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.data.scores import normalized_score
from rlzoo.data.transitions import Transitions
from rlzoo.data.validate import action_bounds, find_problems

_BINS = 10


def summarise(t: Transitions) -> dict[str, Any]:
    """Return a JSON-able summary of a data set, invalid ones included.

    Returns:
        ``id``, ``env_id``, ``transitions``, ``episodes``, ``complete_episodes``, ``arrays`` (shape,
        dtype, min, max of each), ``terminations``, ``truncations`` (rows), ``returns`` (mean, std,
        min, max, episodes, over complete episodes), ``return_histogram`` (``counts``, ``edges``),
        ``episode_lengths`` (mean, min, max), ``normalized_score`` (of the mean return, percent),
        ``actions_at_bounds`` (share of values within 1e-3 of a bound), ``notes``, ``fingerprint``,
        ``problems`` (as dictionaries), ``megabytes``. What needs intact episodes is ``None`` for a
        data set whose lengths do not fit.
    """
    names = ("observations", "actions", "rewards", "next_observations")
    problems = find_problems(t)
    broken = {"lengths", "empty", "episode_starts", "shape", "dtype"}
    intact = not broken & {p.kind for p in problems}
    summary: dict[str, Any] = {
        "id": t.dataset_id,
        "env_id": t.env_id,
        "transitions": len(t),
        "episodes": t.n_episodes,
        "observation_space": str(t.observation_space),
        "action_space": str(t.action_space),
        "arrays": {name: _array(getattr(t, name)) for name in names},
        "terminations": int(np.count_nonzero(t.terminations)),
        "truncations": int(np.count_nonzero(t.truncations)),
        "fingerprint": t.fingerprint,
        "megabytes": round(sum(getattr(t, name).nbytes for name in names) / 1e6, 3),
        "notes": list(t.metadata.get("notes", [])),
        "problems": [asdict(p) for p in problems],
    }
    return summary | (_episodes(t) if intact else dict.fromkeys(_EPISODE_KEYS))


_EPISODE_KEYS = (
    "complete_episodes",
    "returns",
    "return_histogram",
    "episode_lengths",
    "normalized_score",
    "actions_at_bounds",
)


def _array(array: NDArray[Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if array.dtype.kind not in "iuf" or not array.size:
        return {**facts, "min": None, "max": None, "not_finite": 0}
    if array.dtype.kind != "f":
        return {**facts, "min": int(array.min()), "max": int(array.max()), "not_finite": 0}
    finite = np.isfinite(array)
    low = float(np.min(array, where=finite, initial=np.inf))
    high = float(np.max(array, where=finite, initial=-np.inf))
    count = int(array.size - np.count_nonzero(finite))
    some = count < array.size
    return {
        **facts,
        "min": low if some else None,
        "max": high if some else None,
        "not_finite": count,
    }


def _episodes(t: Transitions) -> dict[str, Any]:
    returns = t.return_statistics()
    chosen = t.episode_returns[t.complete] if t.complete.any() else t.episode_returns
    chosen = chosen[np.isfinite(chosen)]
    counts, edges = np.histogram(chosen, bins=_BINS)
    lengths = t.episode_lengths
    return {
        "complete_episodes": int(t.complete.sum()),
        "returns": returns,
        "return_histogram": {
            "counts": counts.tolist(),
            "edges": edges.tolist(),
        },
        "episode_lengths": {
            "mean": float(lengths.mean()),
            "min": int(lengths.min()),
            "max": int(lengths.max()),
        },
        "normalized_score": normalized_score(t.env_id, returns["mean"]),
        "actions_at_bounds": _at_bounds(t),
    }


def _at_bounds(t: Transitions) -> float | None:
    if not isinstance(t.action_space, spaces.Box):
        return None
    low, high = action_bounds(t.action_space)
    near = (t.actions <= low + 1e-3) | (t.actions >= high - 1e-3)
    return float(near.mean())
