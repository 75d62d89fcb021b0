"""Goal-conditioned observations in the one schema: three vectors side by side, split where needed.

An environment with goals returns ``{"achieved_goal", "desired_goal", "observation"}``. Collected,
the three lie next to each other in one row, in the order of :data:`KEYS` (an environment's space
may have any); ``metadata["goal_layout"]`` keeps their sizes. In Minari's files they are the dict
that every other library expects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from numpy.typing import NDArray

from rlzoo.core.goal_episodes import GoalEpisodes
from rlzoo.data.policies import BatchPolicy, Step
from rlzoo.data.transitions import Transitions
from rlzoo.errors import RefusedError

KEYS = ("achieved_goal", "desired_goal", "observation")
"""In the order in which they lie in a row."""

LAYOUT = "goal_layout"
"""Name in the metadata of a data set."""

ACTIONS_VALID = "actions_valid"
"""Name in the metadata; False marks demonstrations of states only, whose actions are zeros."""

SUCCESSES, FINAL_SUCCESSES = "episode_successes", "episode_final_successes"
"""Names in the metadata: whether an episode was at its goal at any step, and at its last one."""

Layout = dict[str, int]


def goal_layout(space: spaces.Space[Any]) -> Layout | None:
    """Return the sizes of the three vectors, None for a space without goals.

    Args:
        space: Of one observation of the environment.
    """
    if not isinstance(space, spaces.Dict) or sorted(space.spaces) != sorted(KEYS):
        return None
    parts = [space.spaces[key] for key in KEYS]
    if not all(isinstance(part, spaces.Box) and len(part.shape) == 1 for part in parts):
        return None
    return {key: int(np.prod(space.spaces[key].shape or (1,))) for key in KEYS}


def layout_of(data: Transitions) -> Layout | None:
    """Return the layout of a data set, None for one without goals.

    Raises:
        RefusedError: If the metadata say something that the observations contradict.
    """
    found = data.metadata.get(LAYOUT)
    if found is None:
        return None
    sizes = list(found.values()) if isinstance(found, Mapping) else []
    fits = sizes and sorted(found) == sorted(KEYS) and all(isinstance(n, int) for n in sizes)
    if not fits or data.observations.shape[1:] != (sum(sizes),):
        raise RefusedError(
            f"{data.dataset_id}: {LAYOUT} in its metadata does not fit its observations.",
            f"Given: {found}; observations of {data.observations.shape[1:]}.",
            "The data set is damaged: collect it again.",
        )
    return {key: int(found[key]) for key in KEYS}


def flat_space(space: spaces.Dict) -> spaces.Box:
    """Return the space of the three vectors side by side, float32."""
    low, high = (
        join({key: np.asarray(getattr(space.spaces[key], end), np.float32) for key in KEYS})
        for end in ("low", "high")
    )
    return spaces.Box(low, high, dtype=np.float32)


def dict_space(space: spaces.Box, layout: Layout) -> spaces.Dict:
    """Return the space of the dict, the inverse of :func:`flat_space`."""
    low, high = split(space.low, layout), split(space.high, layout)
    return spaces.Dict({key: spaces.Box(low[key], high[key], dtype=np.float32) for key in KEYS})


def split(rows: NDArray[Any], layout: Layout) -> dict[str, NDArray[Any]]:
    """Return views of the three parts, ``[..., size]`` each."""
    ends = np.cumsum([layout[key] for key in KEYS])
    parts = np.split(rows, ends[:-1], axis=-1)
    return dict(zip(KEYS, parts, strict=True))


def join(parts: Mapping[str, Any]) -> NDArray[Any]:
    """Return the three parts side by side, ``[..., sum of sizes]``."""
    return np.concatenate([np.asarray(parts[key]) for key in KEYS], axis=-1)


@dataclass(frozen=True)
class FlatEnv:
    """Makes an environment whose observations lie in one row; picklable if ``make`` is."""

    make: Callable[[], Any]

    def __call__(self) -> Any:
        """Return a new environment."""
        env = self.make()
        return TransformObservation(env, join, flat_space(env.observation_space))


class FlatPolicy:
    """A policy that acts on dicts, for rows in which they lie flat.

    Args:
        policy: Acts on dicts of arrays.
        layout: From :func:`goal_layout`.
    """

    def __init__(self, policy: BatchPolicy, layout: Layout) -> None:
        self.policy, self.layout = policy, layout
        self.normals, self.uniforms = policy.normals, policy.uniforms

    def act(
        self, observations: NDArray[Any], step: Step, deterministic: bool = False
    ) -> NDArray[Any]:
        """Return ``[n, *action_shape]`` actions for ``[n, sum of sizes]`` observations."""
        parts: Any = split(observations, self.layout)
        return self.policy.act(parts, step, deterministic)

    def describe(self) -> dict[str, Any]:
        """Return the facts of the policy."""
        return self.policy.describe()


def without_actions(data: Transitions) -> Transitions:
    """Return demonstrations of states only: zero actions, and a mark that says so."""
    return replace(
        data,
        actions=np.zeros_like(data.actions),
        metadata={**data.metadata, ACTIONS_VALID: False},
    )


def to_goal_episodes(data: Transitions, env_id: str | None = None) -> GoalEpisodes:
    """Return a data set as demonstrations for a goal-conditioned agent.

    Args:
        data: With goals; cut episodes are taken as they are.
        env_id: Environment that they are for, to refuse those of another task.

    Raises:
        RefusedError: If it holds no goals or another task, or for what
            :class:`~rlzoo.core.goal_episodes.GoalEpisodes` refuses.
    """
    layout = layout_of(data)
    if layout is None:
        raise RefusedError(
            f"{data.dataset_id} cannot be used as demonstrations: it has no goals.",
            f"Allowed: observations with {', '.join(KEYS)}.",
            "Record some: rlzoo collect --env ID --policy scripted --episodes 20 --out my/demo-v0",
        )
    if env_id is not None and data.env_id is not None and data.env_id != env_id:
        raise RefusedError(
            f"{data.dataset_id} holds demonstrations of another task: {data.env_id}.",
            f"Allowed: demonstrations of {env_id}.",
        )
    episodes = [_episode(data, layout, i) for i in range(data.n_episodes)]
    return GoalEpisodes.from_episodes(
        episodes,
        env_id=data.env_id or env_id or "",
        metadata={
            "id": data.dataset_id,
            "fingerprint": data.fingerprint,
            ACTIONS_VALID: bool(data.metadata.get(ACTIONS_VALID, True)),
        },
    )


def _episode(data: Transitions, layout: Layout, i: int) -> dict[str, Any]:
    rows = slice(int(data.episode_starts[i]), int(data.episode_starts[i + 1]))
    states = np.concatenate([data.observations[rows], data.next_observations[rows][-1:]])
    episode: dict[str, Any] = {"observations": split(states, layout), "actions": data.actions[rows]}
    successes = data.metadata.get(SUCCESSES, [])
    if len(successes) == data.n_episodes:
        episode["success"] = successes[i]
    return episode
