"""``rlzoo record``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rlzoo.cli import options


def record(
    model: options.Policy,
    env: options.Env = None,
    episodes: Annotated[int, typer.Option(metavar="N", help="Episodes, one video each.")] = 1,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE.mp4|FILE.gif",
            help="Where to write; videos/ of the run, or beside the model, by default.",
        ),
    ] = None,
    stochastic: options.Stochastic = False,
    device: options.Device = "auto",
    trust: options.Trust = False,
    agent: options.TrustedAgent = None,
    max_steps: Annotated[
        int,
        typer.Option(metavar="N", help="Cut longer episodes: their frames are held in memory."),
    ] = 1000,
    overwrite: options.Overwrite = False,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Record the environment, whatever the agent believes."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a video (mp4) of each episode; those of eval with the same seed.

    Needs the extra "video", and for MuJoCo one of the libraries libegl1 and libosmesa6. Of agents
    that act on beliefs (obs-dropout) these are drawn beside what is real: an animation, a GIF
    without that extra, and a filmstrip (png).
    """
    from rlzoo.report.tables import number, text_table
    from rlzoo.runs.record import record_policy_spec

    env_id, found = record_policy_spec(
        model,
        env,
        episodes,
        seed,
        not stochastic,
        device,
        trust,
        agent,
        out,
        max_steps,
        overwrite,
        plain,
    )
    if as_json:
        videos = [
            {
                **{"file": str(e.file), "return": e.episode_return, "length": e.length},
                **{"cut": e.cut},
                **({} if e.filmstrip is None else {"filmstrip": str(e.filmstrip)}),
            }
            for e in found
        ]
        print(json.dumps({"model": model, "env": env_id, "seed": seed, "videos": videos}))
        return
    rows = [
        (
            str(episode.file),
            number(episode.episode_return),
            f"{episode.length:,}{' (cut)' if episode.cut else ''}",
        )
        for episode in found
    ]
    columns = ("video", "return", "length")
    print(text_table(columns, rows, right=columns[1:]))
