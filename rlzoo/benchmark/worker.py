"""The process of one cell, seen from outside; the same on this machine and on a Ray node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from rlzoo.benchmark.job import FAILED, Job, Outcome, read_json

_TAIL_BYTES = 20_000
_TAIL_LINES = 3
_LONGEST = 600


def thread_limits(threads: int) -> dict[str, str]:
    """Return the environment variables that hold numerical libraries to a number of threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


class Worker:
    """Starts the process of a job, and tells how it ended.

    Whatever this process prints goes to ``<run folder>.log``. It stops by itself, with a
    checkpoint, when the process that made this object is gone.

    Args:
        job: The job.
        environment: Variables beside those of this process.

    Raises:
        OSError: If the process or its log cannot be made.
    """

    def __init__(self, job: Job, environment: Mapping[str, str] | None = None) -> None:
        self.job, self._asked = job, False
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "ab") as log:
            self._start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlzoo.benchmark.execute", "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **thread_limits(job.threads), **(environment or {})},
                # Ctrl-C in a terminal goes to all processes of a session; the driver decides.
                start_new_session=True,
            )
        # It stays open: its end tells the worker that nobody waits for it any more.
        self._stdin = self._process.stdin
        if self._stdin is not None:
            with contextlib.suppress(OSError):  # it has ended already; poll() tells why
                self._stdin.write(job.to_json().encode() + b"\n")
                self._stdin.flush()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def poll(self) -> Outcome | None:
        """Return how the process ended, None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        if self._stdin is not None:
            with contextlib.suppress(OSError):
                self._stdin.close()
        if code == 0:
            result = read_json(self.job.run_dir / "result.json")
            if isinstance(result, dict):
                return Outcome("ok", result)
            return Outcome("failed", error=f"no result.json in {self.job.run_dir}")
        if self._asked and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            return Outcome("stopped")
        return Outcome("failed", error=self._why(code))

    def stop(self) -> None:
        """Ask for a checkpoint and an end; asking again changes nothing."""
        if not self._asked:
            self._asked = True
            self._process.terminate()

    def output(self, start: int = 0) -> bytes:
        """Return what this process printed, from a byte on."""
        try:
            with open(self.job.log, "rb") as log:
                log.seek(self._start + start)
                return log.read()
        except OSError:
            return b""

    def _why(self, code: int) -> str:
        """Return the exit code or signal, and the message or the last lines of the output."""
        text = self.output().decode(errors="replace")[-_TAIL_BYTES:]
        _, marker, message = text.rpartition(FAILED)
        if marker:
            return _short(f"{' '.join(message.split())} (exit code {code})")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        last = " / ".join(lines[-_TAIL_LINES:])
        return _short(f"{_how(code)}; last output: {last}" if last else _how(code))


def _how(code: int) -> str:
    if code >= 0:
        return f"the worker ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
    return f"the worker was killed by {name}{hint}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 2] + " …"
