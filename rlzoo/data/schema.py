"""What the schema asks of spaces and arrays, and the one place that builds it from loose arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.data.transitions import Transitions
from rlzoo.errors import RefusedError

DISCRETE = (spaces.Discrete, spaces.MultiDiscrete)
_BLOCK_BYTES = 2**26


def schema_spaces(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], source: str
) -> tuple[spaces.Box, spaces.Space[Any]]:
    """Return the spaces in the dtypes of the schema: boxes float32 (pixels uint8).

    Args:
        observation_space: Any Gymnasium space.
        action_space: Any Gymnasium space.
        source: Name of the data set, for the message.

    Raises:
        RefusedError: For a space that the schema does not hold, such as ``Dict`` observations.
    """
    if not isinstance(observation_space, spaces.Box):
        raise RefusedError(
            f"{source}: {type(observation_space).__name__} observations are not supported.",
            "Allowed: one Box of observations (float32 vectors or uint8 pixels).",
            "Flatten them (gymnasium.wrappers.FlattenObservation) and collect again.",
        )
    if not isinstance(action_space, (spaces.Box, *DISCRETE)):
        raise RefusedError(
            f"{source}: {type(action_space).__name__} actions are not supported.",
            "Allowed: Box, Discrete or MultiDiscrete actions.",
        )
    if isinstance(action_space, spaces.Box):
        action_space = _float32(action_space)
    if observation_space.dtype != np.uint8:
        observation_space = _float32(observation_space)
    return observation_space, action_space


def _float32(space: spaces.Box) -> spaces.Box:
    if space.dtype == np.float32:
        return space
    with np.errstate(over="ignore"):  # a bound beyond float32 means "unbounded"
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def action_dtype(space: spaces.Space[Any]) -> type[np.generic]:
    """Return the dtype of stored actions: int64 for discrete spaces, else float32."""
    return np.int64 if isinstance(space, DISCRETE) else np.float32


def build(
    arrays: Mapping[str, Any],
    episode_starts: NDArray[np.int64],
    observation_space: spaces.Box,
    action_space: spaces.Space[Any],
    metadata: Mapping[str, Any],
) -> Transitions:
    """Cast loose arrays to the schema and close episodes that end without a flag.

    An episode whose last row has no flag was cut by whoever recorded it: the row becomes a
    truncation and the episode is listed in ``metadata["cut_episodes"]``. Lengths, shapes and values
    are not checked here, see :mod:`rlzoo.data.validate`.

    Args:
        arrays: ``observations``, ``actions``, ``rewards``, ``terminations``, ``truncations``,
            ``next_observations``.
        episode_starts: ``[e + 1]``.
        observation_space: In the dtype of the schema.
        action_space: In the dtype of the schema.
        metadata: JSON-able facts.

    Raises:
        RefusedError: If an array cannot be read as the dtype that the schema asks for.
    """
    source = str(metadata.get("id", metadata.get("source", "data set")))
    name_dtype = {
        "observations": observation_space.dtype,
        "actions": action_dtype(action_space),
        "rewards": np.float32,
        "terminations": np.bool_,
        "truncations": np.bool_,
        "next_observations": observation_space.dtype,
    }
    cast = {name: _cast(name, arrays[name], dtype, source) for name, dtype in name_dtype.items()}
    t = Transitions(
        **cast,
        episode_starts=np.asarray(episode_starts, dtype=np.int64),
        observation_space=observation_space,
        action_space=action_space,
        metadata=dict(metadata),
    )
    return _close_episodes(t)


def _cast(name: str, values: Any, dtype: Any, source: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype == dtype:
        return array
    readable = array.dtype.kind in "iubf"
    if readable:
        with np.errstate(over="ignore", invalid="ignore"):
            converted = array.astype(dtype)
        if np.dtype(dtype).kind == "f" or np.array_equal(converted, array):
            return converted
    raise RefusedError(
        f"{source}: {name} has the wrong dtype or values: {array.dtype}.",
        f"Allowed: what can be read as {np.dtype(dtype)} without loss of meaning.",
    )


def _close_episodes(t: Transitions) -> Transitions:
    n = min(len(t.terminations), len(t.truncations))
    last = t.episode_starts[1:] - 1
    if n == 0 or (len(last) and (last.min() < 0 or last.max() >= n)):
        return t  # malformed: left to the checks
    still_open = np.flatnonzero(~(t.terminations[last] | t.truncations[last]))
    if not len(still_open):
        return t
    truncations = t.truncations.copy()
    truncations[last[still_open]] = True
    cut = sorted({*t.metadata.get("cut_episodes", []), *still_open.tolist()})
    return replace(t, truncations=truncations, metadata={**t.metadata, "cut_episodes": cut})


def add_note(t: Transitions, *notes: str) -> Transitions:
    """Return the same data with lines added to ``metadata["notes"]`` (repeated ones once).

    Notes record what was reconstructed or repaired; runs copy them into their manifest.
    """
    old = list(t.metadata.get("notes", []))
    new = [note for note in notes if note not in old]
    return t.with_metadata(notes=old + new) if new else t


def blocks(n: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices that cover ``n`` rows in pieces of about 64 MB, so that masks stay small."""
    size = max(1, _BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))


def rows_where(n: int, row_bytes: int, test: Callable[[slice], NDArray[Any]]) -> NDArray[np.int64]:
    """Return the rows in which any element of ``test(rows)`` is true."""
    found = [np.zeros(0, np.int64)]
    for rows in blocks(n, row_bytes):
        mask = test(rows)
        found.append(np.flatnonzero(mask.any(axis=tuple(range(1, mask.ndim)))) + rows.start)
    return np.concatenate(found)


def chain_breaks(t: Transitions) -> NDArray[np.int64]:
    """Return the rows inside an episode whose next observation is not the next row's observation.

    Rows with NaN are left out; they are reported as such.
    """

    def differs(rows: slice) -> NDArray[Any]:
        left = t.next_observations[rows]
        right = t.observations[rows.start + 1 : rows.stop + 1]
        different: NDArray[Any] = (left != right) & (left == left) & (right == right)
        return different

    n = len(t)
    broken = rows_where(max(n - 1, 0), int(t.observations[:1].nbytes), differs)
    return np.setdiff1d(broken, t.episode_starts[1:] - 1, assume_unique=True)


def to_json(value: Any) -> str:
    """Return ``value`` as JSON; NumPy scalars and arrays become numbers and lists.

    Raises:
        RefusedError: If the metadata holds something that JSON cannot.
    """

    def convert(item: Any) -> Any:
        if isinstance(item, (np.generic, np.ndarray)):
            return item.tolist()
        raise TypeError(f"{type(item).__name__} is not JSON-able")

    try:
        return json.dumps(value, default=convert)
    except (TypeError, ValueError) as error:
        raise RefusedError(f"The metadata cannot be stored: {error}.") from error
