"""The learnt model of the dynamics, and rolling plans out in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import torch as th
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rlzoo.agents.dae_mpc.networks import (
    Layers,
    ProbabilisticMLP,
    forward_in_place,
    in_bfloat16,
    make_blocks,
)
from rlzoo.agents.dae_mpc.normalizer import Normalizer
from rlzoo.core.mpc_tasks import MpcTask

Propagation = Literal["mean", "tsinf"]


class Rollout(NamedTuple):
    """Imagined trajectories, time first; ``R`` rows are particles x environments x candidates.

    Args:
        states: Observations, ``[H + 1, R, S]``.
        pairs: Normalised pairs ``z`` of features and action, ``[H, R, d]``.
        rewards: Predicted ones ``[H, R]``, where the reward is learned.
    """

    states: th.Tensor
    pairs: th.Tensor
    rewards: th.Tensor | None = None


class Dynamics(Protocol):
    """What an objective needs of a model; anything that rolls out will do."""

    n_particles: int

    def rollout(
        self, start: th.Tensor, actions: th.Tensor, generator: th.Generator | None = None
    ) -> Rollout:
        """Imagine plans ``[H, B, N, A]`` (scaled to [-1, 1]) from states ``[B, S]``."""


class DynamicsModel(nn.Module):
    """Probabilistic networks for the change of the observation, with normalised inputs and targets.

    Args:
        task: What the model looks at, and which dimensions it predicts as values.
        n_members: Networks ``K``.
        hidden: Widths of their hidden layers.
        learned_reward: Predict the reward as one more dimension.
        normalize_targets: Learn targets with mean 0 and deviation 1. Ours: the bounds of the
            log-variance assume them.
        propagation: ``"mean"``: the mean prediction (of all members); ``"tsinf"``: every particle
            keeps one member and draws from its distribution [PETS].
        n_particles: Particles per plan of ``"tsinf"``, a multiple of the members.
        bf16: Inner layers of mean predictions in bf16, where no gradient is asked for.
    """

    def __init__(
        self,
        task: MpcTask,
        n_members: int,
        hidden: Sequence[int],
        learned_reward: bool = False,
        normalize_targets: bool = True,
        propagation: Propagation = "mean",
        n_particles: int = 1,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.task, self.learned_reward = task, learned_reward
        self.normalize_targets, self.propagation = normalize_targets, propagation
        self.bf16 = bf16
        self.n_particles = n_particles if propagation == "tsinf" else 1
        self.n_features, self.n_observations = task.n_features, task.n_observations
        width = self.n_features + task.n_actions
        n_outputs = task.n_observations + int(learned_reward)
        self.inputs, self.targets = Normalizer(width), Normalizer(n_outputs)
        self.network = ProbabilisticMLP(n_members, width, hidden, n_outputs)
        keep = th.ones(task.n_observations)
        keep[list(task.value_dims)] = 0.0
        self.register_buffer("keep", keep, persistent=False)

    keep: th.Tensor

    # ---------------------------------------------------------------- learning

    def raw_pairs(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Return features and scaled actions side by side, ``[N, d]``, not normalised."""
        return th.cat((self.task.look(observations), actions), -1)

    def raw_targets(
        self, observations: th.Tensor, next_observations: th.Tensor, rewards: th.Tensor
    ) -> th.Tensor:
        """Return what is to be predicted, ``[N, D]``, not normalised."""
        moved = next_observations - self.keep * observations
        return th.cat((moved, rewards.unsqueeze(-1)), -1) if self.learned_reward else moved

    def measure(self, pairs: th.Tensor, targets: th.Tensor) -> None:
        """Take the statistics of raw pairs and targets."""
        self.inputs.measure(pairs)
        if self.normalize_targets:
            self.targets.measure(targets)

    @th.no_grad()
    def predict(self, pairs: th.Tensor) -> th.Tensor:
        """Return the mean of all members in normalised units, ``[N, d]`` to ``[N, D]``."""
        members = self.network.n_members
        mean, _ = self.network(pairs.expand(members, *pairs.shape))
        average: th.Tensor = mean.mean(0)
        return average

    # ---------------------------------------------------------------- planning

    def rollout(
        self, start: th.Tensor, actions: th.Tensor, generator: th.Generator | None = None
    ) -> Rollout:
        """Imagine plans.

        Args:
            start: ``[B, S]``.
            actions: Scaled to [-1, 1], ``[H, B, N, A]``.
            generator: Of the particles' noise, which all ``B`` share.
        """
        _, n_starts, n_plans, _ = actions.shape
        flat = actions.flatten(1, 2).repeat(1, self.n_particles, 1)
        first = start.unsqueeze(1).expand(-1, n_plans, -1).flatten(0, 1)
        first = first.repeat(self.n_particles, 1)
        scaled = (flat - self.inputs.mean[self.n_features :]) / self.inputs.scale[self.n_features :]
        if self.propagation == "mean" and not scaled.requires_grad:
            return self._roll_in_place(first, scaled)
        change = self._change(n_starts, n_plans, generator)
        return self._roll(first, scaled, change)

    def _look(self, states: th.Tensor) -> th.Tensor:
        """Return normalised features."""
        n = self.n_features
        return (self.task.look(states) - self.inputs.mean[:n]) / self.inputs.scale[:n]

    def _roll(
        self, first: th.Tensor, actions: th.Tensor, change: Callable[[th.Tensor], th.Tensor]
    ) -> Rollout:
        """Roll out step by step; differentiable."""
        states, pairs, rewards = [first], [], []
        for action in actions:
            state = states[-1]
            pair = th.cat((self._look(state), action), -1)
            found = change(pair)
            moved = found[..., : self.n_observations]
            states.append(state * self.keep + moved if self.task.value_dims else state + moved)
            pairs.append(pair)
            rewards.append(found[..., -1])
        learned = th.stack(rewards) if self.learned_reward else None
        return Rollout(th.stack(states), th.stack(pairs), learned)

    @th.no_grad()
    def _roll_in_place(self, first: th.Tensor, actions: th.Tensor) -> Rollout:
        """As :meth:`_roll` for mean predictions, into blocks that are allocated once."""
        horizon, rows, _ = actions.shape
        n, n_obs, members = self.n_features, self.n_observations, self.network.n_members
        layers = self._mean_layers()
        layers = in_bfloat16(layers) if self.bf16 else layers
        blocks = make_blocks(layers, rows, (members,) if members > 1 else ())
        mean, scale = self.inputs.mean[:n], self.inputs.scale[:n]
        states = first.new_empty((horizon + 1, rows, n_obs))
        pairs = first.new_empty((horizon, rows, n + actions.shape[-1]))
        rewards = first.new_empty((horizon, rows)) if self.learned_reward else None
        states[0], pairs[..., n:] = first, actions
        for t in range(horizon):
            now, pair = states[t], pairs[t]
            th.sub(self.task.look(now), mean, out=pair[:, :n]).div_(scale)
            if members == 1:
                found = forward_in_place(pair, layers, blocks)
            else:
                found = forward_in_place(pair.expand(members, -1, -1), layers, blocks).mean(0)
            if self.task.value_dims:
                th.addcmul(found[:, :n_obs], now, self.keep, out=states[t + 1])
            else:
                th.add(now, found[:, :n_obs], out=states[t + 1])
            if rewards is not None:
                rewards[t] = found[:, -1]
        return Rollout(states, pairs, rewards)

    @th.no_grad()
    def _mean_layers(self) -> Layers:
        """Return bias and weight by layer; the last gives the mean alone, in raw units."""
        layers = [(layer.bias.detach(), layer.weight.detach()) for layer in self.network.stacked]
        bias, weight = layers[-1]
        n, scale = self.network.n_outputs, self.targets.scale
        layers[-1] = (bias[..., :n] * scale + self.targets.mean, weight[..., :n] * scale)
        if self.network.n_members == 1:
            layers = [(bias.flatten(), weight[0]) for bias, weight in layers]
        return layers

    def _change(
        self, n_starts: int, n_plans: int, generator: th.Generator | None
    ) -> Callable[[th.Tensor], th.Tensor]:
        """Return the function from pairs ``[R, d]`` to predicted changes ``[R, D]``, raw units."""
        members = self.network.n_members
        if self.propagation == "mean":
            layers = self._mean_layers()
            return lambda pair: _forward(pair, layers, members)
        per_member = self.n_particles // members

        def sample(pair: th.Tensor) -> th.Tensor:
            mean, log_variance = self.network(pair.view(members, -1, pair.shape[-1]))
            shape = (members, per_member, 1, n_plans, mean.shape[-1])
            noise = th.randn(shape, generator=generator, device=mean.device, dtype=mean.dtype)
            noise = noise.expand(-1, -1, n_starts, -1, -1).reshape(mean.shape)
            drawn = mean + (0.5 * log_variance).exp() * noise
            return self.targets.restore(drawn).flatten(0, 1)

        return sample


def _forward(pair: th.Tensor, layers: Layers, members: int) -> th.Tensor:
    """Return the mean of all members, ``[R, d]`` to ``[R, D]``; differentiable."""
    if members == 1:
        for bias, weight in layers[:-1]:
            pair = F.silu(th.addmm(bias, pair, weight))
        return th.addmm(layers[-1][0], pair, layers[-1][1])
    pair = pair.expand(members, *pair.shape)
    for bias, weight in layers[:-1]:
        pair = F.silu(th.baddbmm(bias, pair, weight))
    return th.baddbmm(layers[-1][0], pair, layers[-1][1]).mean(0)
