"""Replay buffers in checkpoints, written incrementally. No pickle.

A transition does not change after it was added. So each checkpoint writes only the rows that were
added since the last one, into a new file (a *chunk*), and links the chunks of earlier checkpoints
(see :class:`rlzoo.core.checkpoint.Link`). A chunk is dropped when all its rows were overwritten.

Chunks are safetensors files with the arrays of the buffer by name, rows in order of age. A *row* is
one call of ``buffer.add``: one transition of each of ``n_envs`` environments. Rows are counted from
the start of the run, so that row ``r`` keeps its number when the buffer wraps around. What changes
anywhere in the buffer, such as priorities, is small and is stored in full each time.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer

from rlzoo.core.checkpoint import Checkpoint, DamagedError, FilePart, Link, linkable
from rlzoo.errors import RefusedError

PART = "replay"
MAX_ROWS, MAX_BYTES = 100_000, 64 << 20  # of one chunk, which is in memory while it is written
_SMALLEST = 256  # a buffer has about this many chunks at most; smaller ones are written again
# What SB3's buffers write in `add`, at the current position only. HER's ep_length is not of these.
_ROW_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_HER_ROW_ARRAYS = ("ep_start",)


@dataclass(frozen=True)
class _Chunk:
    """The rows from ``first`` up to, not including, ``last``; the file may hold more behind."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class _Mark:
    """Where the buffer stood; rows from ``stable`` on are to be written again next time."""

    added: int
    pos: int
    full: bool
    stable: int


class ReplayFiles:
    """The chunks of one run: what is on the disk already, and what the next checkpoint needs.

    >>> parts, links = files.parts(buffer, added)
    >>> files.committed(checkpoint.publish(folder, step, {**others, **parts}, links=links))

    A class of buffers that adds state of its own may say, as class attributes:

    * ``row_arrays``: names of more arrays ``[buffer_size, n_envs, ...]`` that are written only at
      the current position. Arrays that are not known are stored in full each time.
    * ``rewritten_arrays``: names of more attributes to store in full: arrays, tensors, numbers.
    """

    def __init__(self) -> None:
        self._buffer: weakref.ref[ReplayBuffer] | None = None
        self._mark: _Mark | None = None
        self._chunks: list[_Chunk] = []
        self._links: dict[str, Link] = {}
        self._serial = 0  # of the newest chunk; names are never used twice
        self._pending: tuple[weakref.ref[ReplayBuffer], _Mark, list[_Chunk], int] | None = None

    def parts(
        self, buffer: ReplayBuffer, added: int, *, volatile_from: int | None = None
    ) -> tuple[dict[str, Any], list[Link]]:
        """Return what to hand to :func:`rlzoo.core.checkpoint.publish`, before the buffer changes.

        If it is not followed by :meth:`committed`, the next call gives the same rows again. If
        ``added`` does not fit what happened to ``pos``, or it is another buffer than last time, or
        a file has gone, all rows are given.

        Args:
            buffer: One that :func:`check_supported` accepts.
            added: Calls of ``buffer.add`` since the run began, those before a resume included.
            volatile_from: Rows from this one on may still change (an unfinished episode): they
                are written now, and again the next time. The newest row always counts as such,
                because SB3 marks it as truncated where an episode is broken off.

        Returns:
            Parts and links.

        Raises:
            RefusedError: As :func:`check_supported`.
        """
        check_supported(buffer)
        arrays = row_arrays(buffer)
        oldest = added - buffer.size()
        start, kept = self._reusable(buffer, added)
        per_file = _rows_per_file(arrays)
        small = min(buffer.buffer_size // _SMALLEST, per_file // 2)
        while kept and start - kept[-1].first < small:
            start = max(oldest, kept.pop().first)
        new = [
            _Chunk(f"{PART}-{self._serial + i:08d}", first, min(first + per_file, added))
            for i, first in enumerate(range(start, added, per_file), start=1)
        ]
        stable = added - 1 if volatile_from is None else min(volatile_from, added - 1)
        mark = _Mark(added, buffer.pos, buffer.full, max(stable, oldest))
        chunks, serial = kept + new, self._serial + len(new)
        self._pending = (weakref.ref(buffer), mark, chunks, serial)
        parts: dict[str, Any] = {PART: _description(buffer, mark, chunks, serial)}
        for chunk in new:
            parts[chunk.name] = FilePart(partial(_rows, buffer, added, chunk))
        return parts, [self._links[chunk.name] for chunk in kept]

    def committed(self, folder: str | Path) -> None:
        """Say that the parts were published: from now on the chunks are linked from there.

        Args:
            folder: What ``publish`` returned.
        """
        if self._pending is None:
            raise ValueError("Nothing was handed out since the last call.")
        links = linkable(folder)
        self._links = {chunk.name: links[chunk.name] for chunk in self._pending[2]}
        self._buffer, self._mark, self._chunks, self._serial = self._pending
        self._pending = None

    def restore(self, buffer: ReplayBuffer, checkpoint: Checkpoint) -> None:
        """Fill a freshly made buffer with that of a checkpoint, and link its chunks from now on.

        The number of rows so far is ``checkpoint.parts["replay"]["added"]``.

        Args:
            buffer: Of the same class, sizes and spaces; still empty if it is refused.
            checkpoint: From :func:`rlzoo.core.checkpoint.load`, so its sums are right.

        Raises:
            RefusedError: If there is no replay buffer in the checkpoint or it is another one.
            DamagedError: If its description and its files do not fit.
        """
        check_supported(buffer)
        state = checkpoint.parts.get(PART)
        if state is None:
            raise RefusedError(
                f"There is no replay buffer in {checkpoint.path}.",
                todo="Continue from a checkpoint of a run that stores its replay buffer.",
            )
        try:
            _check_same(buffer, state, checkpoint.path)
            mark = _Mark(**state["mark"])
            chunks = [_Chunk(**chunk) for chunk in state["chunks"]]
            _check_complete(buffer, mark, chunks)
            for chunk in chunks:
                _fill(buffer, mark, chunk, checkpoint.files[chunk.name])
            _set_full_state(buffer, state["state"])
            links = linkable(checkpoint.path)
            self._links = {chunk.name: links[chunk.name] for chunk in chunks}
            self._serial = int(state["serial"])
        except (KeyError, TypeError, ValueError, OSError, safetensors.SafetensorError) as error:
            if isinstance(error, RefusedError):
                raise
            raise DamagedError(
                f"Checkpoint {checkpoint.path.name} is damaged: part {PART} ({error}).",
                todo="Use an earlier checkpoint of the run.",
            ) from error
        buffer.pos, buffer.full = mark.pos, mark.full
        self._buffer, self._mark, self._chunks = weakref.ref(buffer), mark, chunks
        self._pending = None

    def _reusable(self, buffer: ReplayBuffer, added: int) -> tuple[int, list[_Chunk]]:
        """Return the first row to write, and the chunks that hold the live rows before it."""
        oldest, mark = added - buffer.size(), self._mark
        same = self._buffer is not None and self._buffer() is buffer
        if mark is None or not same or not _follows(buffer, added, mark):
            return oldest, []
        start = max(oldest, mark.stable)
        kept = [
            _Chunk(chunk.name, chunk.first, min(chunk.last, start))
            for chunk in self._chunks
            if chunk.first < start and min(chunk.last, start) > oldest
        ]
        if not all(_is_there(self._links[chunk.name]) for chunk in kept):
            return oldest, []
        return start, kept


def check_supported(buffer: BaseBuffer) -> None:
    """Refuse a buffer that cannot be stored this way; meant for the start of a run.

    Raises:
        RefusedError: If it is not an SB3 ``ReplayBuffer``, keeps ``info`` dictionaries or other
            Python objects, or has ``optimize_memory_usage=True``.
    """
    name = type(buffer).__name__
    if not isinstance(buffer, ReplayBuffer) or not isinstance(
        getattr(buffer, "actions", None), np.ndarray
    ):
        raise RefusedError(
            f"A {name} cannot be stored in checkpoints.",
            "Allowed: SB3's ReplayBuffer and its subclasses that keep NumPy arrays.",
        )
    if buffer.optimize_memory_usage:
        raise RefusedError(
            f"{name} with optimize_memory_usage=True cannot be stored in checkpoints.",
            "Its newest row is in two transitions, of which one is not complete.",
            "Use optimize_memory_usage=False.",
        )
    for key, array in _arrays(buffer):
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            her = key == "infos"
            raise RefusedError(
                f"{name} with {'copy_info_dict=True' if her else f'{key} of {array.dtype}'} "
                "cannot be stored in checkpoints.",
                "Allowed: arrays of numbers; Python objects would need pickle.",
                "Use copy_info_dict=False." if her else "Use a space of numbers.",
            )


def row_arrays(buffer: ReplayBuffer) -> dict[str, NDArray[Any]]:
    """Return by name the arrays ``[buffer_size, n_envs, ...]`` whose rows are written once.

    Those in a dictionary are called ``observations/<key>``. The arrays are not copied.
    """
    known = {*_ROW_ARRAYS, *getattr(buffer, "row_arrays", ())}
    if isinstance(buffer, HerReplayBuffer):
        known.update(_HER_ROW_ARRAYS)
    known.difference_update(getattr(buffer, "rewritten_arrays", ()))
    return {name: array for name, array in _arrays(buffer) if name.partition("/")[0] in known}


def _arrays(buffer: ReplayBuffer) -> Iterator[tuple[str, NDArray[Any]]]:
    """Give the NumPy arrays of a buffer, those in dictionaries by ``name/key``."""
    for name, value in vars(buffer).items():
        if name == "infos" and not getattr(buffer, "copy_info_dict", True):
            continue  # HER makes the dictionaries in any case, and leaves them empty
        if isinstance(value, np.ndarray):
            yield name, value
        elif isinstance(value, dict):
            for key, item in value.items():
                if isinstance(item, np.ndarray):
                    yield f"{name}/{key}", item


def _full_state(buffer: ReplayBuffer) -> dict[str, Any]:
    """Return what is stored in full: the other arrays as tensors, not copied, and the declared."""
    rows = row_arrays(buffer)
    state: dict[str, Any] = {
        name: torch.from_numpy(array) for name, array in _arrays(buffer) if name not in rows
    }
    for name in getattr(buffer, "rewritten_arrays", ()):
        value = getattr(buffer, name)
        if not isinstance(value, np.ndarray | dict):
            state[name] = value
    return state


def _set_full_state(buffer: ReplayBuffer, state: Mapping[str, Any]) -> None:
    for name, target in _full_state(buffer).items():
        if isinstance(target, torch.Tensor):
            target.copy_(state[name])  # in place: shares its memory with the array
        else:
            setattr(buffer, name, state[name])


def _layout(buffer: ReplayBuffer) -> dict[str, Any]:
    """Return what must be equal for rows of one buffer to fit into another, by name."""
    layout: dict[str, Any] = {
        "class": type(buffer).__name__,
        "buffer_size": buffer.buffer_size,
        "n_envs": buffer.n_envs,
    }
    for name, array in row_arrays(buffer).items():
        layout[name] = f"{array.dtype} {list(array.shape)}"
    for name, value in _full_state(buffer).items():
        is_tensor = isinstance(value, torch.Tensor)
        layout[name] = f"{value.dtype} {list(value.shape)}" if is_tensor else "a value"
    return layout


def _description(
    buffer: ReplayBuffer, mark: _Mark, chunks: list[_Chunk], serial: int
) -> dict[str, Any]:
    return {
        "added": mark.added,
        "layout": _layout(buffer),
        "mark": asdict(mark),
        "chunks": [asdict(chunk) for chunk in chunks],
        "serial": serial,
        "state": _full_state(buffer),
    }


def _check_same(buffer: ReplayBuffer, state: Mapping[str, Any], path: Path) -> None:
    stored, wanted = dict(state["layout"]), _layout(buffer)
    for name in [*wanted, *stored]:
        if stored.get(name) != wanted.get(name):
            raise RefusedError(
                f"The replay buffer in {path} has {name} {stored.get(name)}.",
                f"The one to fill has {name} {wanted.get(name)}.",
                "Continue with the settings and the environment of the first run.",
            )


def _check_complete(buffer: ReplayBuffer, mark: _Mark, chunks: list[_Chunk]) -> None:
    """Raise ValueError unless the chunks hold every live row, one after the other."""
    if not 0 <= mark.pos < buffer.buffer_size:
        raise ValueError(f"pos {mark.pos}")
    row = mark.added - (buffer.buffer_size if mark.full else mark.pos)
    for chunk in chunks:
        if not chunk.first <= row < chunk.last:
            raise ValueError(f"no row {row}")
        row = chunk.last
    if row != mark.added:
        raise ValueError(f"no row {row}")


def _follows(buffer: ReplayBuffer, added: int, mark: _Mark) -> bool:
    """Return whether the buffer is that of ``mark`` after ``added - mark.added`` calls of add."""
    moved = mark.pos + added - mark.added
    full = mark.full or moved >= buffer.buffer_size
    return added >= mark.added and (moved % buffer.buffer_size, full) == (buffer.pos, buffer.full)


def _is_there(link: Link) -> bool:
    try:
        return link.path.stat().st_size == link.size
    except OSError:
        return False


def _rows_per_file(arrays: Mapping[str, NDArray[Any]]) -> int:
    row_bytes = sum(array.nbytes // len(array) for array in arrays.values())
    return max(1, min(MAX_ROWS, MAX_BYTES // row_bytes))


def _places(size: int, end: int, first: int, last: int) -> list[slice]:
    """Return where rows lie in arrays of ``size`` rows, in order of age.

    Args:
        size: Rows of the buffer.
        end: A row that would be (or is) at place 0.
        first: First row.
        last: Row behind the last; at most ``size`` more than ``first``.
    """
    begin = (first - end) % size
    stop = begin + last - first
    if stop <= size:
        return [slice(begin, stop)]
    return [slice(begin, size), slice(0, stop - size)]


def _rows(buffer: ReplayBuffer, added: int, chunk: _Chunk) -> dict[str, NDArray[Any]]:
    """Return the arrays of a chunk; views of the buffer unless the rows wrap around."""
    places = _places(buffer.buffer_size, added - buffer.pos, chunk.first, chunk.last)
    return {
        name: np.ascontiguousarray(array[places[0]])
        if len(places) == 1
        else np.concatenate([array[place] for place in places])
        for name, array in row_arrays(buffer).items()
    }


def _fill(buffer: ReplayBuffer, mark: _Mark, chunk: _Chunk, path: Path) -> None:
    """Read the live rows of a chunk, a piece at a time, to their places."""
    first = max(chunk.first, mark.added - buffer.buffer_size)
    places = _places(buffer.buffer_size, mark.added - mark.pos, first, chunk.last)
    with safetensors.safe_open(path, framework="numpy") as file:
        for name, array in row_arrays(buffer).items():
            stored, at = file.get_slice(name), first - chunk.first
            for place in places:
                rows = place.stop - place.start
                found = stored[at : at + rows]
                if found.shape != array[place].shape or found.dtype != array.dtype:
                    raise ValueError(f"{chunk.name} has {name} {found.dtype} {found.shape}")
                array[place] = found
                at += rows
