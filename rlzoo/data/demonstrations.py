"""Named demonstrations: what a scripted expert does in each task with goals.

``rlzoo/fourrooms/scripted-v0`` has 20 episodes without noise, as the paper's runs do. Parts of the
name change that, in this order: ``scripted_n10_e20`` adds noise of standard deviation 0.10 and
takes uniform actions with probability 0.20; ``_states`` leaves the actions out; ``-100ep`` is the
number of episodes. So ``rlzoo/fourrooms/scripted_n10_e10_states-100ep-v0``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rlzoo.data.recipes import Recipe
from rlzoo.errors import RefusedError

SCRIPTED = "scripted"
EPISODES = 20
"""Of the paper's runs (paper page, section 3)."""

MAX_SLOTS = 16


@dataclass(frozen=True)
class GoalTask:
    """A task with goals and the protocol of its demonstrations.

    Attributes:
        name: In the ids of data sets.
        env_id: Gymnasium id.
        horizon: Steps of an episode, all of which are kept.
        env_kwargs: Arguments of the environment that agents train in too.
        shown_kwargs: Arguments for demonstrations only.
    """

    name: str
    env_id: str
    horizon: int
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    shown_kwargs: Mapping[str, Any] = field(default_factory=dict)


_ROOMS = {"goals": "square"}  # anywhere, walls included, while agents learn free ones (page, 4.4)
_FETCH = {"max_episode_steps": 100}  # the paper's limit; the library's is 50
_POSITIONS = {**_FETCH, "positions_only": 10}

TASKS: Mapping[str, GoalTask] = MappingProxyType(
    {
        task.env_id: task
        for task in (
            GoalTask("fourrooms", "rlzoo/FourRooms-v0", 300, shown_kwargs=_ROOMS),
            GoalTask("minifourrooms", "rlzoo/MiniFourRooms-v0", 100, shown_kwargs=_ROOMS),
            GoalTask("blockpusher", "rlzoo/BlockPusher-v0", 100),
            GoalTask("fetchstacktwo", "rlzoo/FetchStackTwo-v0", 150),
            GoalTask("fetchreach", "FetchReach-v4", 100, _FETCH),
            GoalTask("fetchpush", "FetchPush-v4", 100, _FETCH),
            GoalTask("fetchpickandplace", "FetchPickAndPlace-v4", 100, _POSITIONS),
        )
    }
)
"""Environment id -> task. Slide has none: no script of ours solves it."""

_BY_NAME = {task.name: task for task in TASKS.values()}
_ID = re.compile(
    r"rlzoo/(\w+)/scripted(?:_n(\d{1,3})_e(\d{1,3}))?(_states)?(?:-([1-9]\d*)ep)?(?:-x(\w+))?-v0"
)


def scripted_recipe(
    env_id: str,
    episodes: int = EPISODES,
    noise: float = 0.0,
    epsilon: float = 0.0,
    state_only: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Recipe:
    """Return the recipe of demonstrations by the scripted expert of a task.

    Args:
        env_id: One of :data:`TASKS`.
        episodes: Number of episodes, all of full length.
        noise: Standard deviation of noise on the actions, in hundredths.
        epsilon: Probability of a uniform action, in hundredths.
        state_only: Leave the actions out.
        env_kwargs: Arguments of the environment; by default those of the task. Others give the
            data set a name of its own.

    Raises:
        RefusedError: If there is no expert for the task, or a value is out of range.
    """
    task = _task(env_id)
    if episodes < 1:
        raise RefusedError(f"{episodes} demonstrations are too few.", "Allowed: at least 1.")
    kwargs = dict(task.env_kwargs if env_kwargs is None else env_kwargs)
    behaviour = SCRIPTED + _noise_part(noise, epsilon) + ("_states" if state_only else "")
    size = "" if episodes == EPISODES else f"-{episodes}ep"
    other = "" if kwargs == dict(task.env_kwargs) else f"-x{_digest(kwargs)}"
    return Recipe(
        id=f"rlzoo/{task.name}/{behaviour}{size}{other}-v0",
        env_id=env_id,
        behaviour=SCRIPTED,
        epsilon=epsilon,
        gaussian_noise=noise,
        size=episodes * int(kwargs.get("max_episode_steps", task.horizon)),
        n_envs=slots_for(episodes),
        env_kwargs={**task.shown_kwargs, **kwargs},
        state_only=state_only,
    )


def parse_scripted(dataset_id: str) -> Recipe | None:
    """Return the recipe that an id names, None if it is not one of scripted demonstrations.

    An id with a digest (``-x…``) does not say its arguments, so that it names no recipe.
    """
    found = _ID.fullmatch(dataset_id)
    if found is None or found[1] not in _BY_NAME or found[6]:
        return None
    return scripted_recipe(  # its id may be shorter: scripted-20ep is scripted
        _BY_NAME[found[1]].env_id,
        int(found[5] or EPISODES),
        int(found[2] or 0) / 100,
        int(found[3] or 0) / 100,
        bool(found[4]),
    )


def standard_recipes() -> dict[str, Recipe]:
    """Return the recipe of every task with nothing changed, by id."""
    return {recipe.id: recipe for recipe in map(scripted_recipe, TASKS)}


def slots_for(episodes: int) -> int:
    """Return how many slots collect so many whole episodes, the same number in each."""
    return max(n for n in range(1, MAX_SLOTS + 1) if episodes % n == 0)


def _task(env_id: str) -> GoalTask:
    if env_id not in TASKS:
        raise RefusedError(
            f"There is no scripted expert for {env_id!r}.",
            f"Experts exist for: {', '.join(TASKS)}.",
            "Record an agent: rlzoo collect --env ID --policy RUN --episodes 20 --out my/demo-v0",
        )
    return TASKS[env_id]


def _noise_part(noise: float, epsilon: float) -> str:
    hundredths = [round(100 * value) for value in (noise, epsilon)]
    if any(abs(n / 100 - v) > 1e-9 for n, v in zip(hundredths, (noise, epsilon), strict=True)):
        raise RefusedError(
            f"noise={noise} and epsilon={epsilon} cannot be named.", "Allowed: whole hundredths."
        )
    return "_n{}_e{}".format(*hundredths) if any(hundredths) else ""


def _digest(kwargs: Mapping[str, Any]) -> str:
    text = json.dumps(kwargs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
