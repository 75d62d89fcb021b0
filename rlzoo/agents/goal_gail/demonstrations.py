"""Taking demonstrations in the forms that users have them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from rlzoo.core.goal_episodes import GoalEpisodes
from rlzoo.errors import RefusedError


@runtime_checkable
class HasEpisodes(Protocol):
    """A Minari data set, or anything else that gives its episodes one by one."""

    def iterate_episodes(self) -> Any:
        """Give episodes with ``observations`` (dicts of arrays) and ``actions``."""


Demonstrations = GoalEpisodes | HasEpisodes | list[Any]


def as_goal_episodes(demonstrations: Demonstrations) -> GoalEpisodes:
    """Return demonstrations in the one layout that the agent reads.

    Args:
        demonstrations: ``GoalEpisodes``, an object with ``iterate_episodes``, or a list of
            episodes as :meth:`~rlzoo.core.goal_episodes.GoalEpisodes.from_episodes` takes them.

    Raises:
        RefusedError: For anything else, or episodes without goals.
    """
    if isinstance(demonstrations, GoalEpisodes):
        return demonstrations
    if isinstance(demonstrations, HasEpisodes):
        spec = getattr(demonstrations, "env_spec", None)
        metadata = getattr(getattr(demonstrations, "storage", None), "metadata", None)
        valid = metadata.get("actions_valid", True) if isinstance(metadata, Mapping) else True
        return GoalEpisodes.from_episodes(
            demonstrations.iterate_episodes(),
            env_id=str(getattr(spec, "id", "") or ""),
            metadata={"actions_valid": bool(valid)},
        )
    if isinstance(demonstrations, list | tuple):
        return GoalEpisodes.from_episodes(demonstrations)
    raise RefusedError(
        f"Demonstrations are given as {type(demonstrations).__name__}.",
        "Allowed: GoalEpisodes, a list of episodes, or an object with iterate_episodes.",
        "Load a data set first: minari.load_dataset(name).",
    )


def check_task(episodes: GoalEpisodes, sizes: Mapping[str, int], env_id: str) -> None:
    """Refuse demonstrations of another task.

    Args:
        episodes: The demonstrations.
        sizes: Of ``observation``, ``desired_goal`` and ``action`` of the environment.
        env_id: Of the environment; empty: not known.

    Raises:
        RefusedError: If a size or the environment is another one.
    """
    found = {
        "observation": episodes.observations.shape[-1],
        "desired_goal": episodes.desired_goals.shape[-1],
    }
    if episodes.actions is not None:
        found["action"] = episodes.actions.shape[-1]
    for name, size in found.items():
        if size != sizes[name]:
            raise RefusedError(
                f"GoalGAIL: the demonstrations have {name}s of {size} numbers.",
                f"Those of the environment have {sizes[name]}.",
                "Take demonstrations of the same task, made with the same wrappers.",
            )
    theirs, ours = (name.rpartition(":")[2] for name in (episodes.env_id, env_id))
    if theirs and ours and theirs != ours:
        raise RefusedError(
            f"GoalGAIL: the demonstrations are of {theirs}.",
            f"The environment is {ours}.",
            "Take demonstrations of the same task.",
        )
