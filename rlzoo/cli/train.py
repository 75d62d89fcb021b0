"""``rlzoo train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlzoo.cli import options

if TYPE_CHECKING:
    from rlzoo.runs.train import TrainResult

GENERATIONS = 400
"""Of the policy of ``--then-dream``, as published."""


def train(
    context: typer.Context,
    agent: Annotated[str | None, typer.Argument(help="Name of the agent; see: rlzoo list.")] = None,
    env: options.Env = None,
    dataset: options.Dataset = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Environment steps; updates of an agent that learns from data."
        ),
    ] = None,
    seed: options.Seed = 0,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder, new or empty; by default below runs/."),
    ] = None,
    device: options.Device = "auto",
    preset: options.Preset = None,
    overrides: options.Overrides = None,
    config: options.ConfigFile = None,
    eval_freq: options.EvalFreq = None,
    eval_episodes: options.EvalEpisodes = None,
    eval_epsilon: Annotated[
        float | None,
        typer.Option(metavar="P", help="Share of random actions in evaluations, 0 to 1."),
    ] = None,
    n_envs: Annotated[
        int | None, typer.Option(metavar="N", help="Environments side by side.")
    ] = None,
    threads: options.Threads = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Deterministic algorithms on CUDA; slower.")
    ] = False,
    video: Annotated[
        bool, typer.Option("--video", help="Record an episode of the final policy.")
    ] = False,
    then_dream: Annotated[
        bool,
        typer.Option(
            "--then-dream",
            help="Then train a fresh policy in the learnt world model and play it in the real task;"
            " 400 generations, or --set run.then_dream=N.",
        ),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="Continue that run, as rlzoo resume does."),
    ] = None,
    force: options.Force = False,
) -> None:
    """Train an agent; its run folder gets the model, the curve and everything to repeat it."""
    from rlzoo.cli.console import ConsoleProgress
    from rlzoo.runs.train import TrainRequest
    from rlzoo.runs.train import train as run

    if resume is not None:
        _continue(context, resume, agent, steps, overrides, device, threads, force)
        return
    if agent is None:
        raise typer.BadParameter("Which agent? For example: rlzoo train bear --env Hopper-v4")
    given = [*(overrides or ()), *(["run.deterministic=true"] if deterministic else [])]
    given += ["run.video=true"] if video else []
    # First, so that --set run.then_dream=N wins.
    given = [*([f"run.then_dream={GENERATIONS}"] if then_dream else []), *given]
    request = TrainRequest(
        agent=agent,
        env_id=env,
        preset=preset,
        dataset=dataset,
        steps=steps,
        seed=seed,
        run_dir=run_dir,
        device=device,
        overrides=tuple(given),
        config_file=config,
        eval_freq=eval_freq,
        eval_episodes=eval_episodes,
        eval_epsilon=eval_epsilon,
        n_envs=n_envs,
        threads=threads,
        command=options.command_line(context),
    )
    print_result(run(request, ConsoleProgress()))


def _continue(
    context: typer.Context, run: Path, agent: str | None, steps: int | None,
    overrides: list[str] | None, device: str, threads: int | None, force: bool,
) -> None:  # fmt: skip
    """Continue a run; options that would start another one are refused."""
    from rlzoo.cli.resume import continue_run
    from rlzoo.errors import RefusedError

    names = ("env", "dataset", "seed", "run_dir", "preset", "config", "eval_freq", "eval_episodes",
             "eval_epsilon", "n_envs", "deterministic", "video", "then_dream")  # fmt: skip
    given = [name for name in names if _was_given(context, name)]
    if given:
        options_ = ", ".join("--" + name.replace("_", "-") for name in given)
        raise RefusedError(
            f"{options_} cannot be given with --resume: the run has its own.",
            "Allowed with it: --steps, --set, --device, --threads, --force.",
        )
    other = device if _was_given(context, "device") else None
    continue_run(context, run, agent, steps, overrides, other, threads, force)


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def print_result(result: TrainResult) -> None:
    """Print the table of a finished run and what one wants next."""
    print(summary(result))
    print()
    print("\n".join(next_steps(result)))


def summary(result: TrainResult) -> str:
    """Return the table of a finished run, and draw its curve."""
    from rlzoo.data.scores import score_digits
    from rlzoo.report.tables import number, plus_minus, text_table

    record, columns = result.record, ("", "return", "episodes", "normalised")
    digits = score_digits(record["env"])
    rows = [_row("final policy", record["final"], digits)]
    if record["best"] is not None:
        rows.append(_row(f"best, step {record['best']['step']:,}", record["best"], digits))
    if result.data_returns is not None:
        data = result.data_returns
        returns = plus_minus(data["mean"], data["std"])
        rows.append(("data", returns, number(data["episodes"], 0), number(data_score(result))))
    dreamt = record.get("dream")
    if dreamt is not None:
        rows.append(_row("policy from the dream", {**dreamt, "normalized": None}, digits))
    unit = "steps" if result.data_returns is None else "updates"
    title = (
        f"{record['agent']} on {record['env']}, preset {record['preset']}, seed {record['seed']}: "
        f"{record['total_timesteps']:,} {unit} in {record['wall_seconds']:,.0f} s, "
        f"{record['steps_per_second']:,.1f} per second without evaluations"
    )
    lines = [title, text_table(columns, rows, right=columns[1:]), f"Run folder: {result.run_dir}"]
    curve = _draw(result)
    lines += [f"Learning curve: {curve}"] if curve else []
    films = sorted(p for p in (result.run_dir / "pictures").glob("*") if p.suffix != ".png")
    lines += [f"What it believed: {film}, {film.with_suffix('.png')}" for film in films]
    return "\n".join(lines)


def next_steps(result: TrainResult) -> list[str]:
    """Return the commands that one wants next."""
    import shlex

    inside_runs = result.run_dir.parts[:1] == ("runs",)
    logs = "runs" if inside_runs else str(result.run_dir)
    model = str(result.run_dir / "model.zip")
    return [shlex.join(["rlzoo", "eval", model]), shlex.join(["tensorboard", "--logdir", logs])]


def data_score(result: TrainResult) -> float | None:
    """Return the normalised mean return of the data set of a run."""
    from rlzoo.data.scores import normalized_score

    returns = result.data_returns
    return None if returns is None else normalized_score(result.record["env"], returns["mean"])


def _row(name: str, found: dict[str, Any], digits: int) -> tuple[str, str, str, str]:
    from rlzoo.report.tables import number, plus_minus

    returns = plus_minus(found["return_mean"], found["return_std"])
    return name, returns, number(found["episodes"], 0), number(found["normalized"], digits)


def _draw(result: TrainResult) -> Path | None:
    """Draw the curve; a full disk costs the picture, not the training."""
    from rlzoo.data.scores import reference, scale_of
    from rlzoo.report.curve import draw_curve

    record = result.record
    ends, scale = reference(record["env"]), scale_of(record["env"])
    mean = None if result.data_returns is None else result.data_returns["mean"]
    lines = {"mean of the data": mean}
    if scale is not None and ends is not None:
        short = scale.name.partition("-")[0]
        lines |= {f"{scale.low} ({short})": ends[0], f"{scale.high} ({short})": ends[1]}
    unit = "steps" if result.data_returns is None else "updates"
    title = (
        f"{record['agent']} on {record['env']} (preset {record['preset']}, seed {record['seed']})"
    )
    unit = "environment steps" if mean is None else "updates"
    try:
        return draw_curve(result.curve, result.run_dir / "curve.png", title, unit, lines)
    except OSError as error:
        typer.echo(f"The learning curve was not drawn: {error}", err=True)
        return None
