"""Open HDF5 files with messages that say what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from rlzoo.errors import RefusedError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@contextmanager
def open_hdf5(path: Path, todo: str) -> Iterator[h5py.File]:
    """Open ``path`` for reading; damage found while reading becomes a clear refusal as well.

    Args:
        path: The file.
        todo: What the user can do when it is unusable.

    Raises:
        RefusedError: If the file is missing, a folder, empty, not HDF5, cut short or damaged.
    """
    _check_file(path, todo)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise RefusedError(_explain(path, error), "", todo) from error


def _check_file(path: Path, todo: str) -> None:
    if not path.exists():
        raise RefusedError(f"{path} does not exist.", "", todo)
    if not path.is_file():
        raise RefusedError(f"{path} is not a file.", "", todo)
    size = path.stat().st_size
    if size == 0:
        raise RefusedError(f"{path} is empty (0 bytes).", "", todo)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise RefusedError(f"{path} cannot be read: {error.strerror}.", "", todo) from error
    if not head.startswith(_SIGNATURE):
        kind = "a web page" if head.lstrip()[:1] == b"<" else "another format"
        raise RefusedError(f"{path} is not HDF5 but {kind} ({size:,} bytes).", "", todo)


def _explain(path: Path, error: Exception) -> str:
    size = path.stat().st_size
    stored = re.search(r"stored_eof = (\d+)", str(error))
    if stored:
        return (
            f"{path} is cut short: {size:,} of {int(stored[1]):,} bytes (half-downloaded or "
            "half-written)."
        )
    reason = " ".join(str(error).split())[:120]
    return f"{path} is damaged ({size:,} bytes): {reason}"
