"""Episodes inside the HDF5 file of a Minari data set, written and read without Minari's loops.

Minari keeps one group per episode (``episode_<i>``) with five arrays and the attributes ``id``,
``total_steps`` and ``seed``; ``observations`` has one row more than the others. The file written
here is what plain ``minari.load_dataset`` reads. Arrays are stored whole (no chunks) and reached by
h5py's low-level calls, since a data set of random behaviour has tens of thousands of episodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces
from h5py import h5d, h5s
from numpy.typing import NDArray

from rlzoo.data.goals import FINAL_SUCCESSES, SUCCESSES, Layout, join, layout_of, split
from rlzoo.data.schema import chain_breaks
from rlzoo.data.transitions import Transitions
from rlzoo.errors import RefusedError

MAIN_FILE = "main_data.hdf5"
ROW_ARRAYS = ("actions", "rewards", "terminations", "truncations")
# An array that Minari does not know (and skips): true next observations of episodes whose rows do
# not follow each other, which n + 1 observations cannot hold.
_NEXT = "next_observations"
_ATTRIBUTES = {"seed": "episode_seeds", "success": SUCCESSES, "final_success": FINAL_SUCCESSES}


def write_episodes(path: Path, t: Transitions) -> None:
    """Write every episode of ``t`` to a new HDF5 file in Minari's layout, bit by bit.

    ``metadata["episode_seeds"]`` (``[e]``) becomes the seed attribute of the episodes, and what
    is known of their success the attributes ``success`` and ``final_success``. Observations with
    goals become the group of arrays that Minari keeps for a dict.
    """
    breaks = np.searchsorted(t.episode_starts, chain_breaks(t), side="right") - 1
    broken = set(breaks.tolist())
    attributes = {
        name: values
        for name, key in _ATTRIBUTES.items()
        if len(values := t.metadata.get(key, [])) == t.n_episodes
    }
    layout = layout_of(t)
    # Pixels compress well; gzip is loss-free and every HDF5 reader knows it.
    packed = t.observations.dtype == np.uint8 and t.observations.ndim > 2
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for i in range(t.n_episodes):
            start, stop = int(t.episode_starts[i]), int(t.episode_starts[i + 1])
            group = file.create_group(f"episode_{i}")
            group.attrs["id"] = i
            group.attrs["total_steps"] = stop - start
            for name, values in attributes.items():
                if values[i] is not None:
                    group.attrs[name] = values[i]
            observed = np.concatenate(
                [t.observations[start:stop], t.next_observations[stop - 1 : stop]]
            )
            if layout is None:
                _write(group, "observations", observed, packed)
            else:
                parts = group.create_group("observations")
                for name, values in split(observed, layout).items():
                    _write(parts, name, values, packed=False)
            if i in broken:
                _write(group, _NEXT, t.next_observations[start:stop], packed)
            for name in ROW_ARRAYS:
                _write(group, name, getattr(t, name)[start:stop], packed=False)


def _write(group: h5py.Group, name: str, array: NDArray[Any], packed: bool) -> None:
    if packed:
        chunks = (1, *array.shape[1:])
        group.create_dataset(
            name, data=array, chunks=chunks, compression="gzip", compression_opts=1
        )
        return
    array = np.ascontiguousarray(array)
    kind = h5py.h5t.py_create(array.dtype, logical=True)
    dataset = h5d.create(group.id, name.encode(), kind, h5s.create_simple(array.shape))
    dataset.write(h5s.ALL, h5s.ALL, array, mtype=kind)


class EpisodeReader:
    """Fills preallocated arrays of the schema from episodes.

    Args:
        source: Name of the data set, for messages.
        lengths: Steps of every episode, ``[e]``.
        observation_space: In the dtype of the schema.
        action_space: In the dtype of the schema.
        dtype: Dtype of stored actions.
        layout: Of observations with goals, which lie in a group of arrays.
    """

    def __init__(
        self,
        source: str,
        lengths: NDArray[np.int64],
        observation_space: spaces.Box,
        action_space: spaces.Space[Any],
        dtype: Any,
        layout: Layout | None = None,
    ) -> None:
        n = int(lengths.sum())
        self.source, self.layout = source, layout
        self.episode_starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        observed = (n, *observation_space.shape)
        self.arrays: dict[str, NDArray[Any]] = {
            "observations": np.empty(observed, observation_space.dtype),
            "actions": np.empty((n, *(action_space.shape or ())), dtype),
            "rewards": np.empty(n, np.float32),
            "terminations": np.empty(n, np.bool_),
            "truncations": np.empty(n, np.bool_),
            "next_observations": np.empty(observed, observation_space.dtype),
        }

    def read_file(self, file: h5py.File) -> None:
        """Read all episodes of an open Minari HDF5 file."""
        for i in range(len(self.episode_starts) - 1):
            key = f"episode_{i}".encode()
            if key not in file.id:
                raise self._refusal(i, "is missing")
            group = h5py.h5g.open(file.id, key)
            missing = [k for k in ("observations", *ROW_ARRAYS) if k.encode() not in group]
            if missing:
                raise self._refusal(i, f"has no {' and no '.join(missing)}")
            self._read_group(i, group)

    def _read_group(self, i: int, group: Any) -> None:
        start, stop = self._rows(i)
        steps = stop - start
        shape = self.arrays["observations"].shape[1:]
        observed = np.empty((steps + 1, *shape), self.arrays["observations"].dtype)
        if self.layout is None:
            self._read(i, group, "observations", observed)
        else:
            self._read_parts(i, group, observed)
        self.arrays["observations"][start:stop] = observed[:-1]
        self.arrays["next_observations"][start:stop] = observed[1:]
        for name in ROW_ARRAYS:
            self._read(i, group, name, self.arrays[name][start:stop])
        if _NEXT.encode() in group:
            self._read(i, group, _NEXT, self.arrays[_NEXT][start:stop])

    def _read_parts(self, i: int, group: Any, observed: NDArray[Any]) -> None:
        parts = h5py.h5g.open(group, b"observations")
        for key, target in split(observed, self.layout or {}).items():
            if key.encode() not in parts:
                raise self._refusal(i, f"has no observations/{key}")
            values = np.empty(target.shape, target.dtype)
            self._read(i, parts, key, values)
            target[...] = values

    def _read(self, i: int, group: Any, name: str, target: NDArray[Any]) -> None:
        if not target.flags.c_contiguous:
            raise ValueError(f"{name}: rows of the target are not contiguous")
        dataset = h5d.open(group, name.encode())
        if dataset.shape != target.shape:
            raise self._refusal(i, _wrong_shape(name, dataset.shape, target.shape))
        stored = dataset.dtype
        if stored == target.dtype or (stored.kind in "iuf" and target.dtype.kind == "f"):
            dataset.read(h5s.ALL, h5s.ALL, target)
            return
        values = np.empty(dataset.shape, stored)
        dataset.read(h5s.ALL, h5s.ALL, values)
        self._put(i, name, values, target)

    def read_episodes(self, episodes: Iterable[Mapping[str, Any]]) -> None:
        """Read episodes as Minari's own storage yields them (any format, JPEG decoded)."""
        for i, episode in enumerate(episodes):
            start, stop = self._rows(i)
            read = episode["observations"]
            observed = np.asarray(read) if self.layout is None else join(read)
            wanted = (stop - start + 1, *self.arrays["observations"].shape[1:])
            if observed.shape != wanted:
                raise self._refusal(i, _wrong_shape("observations", observed.shape, wanted))
            self._put(i, "observations", observed[:-1], self.arrays["observations"][start:stop])
            self._put(i, _NEXT, observed[1:], self.arrays[_NEXT][start:stop])
            for name in ROW_ARRAYS:
                values, target = np.asarray(episode[name]), self.arrays[name][start:stop]
                if values.shape != target.shape:
                    raise self._refusal(i, _wrong_shape(name, values.shape, target.shape))
                self._put(i, name, values, target)

    def _put(self, i: int, name: str, values: NDArray[Any], target: NDArray[Any]) -> None:
        """Copy ``values``; only floats may lose precision, nothing may change its meaning."""
        if values.dtype.kind in "biuf":
            with np.errstate(over="ignore", invalid="ignore"):
                target[...] = values
            if target.dtype.kind == "f" or np.array_equal(target, values):
                return
        raise self._refusal(i, f"has {name} of the wrong dtype: {values.dtype}, not {target.dtype}")

    def _rows(self, i: int) -> tuple[int, int]:
        return int(self.episode_starts[i]), int(self.episode_starts[i + 1])

    def _refusal(self, i: int, what: str) -> RefusedError:
        return RefusedError(
            f"{self.source}: episode {i} {what}.",
            "",
            "The data set is damaged: collect, import or download it again.",
        )


def _wrong_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if found[:1] != wanted[:1]:
        return f"has arrays whose lengths differ: {found[:1]} rows of {name}, not {wanted[:1]}"
    return f"has {name} of the wrong shape: {found}, not {wanted}"
