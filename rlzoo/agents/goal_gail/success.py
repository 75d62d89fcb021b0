"""When a goal counts as reached, and what an environment says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.agents.goal_gail.relabel import Success
from rlzoo.errors import RefusedError

EXACT = 1e-6
"""Distance below which a goal is this very state: ``"exact"`` of the official code."""
GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")
SuccessName = Literal["l2", "blocks"]
_POINT_MAZE = 0.45


@dataclass(frozen=True)
class Within:
    """True where achieved and desired goal are nearer than ``threshold``.

    Args:
        threshold: Distance, not included.
        kind: ``"l2"``: of the whole goal; ``"blocks"``: of the farthest of its positions of three
            numbers each, as for towers of blocks.
    """

    threshold: float
    kind: SuccessName = "l2"

    def __call__(self, achieved: th.Tensor, desired: th.Tensor) -> th.Tensor:
        """Map ``[..., dg]`` and ``[..., dg]`` to bool ``[...]``."""
        squares = (achieved - desired).square()
        if self.kind == "blocks":
            blocks = squares.reshape(*squares.shape[:-1], -1, 3)
            return blocks.sum(-1).amax(-1) < self.threshold**2
        return squares.sum(-1) < self.threshold**2


@dataclass(frozen=True)
class TaskFacts:
    """What an environment says about its episodes; None or empty where it says nothing.

    Args:
        env_id: Its id.
        horizon: Steps of an episode.
        threshold: Distance at which a goal is reached.
    """

    env_id: str = ""
    horizon: int | None = None
    threshold: float | None = None


def facts_of(env: VecEnv | None) -> TaskFacts:
    """Ask an environment; any that does not answer is fine."""
    if env is None:
        return TaskFacts()
    spec = _ask(env, "spec")
    env_id = str(getattr(spec, "id", "") or "")
    steps = [getattr(spec, "max_episode_steps", None)]
    steps += [_ask(env, name) for name in ("_max_episode_steps", "max_episode_steps")]
    threshold = _ask(env, "distance_threshold")
    if threshold is None and env_id.rpartition("/")[2].startswith("PointMaze"):
        threshold = _POINT_MAZE
    return TaskFacts(
        env_id,
        next((int(n) for n in steps if isinstance(n, int | np.integer) and n > 0), None),
        None if threshold is None else float(threshold),
    )


def _ask(env: VecEnv, name: str) -> Any:
    try:
        return env.get_attr(name, [0])[0]
    except Exception:  # vectors of environments fail in many ways
        return None


def check_spaces(observation_space: spaces.Space[Any], owner: str) -> None:
    """Refuse observations without goals.

    Raises:
        RefusedError: Unless they are a dict of three vectors, two of which are goals of one size.
    """
    todo = "Take an environment with goals, such as rlzoo/FourRooms-v0 or FetchReach-v4."
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
    missing = [key for key in GOAL_KEYS if key not in parts]
    if missing:
        raise RefusedError(
            f"{owner}: the environment has no goals; it observes {str(observation_space)[:150]}.",
            f"Allowed: a dict with {', '.join(GOAL_KEYS)}.",
            todo,
        )
    wrong = [
        key
        for key in GOAL_KEYS
        if not isinstance(parts[key], spaces.Box) or len(parts[key].shape or ()) != 1
    ]
    if wrong or parts["achieved_goal"].shape != parts["desired_goal"].shape:
        shown = {key: str(parts[key].shape) for key in GOAL_KEYS}
        raise RefusedError(
            f"{owner}: the environment's observations do not fit: {shown}.",
            "Allowed: three vectors of numbers, achieved and desired goal of the same size.",
            todo,
        )


def task_success(
    given: Success | SuccessName | None,
    threshold: float | None,
    goal_space: spaces.Space[Any],
    env: VecEnv | None,
) -> Success | None:
    """Return when the task itself counts a goal as reached, or None if nobody says.

    Args:
        given: ``success_fn`` of the agent: a function, the name of one, or None to find one that
            agrees with the environment's ``compute_reward``.
        threshold: Its distance, of the agent or of the environment.
        goal_space: Space of a goal.
        env: The environment, asked once.

    Raises:
        RefusedError: If the environment's ``compute_reward`` says something else.
    """
    if callable(given):
        return given
    if threshold is None:
        return None
    names: tuple[SuccessName, ...] = ("l2", "blocks") if given is None else (given,)
    size = int(np.prod(goal_space.shape or ()))
    candidates = [Within(threshold, name) for name in names if name == "l2" or size % 3 == 0]
    asked = _rewards(env, _pairs(goal_space, threshold))
    for candidate in candidates:
        if asked is None or _agrees(candidate, *asked):
            return candidate
    raise RefusedError(
        f"GoalGAIL: the environment's compute_reward is not 'nearer than {threshold:g}'.",
        "Success is judged on the device, for goals that no environment has seen.",
        "Pass success_fn=…, a torch function (achieved, desired) -> bool, or distance_threshold=….",
    )


def _pairs(goal_space: spaces.Space[Any], threshold: float) -> tuple[Any, Any]:
    """Return achieved and desired goals at distances around the threshold, ``[n, dg]``."""
    rng = np.random.default_rng(0)
    low, high = goal_space.low, goal_space.high  # type: ignore[attr-defined]
    bounded = np.isfinite(low) & np.isfinite(high)
    goal = np.where(bounded, (np.where(bounded, low, 0.0) + np.where(bounded, high, 0.0)) / 2, 0.0)
    directions = rng.normal(size=(4, len(goal)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    factors = np.array([0.0, 0.5, 0.9, 1.1, 1.5, 3.0])
    offsets = (factors[:, None, None] * directions * threshold).reshape(-1, len(goal))
    desired = np.broadcast_to(goal, offsets.shape)
    return (desired + offsets).astype(np.float32), desired.astype(np.float32)


def _rewards(env: VecEnv | None, pairs: tuple[Any, Any]) -> tuple[Any, Any, Any] | None:
    """Return the pairs with their rewards, or None if the environment has no sparse reward."""
    if env is None:
        return None
    ask: Callable[..., list[Any]] = env.env_method
    try:
        rewards = np.array([
            float(ask("compute_reward", a, d, {}, indices=[0])[0])
            for a, d in zip(*pairs, strict=True)
        ])  # fmt: skip
    except Exception:  # it has none, or wants to know more
        return None
    return (*pairs, rewards) if len(np.unique(rewards)) == 2 else None


def _agrees(candidate: Success, achieved: Any, desired: Any, rewards: Any) -> bool:
    said = candidate(th.from_numpy(achieved), th.from_numpy(desired)).numpy()
    return bool((said == (rewards == rewards.max())).all())


def termination_success(task: Success | None, distance: float | Literal["env", "exact"]) -> Success:
    """Return when a transition ends the sum of rewards.

    Args:
        task: When the task counts a goal as reached.
        distance: ``"env"``: as the task; ``"exact"``: only where the goal is this very state; or a
            distance.

    Raises:
        RefusedError: For ``"env"`` where the environment does not say.
    """
    if distance == "exact":
        return Within(EXACT)
    if not isinstance(distance, str):
        return Within(distance, getattr(task, "kind", "l2"))
    if task is None:
        raise RefusedError(
            "GoalGAIL: the environment does not say when a goal is reached.",
            "Allowed: an attribute distance_threshold of the environment.",
            "Pass distance_threshold=…, or success_fn=…, a torch function (achieved, desired).",
        )
    return task
