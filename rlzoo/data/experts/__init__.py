"""Scripted experts that demonstrate goal-conditioned tasks.

They read observations only, so they act in every back end of a task, and in a collector beside
learned policies: ``collect(..., policy=scripted_expert(env_id), gaussian_noise=0.1, epsilon=0.1)``
is a noisy demonstrator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rlzoo.data.experts.base import ScriptedExpert
from rlzoo.data.experts.fetch import PickAndPlaceExpert, PushExpert, ReachExpert
from rlzoo.data.experts.pusher import PusherExpert
from rlzoo.data.experts.rooms import RoomsExpert
from rlzoo.data.experts.stack import StackExpert
from rlzoo.data.policies import BatchPolicy
from rlzoo.errors import RefusedError, did_you_mean

__all__ = ["EXPERTS", "ScriptedExpert", "scripted_expert"]

EXPERTS: dict[str, Callable[..., ScriptedExpert]] = {
    "rlzoo/FourRooms-v0": RoomsExpert,
    "rlzoo/MiniFourRooms-v0": partial(RoomsExpert, "mini"),
    "rlzoo/BlockPusher-v0": PusherExpert,
    "rlzoo/FetchStackTwo-v0": StackExpert,
    "FetchReach-v4": ReachExpert,
    "FetchPush-v4": PushExpert,
    "FetchPickAndPlace-v4": PickAndPlaceExpert,
}
"""Makes the expert of a task, by the id of the environment."""


def scripted_expert(env_id: str, **options: Any) -> BatchPolicy:
    """Return the scripted expert of a task.

    Args:
        env_id: Id of the environment.
        options: Of the expert; most have none.

    Raises:
        RefusedError: If the task has none, or an option is unknown.
    """
    make = EXPERTS.get(env_id)
    if make is None:
        raise RefusedError(
            f"No scripted expert for {env_id!r}. {did_you_mean(env_id, EXPERTS)}".rstrip(),
            f"There is one for: {', '.join(EXPERTS)}.",
            "Let a trained agent demonstrate: rlzoo collect --policy <run folder>",
        )
    try:
        return make(**options)
    except TypeError as error:
        raise RefusedError(f"Expert of {env_id!r}: {error}.", f"Given: {options}.") from error
