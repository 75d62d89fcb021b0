"""Entry point of ``rlzoo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, add_completion=True)


@app.callback()
def root() -> None:
    """A reinforcement-learning algorithm zoo."""


@app.command()
def train(
    agent: str,
    env: str,
    steps: int,
    run_dir: Path,
    seed: int = 0,
    n_envs: int = 1,
    eval_freq: int = 20_000,
    eval_episodes: int = 10,
    set_: Annotated[list[str] | None, typer.Option("--set")] = None,
) -> None:
    """Train an agent."""
    import yaml

    from rlzoo.runs.train import train as run

    settings: dict[str, Any] = {}
    for item in set_ or []:
        key, _, value = item.partition("=")
        *path, last = key.split(".")
        target = settings
        for part in path:
            target = target.setdefault(part, {})
        target[last] = yaml.safe_load(value)
    run(agent, env, steps, seed, n_envs, eval_freq, eval_episodes, run_dir, settings)


def main() -> None:
    """Run the command line."""
    app()
