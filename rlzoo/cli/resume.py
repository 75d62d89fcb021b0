"""``rlzoo resume``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlzoo.cli import options

Steps = Annotated[int | None, typer.Option(metavar="N", help="New length of the whole run.")]


def resume(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    steps: Steps = None,
    overrides: options.Overrides = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another device than that of the run.")
    ] = None,
    threads: options.Threads = None,
    force: options.Force = False,
) -> None:
    """Continue a run that was stopped or killed, or make a finished one longer with --steps."""
    continue_run(context, run, None, steps, overrides, device, threads, force)


def continue_run(
    context: typer.Context,
    run: Path,
    agent: str | None,
    steps: int | None,
    overrides: list[str] | None,
    device: str | None,
    threads: int | None,
    force: bool,
) -> None:
    """Continue a run and print what ``rlzoo train`` prints."""
    from rlzoo.cli.console import ConsoleProgress
    from rlzoo.cli.train import print_result
    from rlzoo.runs.resume import ResumeRequest
    from rlzoo.runs.resume import resume as go_on

    request = ResumeRequest(
        run_dir=run,
        agent=agent,
        steps=steps,
        overrides=tuple(overrides or ()),
        device=device,
        threads=threads,
        force=force,
        command=options.command_line(context),
    )
    result = go_on(request, ConsoleProgress())
    if result is not None:
        print_result(result)
