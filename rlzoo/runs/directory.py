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

from rlzoo.core.safe_files import is_alive, remove_leftovers, write_atomic, write_json_atomic
from rlzoo.errors import RefusedError

try:
    import fcntl
except ImportError:  # Windows: the process id in the file has to do
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"


class RunDirectory:
    """Paths of a run folder (``config.yaml``, ``manifest.json``, ``result.json``, ``model.zip`` …).

    Use :meth:`create` or :meth:`open`; as a context manager it releases the lock at the end.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "manifest.json"
        self.result = path / "result.json"
        self.model = path / "model.zip"
        self.best_model = path / "best_model.zip"
        self.checkpoints = path / "checkpoints"
        self.lock = path / LOCK
        self._descriptor: int | None = None

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
                    f"Continue that run with: rlzoo resume {path}, or give another --run-dir.",
                )
            run._take()
        except OSError as error:
            raise _unusable(path, error) from None
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Lock the folder of a run that was started before, to continue it.

        Raises:
            RefusedError: If it is no run folder, is in use, or cannot be written.
        """
        run = cls(path)
        if not run.manifest.is_file() or not run.config.is_file():
            missing = next(file for file in (run.manifest, run.config) if not file.is_file())
            raise RefusedError(
                f"{path} is not the folder of a run: it has no {missing.name}.",
                todo="Give the folder that the run printed, as runs/Hopper-v4/bear/cpu_seed0_1.",
            )
        try:
            run._take()
            remove_leftovers(path)
        except OSError as error:
            raise _unusable(path, error) from None
        return run

    def _take(self) -> None:
        self._descriptor = _take_lock(self.lock)
        # Root may "write" to a folder without permission bits but not to a read-only mount.
        with tempfile.TemporaryFile(dir=self.path):
            pass

    def release(self) -> None:
        """Give the folder free, and remove it if the run was refused before it wrote anything."""
        self.lock.unlink(missing_ok=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
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


def _take_lock(path: Path) -> int:
    """Make the lock file this process's own and return its descriptor.

    The system's lock on the file ends with the process, so a stale file is no obstacle, not even
    when another process has its number by now. Where the file system has no locks, the process id
    in the file decides.
    """
    while True:
        _refuse_in_use(path)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            _lock_file(descriptor, path)
            # Whoever held it before may have removed the file between open and lock.
            same = path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
            if same:
                owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, owner, 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock_file(descriptor: int, path: Path) -> None:
    try:
        if fcntl is None:
            raise OSError("no locks")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path, *(_owner(path) or ("?", "this machine"))) from None
    except OSError:  # a network file system without locks
        _refuse_in_use(path, by_process=True)


def _owner(lock: Path) -> tuple[int, str] | None:
    try:
        owner = json.loads(lock.read_text())
        return int(owner["pid"]), str(owner["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refuse_in_use(lock: Path, by_process: bool = False) -> None:
    """Refuse the lock of another machine; of this one only if asked to, see :func:`_lock_file`."""
    owner = _owner(lock)
    if owner is None:
        return
    pid, host = owner
    if host != socket.gethostname() or (by_process and pid != os.getpid() and is_alive(pid)):
        raise _in_use(lock, pid, host)


def _in_use(lock: Path, pid: int | str, host: str) -> RefusedError:
    return RefusedError(
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
