"""Finished episodes of a collection on disk, so that a killed collection goes on where it was.

A folder holds ``collect.json`` (what is being collected) and one ``.npz`` per flush, each published
by one rename. An episode is found by its slot and number, so shards may come in any order, overlap
or be missing: what is absent or unreadable is collected again, with the same result.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlzoo.errors import RefusedError

Columns = dict[str, NDArray[Any]]
"""The six per-transition arrays of :class:`~rlzoo.data.transitions.Transitions` by name."""

CARD = "collect.json"
_PER_EPISODE = ("slots", "numbers", "cuts", "lengths", "successes")
FLUSH_ROWS, FLUSH_SECONDS = 20_000, 10.0


class Episode(NamedTuple):
    """One finished episode; ``cut`` says that the slot's quota ended it.

    ``success`` is what the environment said of it: at any step, and at the last one; None where
    it says nothing.
    """

    slot: int
    number: int
    cut: bool
    columns: Columns
    success: tuple[bool, bool] | None = None


def _publish(path: Path, write: Any) -> None:
    """Write a file next to ``path``, force it to the disk, and rename it."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class ShardFolder:
    """Where one group of slots writes its finished episodes.

    Args:
        folder: The work folder of the collection; prepared by :func:`prepare`.
        group: Number of the group of slots.
    """

    def __init__(self, folder: Path, group: int) -> None:
        self.folder, self.group = folder, group
        self._pending: list[Episode] = []
        self._rows = 0
        self._flushed_at = time.monotonic()

    def add(self, episode: Episode) -> None:
        """Keep a finished episode; written with others when there are enough or it is time."""
        self._pending.append(episode)
        self._rows += len(episode.columns["rewards"])
        if self._rows >= FLUSH_ROWS or time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if self._pending:
            arrays: Columns = {
                "slots": np.array([e.slot for e in self._pending], np.int64),
                "numbers": np.array([e.number for e in self._pending], np.int64),
                "cuts": np.array([e.cut for e in self._pending], np.bool_),
                "lengths": np.array([len(e.columns["rewards"]) for e in self._pending], np.int64),
                "successes": np.array([_as_row(e.success) for e in self._pending], np.int8),
            }
            for name in self._pending[0].columns:
                arrays[name] = np.concatenate([e.columns[name] for e in self._pending])
            path = self.folder / f"g{self.group:04d}-{uuid.uuid4().hex}.npz"
            _publish(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
        self._pending, self._rows = [], 0
        self._flushed_at = time.monotonic()

    def read(self) -> dict[tuple[int, int], Episode]:
        """Return the episodes on disk by ``(slot, number)``; unreadable shards are skipped."""
        found = {}
        for path in sorted(self.folder.glob(f"g{self.group:04d}-*.npz")):
            for episode in _episodes(path):
                found[episode.slot, episode.number] = episode
        return found


def _episodes(path: Path) -> Iterator[Episode]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}  # checks the CRC of each
        index = [arrays.pop(name) for name in _PER_EPISODE]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return
    ends = np.cumsum(index[3])
    for slot, number, cut, length, said, end in zip(*index, ends, strict=True):
        rows = {name: values[end - length : end] for name, values in arrays.items()}
        success = (bool(said[0]), bool(said[1])) if said[0] >= 0 else None
        yield Episode(int(slot), int(number), bool(cut), rows, success)


def _as_row(success: tuple[bool, bool] | None) -> tuple[int, int]:
    return (-1, -1) if success is None else (int(success[0]), int(success[1]))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for one collection; the system lets go of it when the process ends.

    Raises:
        RefusedError: If another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RefusedError(
                f"Another process is collecting in {folder}.",
                todo="Wait for it, or choose another folder.",
            ) from error
        yield


def prepare(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make the work folder ready for a collection, new or broken off.

    Args:
        folder: Made if absent.
        identity: Everything that decides about the bytes of the result; JSON-able.

    Raises:
        RefusedError: If the folder holds part of another collection.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.tmp"):
        leftover.unlink(missing_ok=True)
    wanted = json.loads(json.dumps(identity))
    card = folder / CARD
    try:
        found = json.loads(card.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = None
    except ValueError:
        found = {}
    if found is None and not any(folder.glob("*.npz")):
        text = json.dumps(wanted, indent=2, sort_keys=True) + "\n"
        _publish(card, lambda file: file.write(text.encode()))
    elif found != wanted:
        found = found or {}
        differs = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
        raise RefusedError(
            f"The folder {folder} holds part of another collection.",
            f"It differs in: {', '.join(differs)}.",
            "Delete the folder or choose another one.",
        )


def discard(folder: str | Path) -> None:
    """Delete what a collection left in its work folder, and the folder if nothing else is there."""
    path = Path(folder)
    for pattern in ("g[0-9]*-*.npz", "*.tmp", CARD, "lock"):
        for file in path.glob(pattern):
            file.unlink(missing_ok=True)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
