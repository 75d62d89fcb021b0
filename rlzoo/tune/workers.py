"""Several processes on one study, started and ended together."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from rlzoo.errors import RlzooError
from rlzoo.runs.progress import Progress, Silent
from rlzoo.runs.signals import StopNowError, StoppedError, StopSignals
from rlzoo.tune.study import Study
from rlzoo.tune.trial import Plan, work

MakeStudy = Callable[[], Study]


def work_together(plan: Plan, make_study: MakeStudy, jobs: int, progress: Progress) -> None:
    """Make the trials of a plan in ``jobs`` processes.

    A process that dies is reported; the others take over what it left.

    Raises:
        StoppedError: If a signal asked for an end; every process has ended.
    """
    context = multiprocessing.get_context("spawn")
    plan = replace(plan, owner=os.getpid())
    crew: list[tuple[SpawnProcess, Connection]] = []
    with StopSignals(progress.message) as stop:
        try:
            with stop.at_once():
                for _ in range(jobs):
                    ours, theirs = context.Pipe(duplex=False)
                    process = context.Process(target=_main, args=(plan, make_study, theirs))
                    process.start()
                    theirs.close()
                    crew.append((process, ours))
                _listen(crew, progress)
        except StopNowError:
            raise StoppedError(stop.requested or 0, "Stopped.") from None
        finally:
            for process, _ in crew:
                if process.is_alive():
                    process.terminate()
            _listen(crew, progress)


def _listen(crew: Sequence[tuple[SpawnProcess, Connection]], progress: Progress) -> None:
    """Pass on what the processes say until all have ended."""
    by_pipe = {pipe: process for process, pipe in crew if not pipe.closed}
    while by_pipe:
        for ready in wait(list(by_pipe)):
            pipe: Any = ready
            try:
                progress.message(pipe.recv())
            except (EOFError, OSError):
                process = by_pipe.pop(pipe)
                pipe.close()
                process.join()
                if process.exitcode not in (0, 130, 143):
                    how = f"exit code {process.exitcode}"
                    if process.exitcode is not None and process.exitcode < 0:
                        how = f"signal {-process.exitcode}"
                    progress.message(f"A process of the study ended with {how}.")


def _main(plan: Plan, make_study: MakeStudy, pipe: Connection) -> None:
    """Work in a process of its own."""
    # Ctrl-C in a terminal is for the process that asked; it ends this one by SIGTERM.
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    try:
        work(plan, make_study(), Silent(), pipe.send)
    except StoppedError as error:
        raise SystemExit(error.exit_code) from None
    except RlzooError as error:
        pipe.send(str(error))
        raise SystemExit(error.exit_code) from None
    except Exception:
        pipe.send(traceback.format_exc(limit=3))
        raise SystemExit(1) from None
