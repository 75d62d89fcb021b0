"""Stable-Baselines3 models as :class:`~rlzoo.data.policies.BatchPolicy`.

The noise is handed in by the collector, so that a row's action never depends on the other rows nor
on a global generator.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.data.policies import BatchPolicy, Step, action_size, check_action_space

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy


def sb3_policy(model: Any) -> BatchPolicy:
    """Return the fastest exact wrapper for an SB3 model or policy.

    SAC, TQC and CrossQ actors and plain actor-critic policies are sampled in one batch from the
    noise handed in; TD3, DDPG, DQN and QR-DQN (greedy; exploration is the collector's ``epsilon``)
    are deterministic and batched too. Everything else (gSDE, recurrent policies, planners, custom
    ``predict``) goes row by row, with the global generators seeded for each row and step.
    """
    from sb3_contrib.qrdqn.qrdqn import QRDQN
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.dqn.dqn import DQN

    policy = getattr(model, "policy", model)
    plain = (BaseAlgorithm.predict, DQN.predict, QRDQN.predict, BasePolicy.predict)
    if not isinstance(policy, BasePolicy) or type(model).predict not in plain:
        return RowByRowPolicy(model)
    policy.set_training_mode(False)
    return _batched(policy) or RowByRowPolicy(model)


def _batched(policy: BasePolicy) -> BatchPolicy | None:
    """Return the batched wrapper of a policy whose sampling is known, else None."""
    from sb3_contrib.crossq.policies import CrossQPolicy
    from sb3_contrib.qrdqn.policies import QRDQNPolicy
    from sb3_contrib.tqc.policies import TQCPolicy
    from stable_baselines3.common.distributions import (
        CategoricalDistribution,
        DiagGaussianDistribution,
    )
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.dqn.policies import DQNPolicy
    from stable_baselines3.sac.policies import SACPolicy
    from stable_baselines3.td3.policies import TD3Policy

    kind = type(policy)

    def inherits(method: str, *bases: type) -> bool:
        """Whether the method is one of those known here and not a user's own."""
        return getattr(kind, method, None) in [getattr(b, method) for b in bases]

    if not inherits("predict", ActorCriticPolicy):  # BasePolicy's; recurrent ones have their own
        return None
    if inherits("_predict", TD3Policy, DQNPolicy, QRDQNPolicy):
        return GreedyPolicy(policy)
    if isinstance(policy, (SACPolicy, TQCPolicy, CrossQPolicy)):
        known = inherits("_predict", SACPolicy, TQCPolicy, CrossQPolicy)
        return SquashedGaussianPolicy(policy) if known and not policy.actor.use_sde else None
    if isinstance(policy, ActorCriticPolicy):
        known = inherits("_predict", ActorCriticPolicy)
        known = known and inherits("get_distribution", ActorCriticPolicy)
        if known and type(policy.action_dist) is DiagGaussianDistribution:
            return DiagonalGaussianPolicy(policy)
        if known and type(policy.action_dist) is CategoricalDistribution:
            return CategoricalPolicy(policy)
    return None


def weights_digest(module: torch.nn.Module) -> str:
    """Return the SHA-256 over names, shapes and bytes of a module's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _SB3Batch:
    """What the wrappers of SB3 policies share."""

    uniforms = 0

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.observation_space: spaces.Space[Any] = policy.observation_space
        self.action_space = check_action_space(policy.action_space)
        self.normals = 0

    def describe(self) -> dict[str, Any]:
        """Return the class of the policy and the digest of its weights."""
        kind = type(self.policy)
        return {
            "kind": f"{kind.__module__}.{kind.__qualname__}",
            "sha256": weights_digest(self.policy),
        }


class GreedyPolicy(_SB3Batch):
    """TD3, DDPG, DQN, QR-DQN: one batched ``predict``."""

    def act(
        self, observations: NDArray[Any], step: Step, deterministic: bool = False
    ) -> NDArray[Any]:
        """Return the greedy actions."""
        actions: NDArray[Any] = self.policy.predict(observations, deterministic=True)[0]
        return actions


class SquashedGaussianPolicy(_SB3Batch):
    """SAC, TQC, CrossQ: ``tanh(mean + sd * noise)``, rescaled to the bounds."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self.normals = action_size(self.action_space)

    def act(
        self, observations: NDArray[Any], step: Step, deterministic: bool = False
    ) -> NDArray[Any]:
        """Return sampled actions, or the squashed means."""
        with torch.no_grad():
            tensor, _ = self.policy.obs_to_tensor(observations)
            mean, log_std, _ = self.policy.actor.get_action_dist_params(tensor)
            if not deterministic:
                mean = mean + log_std.exp() * torch.as_tensor(step.normals).to(mean)
            scaled = torch.tanh(mean).cpu().numpy()
        shaped = scaled.reshape(len(observations), *self.policy.action_space.shape)
        actions: NDArray[Any] = self.policy.unscale_action(shaped)
        return actions


class DiagonalGaussianPolicy(_SB3Batch):
    """PPO, A2C, TRPO on a Box: ``mean + sd * noise``, clipped (or rescaled) as ``predict`` does."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self.normals = action_size(self.action_space)

    def act(
        self, observations: NDArray[Any], step: Step, deterministic: bool = False
    ) -> NDArray[Any]:
        """Return sampled actions, or the means."""
        with torch.no_grad():
            tensor, _ = self.policy.obs_to_tensor(observations)
            law = self.policy.get_distribution(tensor).distribution
            value = law.mean
            if not deterministic:
                value = value + law.stddev * torch.as_tensor(step.normals).to(value)
        actions: NDArray[Any] = value.cpu().numpy()
        actions = actions.reshape(len(observations), *self.policy.action_space.shape)
        if self.policy.squash_output:
            actions = self.policy.unscale_action(actions)
        return actions


class CategoricalPolicy(_SB3Batch):
    """PPO, A2C, TRPO on Discrete: the inverse of the distribution function at a uniform."""

    uniforms = 1

    def act(
        self, observations: NDArray[Any], step: Step, deterministic: bool = False
    ) -> NDArray[Any]:
        """Return sampled actions, or the most probable ones."""
        with torch.no_grad():
            tensor, _ = self.policy.obs_to_tensor(observations)
            law = self.policy.get_distribution(tensor).distribution
            chances: NDArray[np.float64] = law.probs.cpu().numpy().astype(np.float64)
        if deterministic:
            greedy: NDArray[Any] = chances.argmax(axis=1)
            return greedy
        below = np.cumsum(chances, axis=1) <= step.uniforms
        drawn: NDArray[Any] = np.minimum(below.sum(axis=1), chances.shape[1] - 1)
        return drawn


class RowByRowPolicy:
    """Anything with SB3's ``predict``: exact, and as slow as one call per step.

    The global generators of Python, NumPy and torch are seeded before each call from the row's
    uniform, and the predict state of each row is carried through its episode.

    Args:
        model: Object with ``predict(observation, state, episode_start, deterministic)`` that takes
            a batch of one.
    """

    normals = 0
    uniforms = 1

    def __init__(self, model: Any) -> None:
        self.model = model
        self._states: dict[int, Any] = {}

    def act(
        self, observations: NDArray[Any], step: Step, deterministic: bool = False
    ) -> NDArray[Any]:
        """Return one ``predict`` per active row; the others repeat an active row's action."""
        answers: dict[int, Any] = {}
        for row in np.flatnonzero(step.active):
            seed = int(step.uniforms[row, 0] * 2**32)
            self._seed(seed)
            start = bool(step.starts[row])
            action, state = self.model.predict(
                observations[row : row + 1],
                state=None if start else self._states.get(int(row)),
                episode_start=np.array([start]),
                deterministic=deterministic,
            )
            answers[int(row)], self._states[int(row)] = np.asarray(action)[0], state
        filler = next(iter(answers.values()))
        return np.stack([answers.get(row, filler) for row in range(len(observations))])

    def _seed(self, seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - SB3 draws from the global generator
        torch.manual_seed(seed)
        space = getattr(self.model, "action_space", None)
        if isinstance(space, spaces.Space):
            space.seed(seed)

    def describe(self) -> dict[str, Any]:
        """Return the class and, where there is a torch policy, the digest of its weights."""
        kind = type(self.model)
        facts = {"kind": f"{kind.__module__}.{kind.__qualname__}"}
        policy = getattr(self.model, "policy", self.model)
        if isinstance(policy, torch.nn.Module):
            facts["sha256"] = weights_digest(policy)
        return facts
