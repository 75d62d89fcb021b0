"""The folder of one run: refused before training when it cannot hold one, never mixed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import tempfile
from pathlib import Path
from typing import Any

from rlzoo.core.safe_files import is_alive, write_atomic, write_json_atomic
from rlzoo.errors import RefusedError

LOCK = "run.lock"


class RunDirectory:
    """Paths of a run folder (``config.yaml``, ``manifest.json``, ``result.json``, ``model.zip`` …).

    Use :meth:`create`; as a context manager it releases the lock at the end.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "manifest.json"
        self.result = path / "result.json"
        self.model = path / "model.zip"
        self.checkpoints = path / "checkpoints"
        self.lock = path / LOCK

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """Make an empty, writable, locked run folder.

        Raises:
            RefusedError: If the folder is in use or not empty, or cannot be made or written.
        """
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_in_use(run.lock)
            if any(entry.name != LOCK for entry in path.iterdir()):
                raise RefusedError(
                    f"Run folder {path} is not empty.",
                    "A run never mixes with another one.",
                    "Give another --run-dir, or leave it out for a new name.",
                )
            run._take_lock()
            # Root may "write" to a folder without permission bits but not to a read-only mount.
            with tempfile.TemporaryFile(dir=path):
                pass
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise _unusable(path, error) from None
        except OSError as error:
            raise _unusable(path, error) from None
        return run

    def _take_lock(self) -> None:
        owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        self.lock.unlink(missing_ok=True)  # of a process that is gone, see _refuse_in_use
        try:
            descriptor = os.open(self.lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            _refuse_in_use(self.lock)
            raise
        with os.fdopen(descriptor, "w") as file:
            file.write(owner)

    def release(self) -> None:
        """Give the folder free, and remove it if the run was refused before it wrote anything."""
        self.lock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, the usual case
            self.path.rmdir()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def write_json(self, path: Path, value: Any) -> None:
        """Write JSON so that a kill leaves the old file or the new one."""
        write_json_atomic(path, value)

    def write_text(self, path: Path, text: str) -> None:
        """Write text so that a kill leaves the old file or the new one."""
        write_atomic(path, text)


def _refuse_in_use(lock: Path) -> None:
    try:
        owner = json.loads(lock.read_text())
        pid, host = int(owner["pid"]), str(owner["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if host != socket.gethostname() or (pid != os.getpid() and is_alive(pid)):
        raise RefusedError(
            f"Run folder {lock.parent} is in use by process {pid} on {host}.",
            "Two runs never share a folder.",
            f"Give another --run-dir. If that process is gone, delete {lock}.",
        )


def _unusable(path: Path, error: OSError) -> RefusedError:
    return RefusedError(
        f"Run folder {str(path)[:120]} cannot be used: {error.strerror or error}.",
        "It must be a folder that can be made and written.",
        "Give another one with --run-dir.",
    )


def default_path(root: Path, env_id: str, agent: str, preset: str, seed: int) -> Path:
    """Return a new path ``root/<env>/<agent>/<preset>_seed<seed>_<n>``, the first free ``n``."""
    parent = root / safe_name(env_id) / agent
    n = 1
    while (path := parent / f"{safe_name(preset)}_seed{seed}_{n}").exists():
        n += 1
    return path


def safe_name(name: str) -> str:
    """Return ``name`` with everything outside of ``[A-Za-z0-9._=-]`` replaced by ``-``."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip(".-") or "unnamed"
