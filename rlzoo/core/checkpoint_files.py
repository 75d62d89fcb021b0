"""The files in the folder of a checkpoint: how one is written, linked, read and verified.

Their names for others are those in :mod:`rlzoo.core.checkpoint`.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy
from numpy.typing import NDArray

from rlzoo.core.safe_files import sha256_file
from rlzoo.errors import RefusedError

# What os.link says where there are no hard links, or too many of one file.
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
_logger = logging.getLogger(__name__)


class DamagedError(RefusedError):
    """A checkpoint that is incomplete or whose contents do not match its sums."""


@dataclass(frozen=True)
class FilePart:
    """A part for large arrays: made when its turn comes, so that only one is in memory at a time.

    :func:`rlzoo.core.checkpoint.load` verifies it and gives its path, but does not read it into
    memory. It is not checked for NaN.

    Args:
        arrays: Returns the arrays by name, to be written as ``<part>.safetensors``.
    """

    arrays: Callable[[], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Link:
    """A :class:`FilePart` of an earlier checkpoint that the new one holds unchanged.

    Args:
        name: Name of the part.
        path: The file.
        size: Its bytes.
        sha256: Its SHA-256; it is not computed again.
    """

    name: str
    path: Path
    size: int
    sha256: str


Content = bytes | FilePart | Link


def put(path: Path, content: Content) -> dict[str, Any]:
    """Make one file of a checkpoint.

    Returns:
        Its ``size`` and ``sha256`` for the manifest.

    Raises:
        OSError: If the disk is full, or the file to link to has gone or has another size.
    """
    if isinstance(content, Link):
        _link_or_copy(content.path, path)
        if path.stat().st_size != content.size:
            raise OSError(errno.EIO, f"{content.path} was changed after it had been written")
        return {"size": content.size, "sha256": content.sha256}
    if isinstance(content, FilePart):
        content = safetensors.numpy.save(dict(content.arrays()))
    write_flushed(path, content)
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _link_or_copy(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _logger.info("%s is copied, because it cannot be linked (%s)", source, error.strerror)
        with open(source, "rb") as old, open(path, "wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
            new.flush()
            os.fsync(new.fileno())


def write_flushed(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_file(file: Path, size: int, sha256: str) -> bytes:
    """Return the contents of a file.

    Raises:
        DamagedError: If it is missing, or of another size or sum.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error
    _compare(file, size, len(data), sha256, lambda: hashlib.sha256(data).hexdigest())
    return data


def verify_file(file: Path, size: int, sha256: str) -> None:
    """As :func:`read_file`, with a small piece of the file in memory at a time."""
    try:
        _compare(file, size, file.stat().st_size, sha256, lambda: sha256_file(file))
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> DamagedError:
    return damaged(file.parent, f"part {file.name} cannot be read ({error.strerror})")


def _compare(file: Path, size: int, found: int, sha256: str, digest: Callable[[], str]) -> None:
    if found != size:
        raise damaged(file.parent, f"part {file.name}, expected {size} bytes, found {found}")
    if digest() != sha256:
        raise damaged(file.parent, f"part {file.name} does not match its checksum")


def damaged(path: Path, what: str) -> DamagedError:
    """Return the error for a checkpoint in which ``what`` is wrong."""
    return DamagedError(
        f"Checkpoint {path.name} is damaged: {what}.", todo="Use an earlier checkpoint of the run."
    )
