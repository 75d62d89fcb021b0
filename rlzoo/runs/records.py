"""Files that grow record by record, for logs: a full disk costs records, never the training."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

Warn = Callable[[str], None]


class Guard:
    """Context manager that turns an ``OSError`` into one warning, the first time.

    Args:
        path: The file that is named.
        warn: Gets the line.
    """

    def __init__(self, path: Path, warn: Warn) -> None:
        self._path, self._warn = path, warn
        self._told = False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, OSError):
            return False
        if not self._told:
            self._told = True
            self._warn(
                f"{self._path} cannot be written: {error.strerror or error}. "
                "Training goes on; the log has a gap until it can be written again."
            )
        return True


class Records:
    """A file to which records are added: all of a record, or nothing of it.

    Every method but :meth:`close` raises ``OSError`` if it fails, and may be called again.

    Args:
        path: The file; only this object writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: io.FileIO | None = None
        self._size = 0  # bytes of whole records
        self._identity: tuple[int, int] | None = None  # of the file that has so many

    def open(self) -> int:
        """Open the file if it is not open, and return the number of bytes of whole records."""
        return self._opened()[1]

    def append(self, record: bytes) -> None:
        """Put a record at the end."""
        file, size = self._opened()
        try:
            if os.fstat(file.fileno()).st_size > size:
                file.truncate(size)  # half a record that could not be taken back at that time
            rest = memoryview(record)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            # The next record opens it by its name: the disk may be mounted again by then.
            with contextlib.suppress(OSError):
                self.close()
            raise
        self._size = size + len(record)

    def sync(self) -> None:
        """Wait until everything that was added is on the disk."""
        if self._file is not None:
            file, size = self._opened()
            if size:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def replaced(self) -> None:
        """Take note that another file has the name now, which is whole."""
        self._identity = None
        self.close()

    def _opened(self) -> tuple[io.FileIO, int]:
        # Writing to a file that was removed works and is lost; one that was moved is still ours.
        if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:
            self.replaced()
            raise FileNotFoundError(errno.ENOENT, "it was removed", str(self.path))
        if self._file is None:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - it stays open
            status = os.fstat(self._file.fileno())
            identity = (status.st_dev, status.st_ino)
            known = identity == self._identity
            self._size = min(self._size, status.st_size) if known else status.st_size
            self._identity = identity
        return self._file, self._size
