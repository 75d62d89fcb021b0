"""``rlzoo encoder``."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rlzoo.cli import options


class Backend(StrEnum):
    """What draws the frames."""

    envpool = "envpool"
    gymnasium = "gymnasium"


def encoder(
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A .safetensors file; by default where encoder=auto looks."
        ),
    ] = None,
    frames: Annotated[int, typer.Option(metavar="N", help="Frames to learn from.")] = 10_000,
    epochs: Annotated[int, typer.Option(metavar="N", help="Times through the frames.")] = 10,
    latents: Annotated[int, typer.Option(metavar="N", help="Numbers per frame.")] = 16,
    seed: options.Seed = 0,
    n_envs: Annotated[int, typer.Option(metavar="N", help="Environments side by side.")] = 16,
    backend: Annotated[
        Backend, typer.Option(help="Take the one that the agent will see: they differ a little.")
    ] = Backend.envpool,
    device: options.Device = "auto",
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train the encoder of CarRacing-v3 on frames of a random policy: latents for obs-dropout.

    Then: rlzoo train obs-dropout --env CarRacing-v3
    """
    from rlzoo.cli.console import ConsoleProgress
    from rlzoo.runs.encoder import EncoderRequest, train_encoder

    found = train_encoder(
        EncoderRequest(
            out=out, frames=frames, epochs=epochs, n_latents=latents, seed=seed, n_envs=n_envs,
            backend=backend.value, device=device, threads=threads, overwrite=overwrite,
        ),
        ConsoleProgress(),
    )  # fmt: skip
    card = found.card
    if as_json:
        print(json.dumps({"file": str(found.file), "picture": str(found.picture), **card}))
        return
    print(
        f"{card['frames']:,} frames of {card['backend']}, {card['epochs']} epochs: loss "
        f"{card['loss']:.1f}, squared error of held-out frames {card['error_held_out']:.1f}."
    )
    print(f"Encoder: {found.file}")
    print(f"Frames and what is made of their codes: {found.picture}")
