"""SB3's vector of processes, whose failures say which environment it was, and which always ends."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv

from rlzoo.envs.guard import MAKE, EnvFailedError, Failure, failed_error

CLOSE_SECONDS = 10.0
"""How long all workers together may take to close before they are ended."""


class WorkerTraceback(Exception):  # noqa: N818 - it is shown as a cause, never raised
    """Shows the traceback of another process where Python prints the cause of an error."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class WorkerVecEnv(SubprocVecEnv):
    """SB3's vector of processes, with failures that have a name and an end that always comes.

    A command that fails raises :class:`EnvFailedError`. Afterwards the answers of the other workers
    are out of step, so nothing but :meth:`close` works.

    Args:
        factories: One function per environment; each returns a :class:`Guard` with ``remote=True``
            or an :class:`Unmade`.

    Raises:
        EnvFailedError: If an environment cannot be made.
    """

    def __init__(self, factories: list[Callable[[], gym.Env[Any, Any]]]) -> None:
        self.timeout: float | None = None
        self.broken: EnvFailedError | None = None
        failure: Exception | None = None
        try:
            super().__init__(factories)
        except Exception as error:
            failure = error
        pipes = [_Pipe(self, index, connection) for index, connection in enumerate(self.remotes)]
        self._pipes = pipes
        self.remotes: Any = tuple(pipes)
        try:
            # Not zip with strict: the last process may not have started.
            for pipe, _ in zip(pipes, self.processes, strict=False):
                pipe.send(("get_spaces", None))
                pipe.recv()
            if failure is not None:
                raise failure
        except Exception:
            self.close()
            raise

    def fail(
        self, index: int, call: str, problem: str, todo: str = "", trace: str = ""
    ) -> NoReturn:
        """Raise the error of one environment, and remember it."""
        self.broken = failed_error(index, len(self._pipes), call, problem, todo)
        raise self.broken from (WorkerTraceback(trace) if trace else None)

    def close(self) -> None:
        """Close the environments and end the processes, within about ``CLOSE_SECONDS``."""
        if self.closed:
            return
        self.closed = True
        deadline = time.monotonic() + CLOSE_SECONDS
        for pipe in self._pipes:
            pipe.ask_to_close(deadline)
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.terminate()
                process.join(1.0)
            if process.is_alive():  # Stopped, or in code that handles SIGTERM.
                process.kill()
                process.join()
        for pipe in self._pipes:
            pipe.connection.close()


class _Pipe:
    """The parent's end of the pipe to one worker, in place of the connection that SB3 uses."""

    def __init__(self, owner: WorkerVecEnv, index: int, connection: Any) -> None:
        self.owner, self.index, self.connection = owner, index, connection
        self.call, self.sent, self.waiting, self.hung = "", -math.inf, False, False

    def send(self, message: tuple[str, Any]) -> None:
        """Send a command; a worker that is known to be broken raises its error."""
        if self.owner.broken is not None:
            raise self.owner.broken
        # SB3 asks for the spaces first, which is answered once the environment is made.
        self.call = MAKE if message[0] == "get_spaces" else message[0]
        try:
            self.connection.send(message)
        except OSError:
            self._died()
        self.sent, self.waiting = time.monotonic(), True

    def recv(self) -> Any:
        """Receive the answer, or raise the error that names the environment."""
        try:
            answered = self._answered()
            message = self.connection.recv() if answered else None
        except (EOFError, OSError):
            self._died()
        if not answered:
            self._is_late()
        self.waiting = False
        if isinstance(message, tuple) and message and isinstance(message[0], Failure):
            failure = message[0]  # A step that ends an episode may have failed in the reset.
            self.owner.fail(self.index, failure.call, failure.problem, trace=failure.trace)
        return message

    def ask_to_close(self, deadline: float) -> None:
        """Take the answer that may be under way, so that the worker is free, and say close."""
        if self.hung:
            self.owner.processes[self.index].kill()
            return
        # Whatever goes wrong here, the process is ended anyway.
        with contextlib.suppress(Exception):
            if self.waiting and self.connection.poll(max(0.0, deadline - time.monotonic())):
                self.connection.recv()
            self.connection.send(("close", None))

    def _answered(self) -> bool:
        """Wait for an answer (or the end of the process); False once the time is over."""
        limit = self.owner.timeout
        if limit is None:
            return True
        return bool(self.connection.poll(max(0.0, self.sent + limit - time.monotonic())))

    def _is_late(self) -> NoReturn:
        if not self.owner.processes[self.index].is_alive():
            self._died()  # A process that it started still holds the pipe.
        self.hung = True
        self.owner.fail(
            self.index,
            self.call,
            f"no answer within {self.owner.timeout:g} s",
            "If the environment is only slow, raise the timeout.",
        )

    def _died(self) -> NoReturn:
        process = self.owner.processes[self.index]
        process.join(1.0)  # The pipe closes a moment before the exit code is known.
        code, todo = process.exitcode, "What the process printed above may say why."
        if code is None:
            self.hung = True
            problem = "its process closed the connection"
        elif code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            problem = f"its process was ended by {name}"
            if -code == signal.SIGKILL:
                todo = "Often the system had no memory left: use fewer environments."
        else:
            problem = f"its process ended with exit code {code}"
        self.owner.fail(self.index, self.call, problem, todo)
