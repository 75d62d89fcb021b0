"""Options that several commands share, so that they mean the same everywhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

Env = Annotated[
    str | None,
    typer.Option("--env", metavar="ID", help="Environment id with its version, as in Hopper-v4."),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of everything random, 0 to 2**32 - 1.")]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 … Only auto may fall back.")
]
Preset = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Named set of settings; see: rlzoo list."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="YAML file of settings, or config.yaml of a run."
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Unpickle a model that rlzoo did not save: this runs its code."),
]
TrustedAgent = Annotated[
    str | None,
    typer.Option("--agent", metavar="NAME", help="With --trust: the agent that such a model is."),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Continue although settings, data, versions or code changed."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Processes; all cores by default. The data do not depend on it."
    ),
]


def command_line(context: typer.Context) -> str:
    """Return the command line of this call, as a shell would take it."""
    arguments: list[str] = context.obj or []
    return shlex.join(["rlzoo", *arguments])
