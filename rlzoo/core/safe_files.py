"""Files that are either the old one or the new one, never half of each. Standard library and NumPy.

Every write goes to a temporary file in the same folder, is flushed to the disk, and is renamed over
the target; the folder is flushed as well, so that a power cut cannot undo the rename. What a killed
process leaves behind is named ``*.tmp-<pid>`` and removed by :func:`remove_leftovers`.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rlzoo.errors import RefusedError

_LEFTOVER = re.compile(r"(?P<final>.+)\.(?P<kind>tmp|old)-(?P<pid>\d+)(-\d+)?")
_counter = itertools.count()
_in_use: set[str] = set()


@contextmanager
def temporary_name(path: Path) -> Iterator[Path]:
    """Give a free name beside ``path``; what is still there at the end is removed.

    The name is protected from :func:`remove_leftovers` of this process while the block runs.
    """
    # Names may be as long as the file system allows, so only a part of the name is kept.
    name = f"{path.name[:60]}.tmp-{os.getpid()}-{next(_counter)}"
    temporary = path.with_name(name)
    _in_use.add(name)
    try:
        yield temporary
    finally:
        remove(temporary)
        _in_use.discard(name)


@contextmanager
def replacing(path: str | Path) -> Iterator[io.BufferedRandom]:
    """Open a binary file that replaces ``path`` when the block ends without an error.

    Until then, and after an error, the previous file is untouched. Missing parent folders are made;
    a symbolic link is followed.

    Raises:
        RefusedError: If ``path`` exists and is not a regular file.
        OSError: If the disk is full or the folder cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise RefusedError(f"{path} exists and is not a regular file.", todo="Choose another name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_name(target) as temporary:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        fsync_folder(target.parent)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write bytes, or a text as UTF-8, so that readers see the old content or the new."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def fsync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk (nothing to do on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(temporary: Path, final: Path) -> None:
    """Rename the folder ``temporary`` to ``final``, which may exist and have contents.

    A kill in between leaves the previous one as ``*.old-<pid>``; see :func:`remove_leftovers`.

    Raises:
        OSError: If it cannot be renamed; the previous folder is then in its place.
    """
    old = final.with_name(f"{final.name}.old-{os.getpid()}")
    if final.exists():
        os.replace(final, old)
    try:
        os.replace(temporary, final)
    except OSError:
        if old.exists():
            os.replace(old, final)
        raise
    fsync_folder(final.parent)
    with suppress(OSError):  # the new one is in place; the next start cleans up
        remove(old)


def to_json(obj: Any, indent: int | None = 2) -> str:
    """Return standard JSON with sorted keys: the same object gives the same text.

    NaN and infinities, which JSON does not have, become ``null``; NumPy values, paths, tuples and
    sets become numbers, strings and lists. For state that must come back exactly use
    :mod:`rlzoo.core.json_tree`.

    Raises:
        TypeError: If something in ``obj`` has no meaning in JSON.
    """
    return json.dumps(_plain(obj), sort_keys=True, indent=indent, allow_nan=False) + "\n"


def write_json_atomic(path: str | Path, obj: Any) -> None:
    """Write :func:`to_json` of ``obj`` by :func:`write_atomic`."""
    write_atomic(path, to_json(obj))


def _plain(obj: Any) -> Any:
    if isinstance(obj, np.ndarray | np.generic):
        obj = obj.tolist()
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, set | frozenset):
        return sorted(_plain(value) for value in obj)
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    return str(obj) if isinstance(obj, Path) else obj


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file or a folder with everything in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> list[str]:
    """Clean up after processes that were killed while they wrote into ``folder``.

    ``*.tmp-<pid>`` is removed. ``*.old-<pid>``, the previous version during an exchange of folders,
    is put back if the new version did not arrive. Files of running processes are left alone.

    Returns:
        The names that were found and dealt with.
    """
    found = []
    for path in sorted(folder.iterdir()):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or path.name in _in_use:
            continue
        pid = int(match["pid"])
        # In a container every run may have the same pid: names of ours that are not in use are old.
        if pid != os.getpid() and is_alive(pid):
            continue
        final = path.with_name(match["final"])
        if match["kind"] == "old" and not final.exists():
            os.replace(path, final)
        else:
            remove(path)
        found.append(path.name)
    return found
