"""Locks of a study that end with their process, so that a kill leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: one process at a time
    fcntl = None  # type: ignore[assignment]


def hold(path: Path, wait: bool = False) -> int | None:
    """Take the lock of a file.

    Args:
        path: The file; made if it is missing.
        wait: Wait for another process to give it back.

    Returns:
        A descriptor that holds the lock until it is closed; None if another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def holding(path: Path) -> Iterator[None]:
    """Hold the lock of a file for the block."""
    descriptor = hold(path, wait=True)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


class JournalLock:
    """Optuna's lock of a journal file, and the repair of what a killed writer left.

    Optuna's own lock files outlive their process, and half a line makes its journal unreadable as
    soon as another one follows.

    Args:
        journal: The journal file.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._path = journal, journal.with_name(f"{journal.name}.lock")
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._descriptor = hold(self._path, wait=True)
        cut_half_line(self._journal)
        return True

    def release(self) -> None:
        """Give the lock back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def cut_half_line(path: Path) -> None:
    """Remove what is after the last newline of a file."""
    with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        size = end
        while size > 0:
            start = max(0, size - 65536)
            file.seek(start)
            newline = file.read(size - start).rfind(b"\n")
            size = start + newline + 1
            if newline >= 0:
                break
        if size < end:
            file.truncate(size)
