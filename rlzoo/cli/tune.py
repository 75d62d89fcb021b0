"""``rlzoo tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlzoo.cli import options

if TYPE_CHECKING:
    from rlzoo.tune.tune import TuneResult

_SHOWN = 10


def tune(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(help="Name of the agent; see: rlzoo list.")],
    env: options.Env = None,
    trials: Annotated[
        int, typer.Option(metavar="N", help="Trials of the whole study, earlier ones included.")
    ] = 20,
    jobs: Annotated[int, typer.Option(metavar="N", help="Processes.")] = 1,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Steps of a trial.")] = None,
    study: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the study; runs/tune/ENV/AGENT by default."),
    ] = None,
    seed: options.Seed = 0,
    pruner: Annotated[
        str, typer.Option(metavar="NAME", help="median, hyperband or none: ends bad trials early.")
    ] = "median",
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="No trial begins after that time.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Best settings; best.yaml in the study by default."),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Search space; configs/AGENT/search.yaml by default."),
    ] = None,
    dataset: options.Dataset = None,
    device: options.Device = "auto",
    preset: options.Preset = None,
    overrides: options.Overrides = None,
    config: options.ConfigFile = None,
    eval_freq: options.EvalFreq = None,
    eval_episodes: options.EvalEpisodes = None,
    threads: options.Threads = None,
) -> None:
    """Search for good settings; a study can be stopped, continued, and worked on by several."""
    from rlzoo.cli.console import ConsoleProgress
    from rlzoo.runs.train import TrainRequest
    from rlzoo.tune.tune import TuneRequest, threads_for
    from rlzoo.tune.tune import tune as search

    training = TrainRequest(
        agent=agent,
        env_id=env,
        preset=preset,
        dataset=dataset,
        steps=steps,
        seed=seed,
        device=device,
        overrides=tuple(overrides or ()),
        config_file=config,
        eval_freq=eval_freq,
        eval_episodes=eval_episodes,
        threads=threads_for(jobs, threads),
        command=options.command_line(context),
    )
    request = TuneRequest(training, study, trials, jobs, pruner, timeout, space, out)
    _print(search(request, ConsoleProgress()), agent)


def _print(result: TuneResult, agent: str) -> None:
    """Print the best trials, and how to train with the settings of the best one."""
    import shlex

    from rlzoo.report.tables import number, text_table

    keys = list(result.best.settings)
    rows = [row for row in result.rows if row.state == "complete" and row.value is not None]
    rows.sort(key=lambda row: (-(row.value or 0.0), row.number))
    columns = ("trial", "return", *keys)
    lines = [
        (str(row.number), number(row.value), *(_short(row.settings.get(key)) for key in keys))
        for row in rows[:_SHOWN]
    ]
    print(text_table(columns, lines, right=("trial", "return")))
    counts = {
        state: sum(row.state == state for row in result.rows)
        for state in ("complete", "pruned", "failed", "interrupted")
    }
    print(f"Trials: {', '.join(f'{n} {state}' for state, n in counts.items() if n)}")
    print(f"Study: {result.folder}")
    print(f"Best settings: {result.config}\n")
    print(shlex.join(["rlzoo", "train", agent, "--config", str(result.config)]))
    print(shlex.join(["rlzoo", "report", str(result.folder / "trials")]))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
