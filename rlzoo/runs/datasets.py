"""From the id of a data set to the data: read it where it is, collect it where it is not."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from rlzoo.data import minari_io
from rlzoo.data.behaviours import load_behaviour
from rlzoo.data.collect import collect
from rlzoo.data.load import load_dataset
from rlzoo.data.policies import BatchPolicy, RandomPolicy
from rlzoo.data.recipes import Recipe, get_recipe, is_recipe_id
from rlzoo.data.transitions import Transitions
from rlzoo.envs import make_env
from rlzoo.runs.directory import safe_name
from rlzoo.runs.progress import Progress, Silent


def home() -> Path:
    """Return the folder for unfinished collections: ``$RLZOO_HOME``, by default ``~/.rlzoo``."""
    return Path(os.environ.get("RLZOO_HOME", Path.home() / ".rlzoo"))


def ensure_dataset(
    source: str | Path, progress: Progress | None = None, workers: int | None = None
) -> Transitions:
    """Return a data set; a recipe that is not in the Minari store is collected and stored.

    Args:
        source: Recipe id such as ``rlzoo/hopper/medium-v0``, another Minari id, or a path.
        progress: Where the collection reports.
        workers: Processes that collect; all cores by default. The data do not depend on it.
    """
    name = str(source)
    if is_recipe_id(name) and not minari_io.exists(name):
        return collect_recipe(get_recipe(name), progress, workers)
    return load_dataset(source)


def recipe_policy(recipe: Recipe) -> BatchPolicy:
    """Return the policy that a recipe collects with."""
    if recipe.behaviour == "random":
        env = make_env(recipe.env_id)
        try:
            return RandomPolicy(env.action_space)
        finally:
            env.close()
    return load_behaviour(recipe.env_id, recipe.behaviour)


def collect_recipe(
    recipe: Recipe, progress: Progress | None = None, workers: int | None = None
) -> Transitions:
    """Collect a recipe and put it into the Minari store, replacing what is there.

    A collection that was killed goes on where it was; the result has the same bytes.
    """
    progress = progress or Silent()
    progress.start(f"collecting {recipe.id}", recipe.size, "transitions")
    try:
        data = collect(
            partial(make_env, recipe.env_id),
            recipe_policy(recipe),
            size=recipe.size,
            seed=recipe.seed,
            n_envs=recipe.n_envs,
            deterministic=recipe.deterministic,
            epsilon=recipe.epsilon,
            gaussian_noise=recipe.gaussian_noise,
            workers=workers or len(os.sched_getaffinity(0)),
            work_dir=home() / "collecting" / safe_name(recipe.id),
            progress=lambda done, _: progress.update(done),
            metadata=recipe.metadata(),
        )
    finally:
        progress.stop()
    return minari_io.save(data, recipe.id, overwrite=True)
