"""Policies that act on a batch of slots, each row with its own noise.

A row's action depends on that row's observation, noise and history only, never on the other rows:
this is what makes a collected episode a pure function of ``(seed, slot, episode)``. A policy
therefore draws nothing itself. It says how many standard normals and how many uniforms on [0, 1)
one step of one row needs, and the collector hands them in.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.errors import RefusedError


class Step(NamedTuple):
    """What a policy gets beside the observations; ``n`` rows, one per slot.

    Attributes:
        normals: ``[n, policy.normals]``, float64, standard normal.
        uniforms: ``[n, policy.uniforms]``, float64, in [0, 1).
        starts: ``[n]``, bool; the row is at the first step of an episode.
        active: ``[n]``, bool; rows that still collect (the answer for others is ignored).
    """

    normals: NDArray[np.float64]
    uniforms: NDArray[np.float64]
    starts: NDArray[np.bool_]
    active: NDArray[np.bool_]


@runtime_checkable
class BatchPolicy(Protocol):
    """What the collector needs of a policy.

    Attributes:
        normals: Standard normals that one step of one row needs.
        uniforms: Uniforms on [0, 1) that one step of one row needs.
    """

    normals: int
    uniforms: int

    def act(
        self, observations: NDArray[Any], step: Step, deterministic: bool = False
    ) -> NDArray[Any]:
        """Return ``[n, *action_shape]`` actions in the units of the environment."""

    def describe(self) -> dict[str, Any]:
        """Return JSON-able facts that identify the policy (kind, digest of the weights)."""


def as_batch_policy(policy: Any, action_space: spaces.Space[Any]) -> BatchPolicy:
    """Return a policy for the collector.

    Args:
        policy: ``"random"``, a :class:`BatchPolicy` (a shipped behaviour is one), an SB3 model or
            policy, or anything whose ``predict`` works like that of SB3 (a scripted expert).
        action_space: Of the environment.

    Raises:
        RefusedError: If it is none of them.
    """
    if isinstance(policy, str) and policy == "random":
        return RandomPolicy(action_space)
    if isinstance(policy, BatchPolicy):
        return policy
    if callable(getattr(policy, "predict", None)):
        from rlzoo.data.sb3_policies import sb3_policy

        return sb3_policy(policy)
    raise RefusedError(
        f"{policy!r} is not a policy.",
        "Allowed: 'random', a shipped behaviour, an SB3 model, an object with predict().",
    )


def check_action_space(space: spaces.Space[Any]) -> spaces.Box | spaces.Discrete:
    """Return the space if actions of it can be drawn and stored.

    Raises:
        RefusedError: Unless it is a bounded Box of floats or a Discrete.
    """
    if isinstance(space, spaces.Discrete):
        return space
    if isinstance(space, spaces.Box) and space.is_bounded() and space.dtype.kind == "f":
        return space
    raise RefusedError(
        f"Cannot collect actions of {space}.", "Allowed: a bounded Box of floats, or Discrete."
    )


def uniform_actions(space: spaces.Box | spaces.Discrete, u: NDArray[np.float64]) -> NDArray[Any]:
    """Return uniform actions, the law of ``space.sample()``.

    Args:
        space: Of the actions.
        u: ``[n, action_size]`` uniforms on [0, 1); ``action_size`` is 1 for Discrete.
    """
    if isinstance(space, spaces.Discrete):
        drawn = np.minimum((u[:, 0] * int(space.n)).astype(np.int64), int(space.n) - 1)
        return drawn + int(space.start)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    scaled: NDArray[Any] = low + (high - low) * u.reshape(len(u), *space.shape)
    return scaled.astype(np.float32)


def action_size(space: spaces.Box | spaces.Discrete) -> int:
    """Return how many random numbers one random action needs."""
    return 1 if isinstance(space, spaces.Discrete) else int(np.prod(space.shape))


class RandomPolicy:
    """Uniform actions.

    Args:
        action_space: A bounded Box or a Discrete.
    """

    normals = 0

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = check_action_space(action_space)
        self.uniforms = action_size(self.action_space)

    def act(
        self, observations: NDArray[Any], step: Step, deterministic: bool = False
    ) -> NDArray[Any]:
        """Return uniform actions, whatever the observation."""
        return uniform_actions(self.action_space, step.uniforms)

    def describe(self) -> dict[str, Any]:
        """Return the kind."""
        return {"kind": "random"}


class NoisyPolicy:
    """Another policy with exploration noise on top.

    Args:
        policy: The policy.
        action_space: A bounded Box or a Discrete.
        epsilon: Probability of a uniform action instead, in [0, 1].
        gaussian_noise: Standard deviation of noise on the action scaled to [-1, 1], >= 0; the
            result is clipped to the bounds. Box only.

    Raises:
        RefusedError: If a value is out of range.
    """

    def __init__(
        self,
        policy: BatchPolicy,
        action_space: spaces.Space[Any],
        epsilon: float = 0.0,
        gaussian_noise: float = 0.0,
    ) -> None:
        space = check_action_space(action_space)
        if not 0 <= epsilon <= 1:
            raise RefusedError(f"epsilon={epsilon} is out of range.", "Allowed: 0 to 1.")
        if not 0 <= gaussian_noise < np.inf:
            raise RefusedError(f"gaussian_noise={gaussian_noise} is out of range.", "Allowed: >= 0")
        if gaussian_noise and isinstance(space, spaces.Discrete):
            raise RefusedError(
                f"gaussian_noise={gaussian_noise} with discrete actions.",
                "Allowed: 0 for discrete actions.",
                "Use epsilon instead.",
            )
        self.policy, self.action_space = policy, space
        self.epsilon, self.gaussian_noise = epsilon, gaussian_noise
        size = action_size(space)
        self._more_normals = size if gaussian_noise else 0
        self._more_uniforms = 1 + size if epsilon else 0
        self.normals = policy.normals + self._more_normals
        self.uniforms = policy.uniforms + self._more_uniforms

    def act(
        self, observations: NDArray[Any], step: Step, deterministic: bool = False
    ) -> NDArray[Any]:
        """Return the policy's actions with noise."""
        normals, more_normals = np.split(step.normals, [self.policy.normals], axis=1)
        uniforms, more_uniforms = np.split(step.uniforms, [self.policy.uniforms], axis=1)
        inner = step._replace(normals=normals, uniforms=uniforms)
        actions = self.policy.act(observations, inner, deterministic)
        if self.gaussian_noise and isinstance(self.action_space, spaces.Box):
            low, high = self.action_space.low, self.action_space.high
            noise = more_normals.reshape(actions.shape) * (0.5 * self.gaussian_noise * (high - low))
            actions = np.clip(actions + noise, low, high).astype(np.float32)
        if self.epsilon:
            chosen = more_uniforms[:, 0] < self.epsilon
            chosen = chosen.reshape(-1, *[1] * (actions.ndim - 1))
            actions = np.where(
                chosen, uniform_actions(self.action_space, more_uniforms[:, 1:]), actions
            )
        return actions

    def describe(self) -> dict[str, Any]:
        """Return the facts of the policy; the noise is a setting of the collection."""
        return self.policy.describe()
