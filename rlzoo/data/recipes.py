"""Named data sets as recipes: what is collected, with which policy, seed and size.

The same recipe gives the same bytes (on the same versions), so a data set is named by its recipe
and need not be downloaded. ``rlzoo/hopper/medium-v0`` has a million transitions;
``rlzoo/hopper/medium-100k-v0`` is the same recipe with 100,000.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rlzoo.errors import RefusedError, did_you_mean, nearest

if TYPE_CHECKING:
    from rlzoo.data.collect import Progress
    from rlzoo.data.slots import MakeEnv
    from rlzoo.data.transitions import Transitions

ENV_NAMES: Mapping[str, str] = MappingProxyType(
    {"Hopper-v4": "hopper", "HalfCheetah-v4": "halfcheetah"}
)
"""Environment id to the name in a recipe's id."""

BEHAVIOURS = ("random", "medium", "expert")
MIXTURES: Mapping[str, tuple[str, ...]] = MappingProxyType({"medium-expert": ("medium", "expert")})
"""Recipe to the recipes whose data stand one behind the other in it, in equal parts."""

REPLAY = "medium-replay"
REPLAY_SIZES: Mapping[str, int] = MappingProxyType({"Hopper-v4": 90_000, "HalfCheetah-v4": 60_000})
"""Environment id to the steps of the training that ended in the medium behaviour."""

STANDARD_SIZE = 1_000_000

_SIZED = re.compile(r"(rlzoo/\w+/[a-z]+(?:-[a-z]+)?)-([1-9]\d*)([km]?)-(v\d+)")
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides about the bytes of a data set, versions aside.

    Attributes:
        id: Minari id; names every value that is not the default.
        env_id: Gymnasium id.
        behaviour: ``"random"``, the level of a shipped behaviour, a key of ``MIXTURES``,
            ``REPLAY`` (everything that the training of the medium behaviour saw), or
            ``"scripted"`` (:mod:`rlzoo.data.demonstrations`).
        deterministic: Take the behaviour's deterministic actions. False as in D4RL.
        epsilon: Probability of a uniform action.
        gaussian_noise: Standard deviation of noise on actions scaled to [-1, 1].
        size: Number of transitions.
        seed: Of all streams.
        n_envs: Slots of the collector.
        env_kwargs: Arguments of the environment.
        state_only: Leave the actions out.
    """

    id: str
    env_id: str
    behaviour: str
    deterministic: bool = False
    epsilon: float = 0.0
    gaussian_noise: float = 0.0
    size: int = STANDARD_SIZE
    seed: int = 0
    n_envs: int = 16
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    state_only: bool = False

    def with_size(self, size: Any) -> Recipe:
        """Return the recipe for another number of transitions, under an id of its own.

        Raises:
            RefusedError: If the size is not a positive integer, or less than one row for every part
                of a mixture; for demonstrations, which are counted in episodes; for the replay of
                a training, which has the size that it has.
        """
        if self.behaviour == "scripted":
            raise RefusedError(
                f"{self.id} is counted in episodes, not in transitions.",
                todo="Name their number: scripted-100ep-v0 has 100.",
            )
        least = len(MIXTURES.get(self.behaviour, ("",)))
        if isinstance(size, bool) or not isinstance(size, int) or size < least:
            raise RefusedError(
                f"size={size!r} is out of range.", f"Allowed: an integer >= {least}."
            )
        if self.behaviour == REPLAY:
            raise RefusedError(
                f"{self.id} has no other size than the {self.size:,} steps of its training.",
                todo="Take it without a size, or a medium, expert or medium-expert data set.",
            )
        sized = _SIZED.fullmatch(self.id)
        base = f"{sized[1]}-{sized[4]}" if sized else self.id
        if size == STANDARD_SIZE:
            return replace(self, id=base, size=size)
        stem, _, version = base.rpartition("-")
        unit = "m" if size % 1_000_000 == 0 else "k" if size % 1_000 == 0 else ""
        return replace(self, id=f"{stem}-{size // _UNITS[unit]}{unit}-{version}", size=size)

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-able values."""
        return asdict(self)

    def digest(self) -> str:
        """Return the SHA-256 over the values, for folders and caches."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        f"rlzoo/{name}/{behaviour}-v0": Recipe(f"rlzoo/{name}/{behaviour}-v0", env_id, behaviour)
        for env_id, name in ENV_NAMES.items()
        for behaviour in (*BEHAVIOURS, *MIXTURES)
    }
    | {
        f"rlzoo/{name}/{REPLAY}-v0": Recipe(
            f"rlzoo/{name}/{REPLAY}-v0", env_id, REPLAY, size=REPLAY_SIZES[env_id]
        )
        for env_id, name in ENV_NAMES.items()
    }
)


def get_recipe(dataset_id: str) -> Recipe:
    """Return the recipe of a data set id, with or without a size in it.

    The recipe's own ``id`` is the shortest form: ``medium-1000k-v0`` is ``medium-v0``.

    Raises:
        RefusedError: If there is none of that name.
    """
    if dataset_id in RECIPES:
        return RECIPES[dataset_id]
    sized = _SIZED.fullmatch(dataset_id)
    base = f"{sized[1]}-{sized[4]}" if sized else dataset_id
    if sized and base in RECIPES:
        return RECIPES[base].with_size(int(sized[2]) * _UNITS[sized[3]])
    from rlzoo.data.demonstrations import parse_scripted, standard_recipes

    scripted = parse_scripted(dataset_id)
    if scripted is not None:
        return scripted
    names = [*RECIPES, *standard_recipes()]
    raise RefusedError(
        f"There is no recipe {dataset_id!r}. {did_you_mean(base, names)}".rstrip(),
        f"Allowed: {', '.join(names)}; also with a size: medium-100k-v0, scripted-100ep-v0.",
    )


def default_for(env_id: str) -> str:
    """Return the id of the data set that is used when none is named: the medium one.

    Raises:
        RefusedError: If there is no recipe for the environment.
    """
    if env_id not in ENV_NAMES:
        # another version of a known environment is the likeliest slip, and spelling comes next
        stem = env_id.partition("-")[0]
        close = [known for known in ENV_NAMES if known.startswith(f"{stem}-")]
        close = close or nearest(env_id, ENV_NAMES)
        raise RefusedError(
            f"There is no recipe for a data set of {env_id!r}."
            + (f" Did you mean {close[0]!r}?" if close else ""),
            f"Recipes exist for: {', '.join(ENV_NAMES)}.",
            "Name a data set with --dataset, or collect one with rlzoo collect.",
        )
    return f"rlzoo/{ENV_NAMES[env_id]}/medium-v0"


def collect_recipe(
    recipe: Recipe,
    make_env: MakeEnv,
    workers: int = 1,
    work_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Transitions:
    """Collect the data set of a recipe; arguments as in :func:`rlzoo.data.collect.collect`.

    Args:
        recipe: From :func:`get_recipe`.
        make_env: Makes one environment of ``recipe.env_id``.
        workers: Processes.
        work_dir: Folder for finished episodes, to go on after a kill; see :func:`work_folders`.
        progress: Called with ``(rows so far, size)``.

    Returns:
        The data set, with ``id``, ``recipe``, ``env_id``, ``policy`` (with the SHA-256 of a
        behaviour's weights), ``collection``, ``versions`` and ``cut_episodes`` in its metadata.

    Raises:
        RefusedError: If the behaviour does not ship, or as ``collect`` does; for the replay of a
            training, which :func:`rlzoo.runs.replay_recipe.collect_replay` collects.
    """
    from rlzoo.data.collect import collect
    from rlzoo.data.goals import without_actions

    if recipe.behaviour == REPLAY:
        raise RefusedError(
            f"{recipe.id} is what a training saw, not what a policy does.",
            todo=f"Collect it with: rlzoo collect {recipe.id}",
        )
    if recipe.behaviour in MIXTURES:
        return _collect_mixture(recipe, make_env, workers, work_dir, progress)
    data = collect(
        make_env,
        _policy(recipe),
        size=recipe.size,
        seed=recipe.seed,
        n_envs=recipe.n_envs,
        deterministic=recipe.deterministic,
        epsilon=recipe.epsilon,
        gaussian_noise=recipe.gaussian_noise,
        workers=workers,
        work_dir=work_dir,
        progress=progress,
        metadata={"id": recipe.id, "env_id": recipe.env_id, "recipe": recipe.as_dict()},
    )
    return without_actions(data) if recipe.state_only else data


def parts_of(recipe: Recipe) -> list[Recipe]:
    """Return the recipes of a mixture's parts, in order; an odd row belongs to the first one."""
    names = MIXTURES[recipe.behaviour]
    stem = recipe.id.rpartition("/")[0]
    share, left = divmod(recipe.size, len(names))
    return [
        RECIPES[f"{stem}/{name}-v0"].with_size(share + (i < left)) for i, name in enumerate(names)
    ]


def _collect_mixture(
    recipe: Recipe,
    make_env: MakeEnv,
    workers: int,
    work_dir: str | Path | None,
    progress: Progress | None,
) -> Transitions:
    from rlzoo.data.transitions import concatenate

    done, parts = 0, []
    for part in parts_of(recipe):
        folder = None if work_dir is None else Path(work_dir) / part.behaviour
        told = None if progress is None else _shifted(progress, done, recipe.size)
        parts.append(collect_recipe(part, make_env, workers, folder, told))
        done += part.size
    return concatenate(
        parts, {"id": recipe.id, "env_id": recipe.env_id, "recipe": recipe.as_dict()}
    )


def work_folders(recipe: Recipe, work_dir: str | Path) -> list[Path]:
    """Return the folders in which a collection keeps what is finished, the outermost last."""
    parts = [Path(work_dir) / name for name in MIXTURES.get(recipe.behaviour, ())]
    return [*parts, Path(work_dir)]


def _shifted(progress: Progress, done: int, size: int) -> Progress:
    return lambda rows, _: progress(done + rows, size)


def _policy(recipe: Recipe) -> Any:
    if recipe.behaviour == "random":
        return "random"
    if recipe.behaviour == "scripted":
        from rlzoo.data.experts import scripted_expert

        return scripted_expert(recipe.env_id)
    from rlzoo.data.behaviours import load_behaviour

    return load_behaviour(recipe.env_id, recipe.behaviour)
