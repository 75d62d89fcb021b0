"""``rlzoo collect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rlzoo.cli import options
from rlzoo.errors import RefusedError

if TYPE_CHECKING:
    from rlzoo.data import Transitions

# Options that describe a collection of one's own: a recipe has them fixed.
_OWN = (
    "env", "policy", "episodes", "seed", "n_envs", "deterministic", "epsilon", "noise", "out",
    "agent",
)  # fmt: skip


def collect(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help="Such as rlzoo/hopper/medium-v0; or use --env …"),
    ] = None,
    env: options.Env = None,
    policy: Annotated[
        str,
        typer.Option(
            metavar="NAME|MODEL", help="random, medium, expert, scripted, model.zip, run folder."
        ),
    ] = "random",
    size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Transitions; 100,000, or what the recipe says."),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(metavar="N", help="Whole episodes, in environments with goals."),
    ] = None,
    seed: options.Seed = 0,
    n_envs: Annotated[int, typer.Option(metavar="N", help="Slots; part of the data.")] = 16,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Take the policy's deterministic actions.")
    ] = False,
    epsilon: Annotated[
        float,
        typer.Option(
            "--epsilon", "--random-eps", metavar="P", help="Probability of a uniform action."
        ),
    ] = 0.0,
    noise: Annotated[
        float, typer.Option(metavar="SD", help="Gaussian noise on actions scaled to [-1, 1].")
    ] = 0.0,
    out: Annotated[
        str | None,
        typer.Option(metavar="ID|FILE", help="Minari id such as my/hopper-v0, or a file.hdf5."),
    ] = None,
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    trust: options.Trust = False,
    agent: options.TrustedAgent = None,
) -> None:
    """Collect a data set: a named recipe, or with any policy in any environment.

    The same command gives the same bytes. A collection that was interrupted goes on where it was.
    """
    from rlzoo.cli.console import ConsoleProgress
    from rlzoo.runs import datasets

    if recipe is not None:
        _refuse_own_options(context, recipe)
        _collect_recipe(recipe, size, workers, overwrite)
        return
    if env is None or out is None:
        raise _nothing_named()
    request = datasets.CollectRequest(
        env_id=env,
        policy=policy,
        out=out,
        size=100_000 if size is None else size,
        seed=seed,
        n_envs=n_envs,
        deterministic=deterministic,
        epsilon=epsilon,
        noise=noise,
        workers=workers,
        overwrite=overwrite,
        trust=trust,
        agent=agent,
        episodes=episodes,
    )
    print(describe(datasets.collect_request(request, ConsoleProgress())))


def describe(data: Transitions) -> str:
    """Return what was collected: id, size, returns, fingerprint."""
    from rlzoo.data.goals import FINAL_SUCCESSES, SUCCESSES
    from rlzoo.data.scores import normalized_score
    from rlzoo.report.tables import number, plus_minus

    returns = data.return_statistics()
    # Where every episode was cut, the statistics are of cut ones and say little about the policy.
    kind = "complete" if data.complete.any() else "cut"
    score = number(normalized_score(data.env_id, returns["mean"]))
    lines = [
        f"data set     {data.dataset_id}",
        f"size         {len(data):,} transitions, {data.n_episodes:,} episodes",
        f"return       {plus_minus(returns['mean'], returns['std'])} over "
        f"{returns['episodes']:,} {kind} episodes, {number(returns['min'])} to "
        f"{number(returns['max'])}",
        f"normalised   {score}",
        f"fingerprint  {data.fingerprint}",
    ]
    if SUCCESSES in data.metadata:
        any_time, final = (
            sum(data.metadata[name]) / data.n_episodes for name in (SUCCESSES, FINAL_SUCCESSES)
        )
        lines.insert(3, f"success      {any_time:.0%} at any step, {final:.0%} at the last one")
    return "\n".join(lines)


def _collect_recipe(name: str, size: int | None, workers: int | None, overwrite: bool) -> None:
    from rlzoo.cli.console import ConsoleProgress
    from rlzoo.data import load_dataset, minari_io
    from rlzoo.data.recipes import get_recipe
    from rlzoo.runs.datasets import collect_recipe

    recipe = get_recipe(name)
    recipe = recipe if size is None else recipe.with_size(size)
    progress = ConsoleProgress()
    if minari_io.exists(recipe.id) and not overwrite:
        progress.message(f"{recipe.id} exists already; --overwrite collects it again.")
        print(describe(load_dataset(recipe.id)))
    else:
        print(describe(collect_recipe(recipe, progress, workers)))


def _refuse_own_options(context: typer.Context, recipe: str) -> None:
    given = [
        name
        for name in _OWN
        if getattr(context.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT"
    ]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise RefusedError(
            f"{names} cannot be combined with the recipe {recipe}, which fixes it.",
            "With a recipe: --size, --workers, --overwrite.",
            "For a data set of your own: rlzoo collect --env ID --policy NAME --out my/name-v0",
        )


def _nothing_named() -> RefusedError:
    from rlzoo.data.recipes import RECIPES

    return RefusedError(
        "Name a recipe, or both --env and --out.",
        f"Recipes: {', '.join(RECIPES)}.",
        "Or: rlzoo collect --env Hopper-v4 --policy random --size 10000 --out my/hopper-v0",
    )
