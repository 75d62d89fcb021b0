"""``rlzoo eval``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rlzoo.cli import options


def evaluate(
    model: options.Policy,
    env: options.Env = None,
    episodes: Annotated[int, typer.Option(metavar="N", help="Whole episodes to run.")] = 10,
    seed: options.Seed = 0,
    stochastic: Annotated[
        bool | None,
        typer.Option(
            "--stochastic/--greedy",
            help="Sample actions, or take the best; by default as the run does.",
        ),
    ] = None,
    eval_epsilon: Annotated[
        float | None,
        typer.Option(metavar="P", help="Share of random actions, 0 to 1; by default the run's."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One of the run's eval_splits, such as train."),
    ] = None,
    device: options.Device = "auto",
    trust: options.Trust = False,
    agent: options.TrustedAgent = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run a trained policy on fresh episodes and print its undiscounted return."""
    from rlzoo.data.scores import score_digits
    from rlzoo.report.tables import number, plus_minus, text_table
    from rlzoo.runs.policies import evaluate_policy_spec

    env_id, found = evaluate_policy_spec(
        model, env, episodes, seed, None if stochastic is None else not stochastic, device, trust,
        agent, eval_epsilon, split,
    )  # fmt: skip
    if as_json:
        print(json.dumps({"model": model, "env": env_id, "seed": seed, **found.as_dict()}))
        return
    columns = ("env", "return", "episodes", "length", "normalised")
    row = (
        env_id,
        plus_minus(found.return_mean, found.return_std),
        str(found.episodes),
        number(found.length_mean),
        number(found.normalized, score_digits(env_id)),
    )
    print(text_table(columns, [row], right=columns[1:]))
