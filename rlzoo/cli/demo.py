"""``rlzoo demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlzoo.cli import options


def demo(
    context: typer.Context,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Updates; by default those of the cpu preset.")
    ] = None,
    size: Annotated[int, typer.Option(metavar="N", help="Transitions to collect.")] = 150_000,
    seed: options.Seed = 0,
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder; by default below runs/.")
    ] = None,
) -> None:
    """Collect Hopper data, train BEAR on them, evaluate: under ten minutes on two cores."""
    from rlzoo.cli.console import ConsoleProgress
    from rlzoo.cli.train import data_score, next_steps, summary
    from rlzoo.report.tables import number, plus_minus, text_table
    from rlzoo.runs.demo import run_demo

    progress = ConsoleProgress()
    found = run_demo(steps, size, seed, run_dir, progress, options.command_line(context))
    training = found.training
    final, data = training.record["final"], training.data_returns or {}
    columns = ("Hopper-v4", "return", "normalised")
    rows = [
        ("random policy", plus_minus(found.random.return_mean, found.random.return_std),
         number(found.random.normalized)),
        ("data (medium)", plus_minus(data["mean"], data["std"]), number(data_score(training))),
        ("BEAR, final policy", plus_minus(final["return_mean"], final["return_std"]),
         number(final["normalized"])),
    ]  # fmt: skip
    print(summary(training))
    print()
    print(text_table(columns, rows, right=columns[1:]))
    print(f"{training.record['steps_per_second']:,.1f} updates per second.")
    print()
    print("\n".join(next_steps(training)))
