"""SIGTERM and Ctrl-C: the first asks for a checkpoint and an end, the second ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

from rlzoo.errors import FailedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(FailedError):
    """Training was asked to stop and did so after a checkpoint.

    Args:
        number: The signal; the exit code is 128 more, as a shell reports it.
        given: See :class:`~rlzoo.errors.RlzooError`.
        allowed: Likewise.
        todo: Likewise.
    """

    def __init__(self, number: int, given: str, allowed: str = "", todo: str = "") -> None:
        super().__init__(given, allowed, todo)
        self.number = number
        self.exit_code = 128 + number

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.number, self.given, self.allowed, self.todo)


class StopNowError(Exception):
    """Raised by the handler inside of :meth:`StopSignals.at_once`."""


class StopSignals:
    """While active, the first signal sets :attr:`requested` and a second one ends the process.

    Without effect outside of the main thread, where Python allows no handlers.

    Args:
        announce: Called with the line that says what happens now.
    """

    def __init__(self, announce: Any = None) -> None:
        self.requested: int | None = None
        self._announce = announce
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block the first signal raises, because nothing is lost by breaking it off.

        Raises:
            StopNowError: At the signal, or at once if there was one.
        """
        self._at_once = True
        try:
            if self.requested is not None:
                raise StopNowError
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.requested is not None:
            # Not sys.exit: worker threads and exit handlers may hang, and the user has waited.
            sys.stderr.flush()
            os._exit(128 + number)
        self.requested = number
        if self._announce is not None:
            name = signal.Signals(number).name
            self._announce(f"{name}: stopping after a checkpoint; once more to leave at once.")
        if self._at_once:
            raise StopNowError
