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
Dataset = Annotated[
    str | None,
    typer.Option(
        metavar="ID|PATH",
        help="Recipe (collected if absent), Minari id, Minari folder or D4RL .hdf5 file.",
    ),
]
EvalFreq = Annotated[int | None, typer.Option(metavar="N", help="Steps between evaluations.")]
EvalEpisodes = Annotated[int | None, typer.Option(metavar="N", help="Episodes per evaluation.")]
Threads = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Threads of torch on the CPU, per process.")
]
Policy = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|RUN",
        help="model.zip, run folder, random, or a shipped policy such as hopper/expert.",
    ),
]
Stochastic = Annotated[
    bool, typer.Option("--stochastic", help="Sample actions instead of taking the best.")
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
