"""``rlzoo config``."""

from __future__ import annotations

from typing import Annotated

import typer

from rlzoo.cli import options

app = typer.Typer(no_args_is_help=True, help="Settings: every value with where it comes from.")


@app.callback()
def root() -> None:
    """Settings: every value with where it comes from."""


@app.command()
def show(
    agent: Annotated[str, typer.Argument(help="Name of the agent; see: rlzoo list.")],
    env: Annotated[str | None, typer.Argument(metavar="[ENV]", help="Environment id.")] = None,
    preset: options.Preset = None,
    overrides: options.Overrides = None,
    config: options.ConfigFile = None,
    device: options.Device = "auto",
) -> None:
    """Print the settings that training would take, as YAML that --config reads again."""
    from rlzoo.runs.train import TrainRequest, show_settings

    request = TrainRequest(
        agent=agent,
        env_id=env,
        preset=preset,
        overrides=tuple(overrides or ()),
        config_file=config,
        device=device,
    )
    print(show_settings(request), end="")
