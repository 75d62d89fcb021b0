"""Neural models of the environment: one that predicts what comes next, one what came before.

Both are ensembles whose members are one batched matmul. Inputs are normalised observations and
one-hot actions, targets are normalised differences and rewards; what is predicted stays within the
observed range (paper page, pitfall 11).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch as th
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rlzoo.agents.dyna_dqn.transitions import Batch, Prediction
from rlzoo.core.layers import StackedLinear

SMALLEST_SCALE = 1e-6  # what varies less is a constant


class Ensemble(nn.Module):
    """``n_models`` networks of one shape with SiLU between the layers.

    Args:
        n_models: Number of members ``K``.
        n_inputs: Input width.
        hidden: Widths of the hidden layers.
        n_outputs: Output width.
    """

    def __init__(self, n_models: int, n_inputs: int, hidden: Sequence[int], n_outputs: int) -> None:
        super().__init__()
        widths = [n_inputs, *hidden, n_outputs]
        self.n_models = n_models
        self.layers = nn.ModuleList(StackedLinear(n_models, a, b) for a, b in pairwise(widths))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Map ``[K, B, n_inputs]`` to ``[K, B, n_outputs]``."""
        *hidden, last = self.layers
        for layer in hidden:
            inputs = F.silu(layer(inputs))
        return cast(th.Tensor, last(inputs))


class Scaler(nn.Module):
    """Mean, deviation and range of a quantity, measured once per fit.

    Args:
        width: Number of dimensions.
    """

    mean: th.Tensor
    std: th.Tensor
    low: th.Tensor
    high: th.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        for name, value in (("mean", 0.0), ("std", 1.0), ("low", 0.0), ("high", 0.0)):
            self.register_buffer(name, th.full((width,), value))

    def measure(self, values: th.Tensor) -> None:
        """Take the statistics of ``[N, width]``."""
        self.mean.copy_(values.mean(0))
        std = values.std(0, correction=0)
        self.std.copy_(th.where(std > SMALLEST_SCALE, std, 1.0))
        self.low.copy_(values.amin(0))
        self.high.copy_(values.amax(0))

    def normalize(self, values: th.Tensor) -> th.Tensor:
        """Return values with mean 0 and deviation 1."""
        return (values - self.mean) / self.std

    def restore(self, values: th.Tensor) -> th.Tensor:
        """Undo :meth:`normalize`."""
        return values * self.std + self.mean

    def clip(self, values: th.Tensor) -> th.Tensor:
        """Return values within the observed range."""
        return values.clamp(self.low, self.high)


class NeuralModel(nn.Module):
    """What the models of both directions share.

    Args:
        n_obs: Width of an observation, ``D``.
        n_actions: Number of actions, ``A``.
        hidden: Widths of the hidden layers.
        n_models: Members of the ensemble, ``K``.
    """

    fitted: th.Tensor

    def __init__(self, n_obs: int, n_actions: int, hidden: Sequence[int], n_models: int) -> None:
        super().__init__()
        self.n_obs, self.n_actions, self.n_models = n_obs, n_actions, n_models
        self.observations, self.deltas, self.rewards = Scaler(n_obs), Scaler(n_obs), Scaler(1)
        self.register_buffer("fitted", th.tensor(False))

    @property
    def is_fitted(self) -> bool:
        """Whether it has seen data."""
        return bool(self.fitted)

    def measure(self, data: Batch) -> None:
        """Take the scales and ranges of all data."""
        self.observations.measure(th.cat((data.observations, data.next_observations)))
        self.deltas.measure(self._differences(data))
        self.rewards.measure(data.rewards.unsqueeze(-1))

    def _differences(self, data: Batch) -> th.Tensor:
        return data.next_observations - data.observations

    def losses(self, data: Batch) -> th.Tensor:
        """Return the loss of every member, ``[K]``, on data ``[K, B, ...]``."""
        raise NotImplementedError

    def _inputs(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        encoded = F.one_hot(actions, self.n_actions).to(observations.dtype)
        return th.cat((self.observations.normalize(observations), encoded), -1)

    def _ask_all(self, network: Ensemble, inputs: th.Tensor) -> th.Tensor:
        """Every member answers every row: ``[B, n]`` to ``[K, B, m]``."""
        return cast(th.Tensor, network(inputs.expand(self.n_models, *inputs.shape)))

    def _deal(self, values: th.Tensor) -> th.Tensor:
        """Deal the rows to the members: ``[B, n]`` to ``[K, ceil(B / K), n]``.

        Rows of a batch are independent draws, so dealing them out in turn is as good as drawing a
        member for each, and no member computes what is thrown away.
        """
        rows = -(-len(values) // self.n_models) * self.n_models
        padded = F.pad(values, (0, 0, 0, rows - len(values)))
        return padded.view(-1, self.n_models, values.shape[-1]).transpose(0, 1)

    @staticmethod
    def _collect(dealt: th.Tensor, n: int) -> th.Tensor:
        """Undo :meth:`_deal`."""
        return dealt.transpose(0, 1).reshape(-1, dealt.shape[-1])[:n]

    def _doubt(self, answers: th.Tensor) -> th.Tensor:
        """Return the spread of predicted observations ``[K, B, D]`` in units of their deviation."""
        return (answers.std(0, correction=0) / self.observations.std).mean(-1)

    def _choose_member(self, answers: th.Tensor) -> th.Tensor:
        """Return ``[B, m]`` of ``[K, B, m]``, member by row as in :meth:`_deal`."""
        rows = th.arange(answers.shape[1], device=answers.device)
        return answers[rows % self.n_models, rows]

    def _answer(
        self, network: Ensemble, inputs: th.Tensor, base: th.Tensor, sign: float, doubt: bool
    ) -> tuple[th.Tensor, th.Tensor]:
        """Return one answer per row ``[B, m]`` and the doubt ``[B]``, zeros unless asked for."""
        if not doubt:
            dealt = network(self._deal(inputs))
            return self._collect(dealt, len(inputs)), base.new_zeros(len(base))
        answers = self._ask_all(network, inputs)
        moved = self._move(answers, base, sign)
        return self._choose_member(answers), self._doubt(moved)

    def _move(self, answers: th.Tensor, base: th.Tensor, sign: float) -> th.Tensor:
        """Return observations from the predicted differences (the first ``D`` outputs)."""
        differences = self.deltas.restore(answers[..., : self.n_obs])
        return self.observations.clip(base + sign * differences)

    def _reward(self, answers: th.Tensor) -> th.Tensor:
        column = answers[..., self.n_obs : self.n_obs + 1]
        return self.rewards.clip(self.rewards.restore(column)).squeeze(-1)

    def _regression(self, answers: th.Tensor, data: Batch) -> th.Tensor:
        """Return the squared error of differences and rewards, ``[K]``; mean over dimensions."""
        deltas = self.deltas.normalize(self._differences(data))
        rewards = self.rewards.normalize(data.rewards.unsqueeze(-1))
        moved = (answers[..., : self.n_obs] - deltas).square().mean((1, 2))
        paid = answers[..., self.n_obs : self.n_obs + 1] - rewards
        return moved + paid.square().mean((1, 2))


class ForwardModel(NeuralModel):
    """``(s, a)`` to the change of ``s``, the reward, and the logit of the end of the episode."""

    def __init__(self, n_obs: int, n_actions: int, hidden: Sequence[int], n_models: int) -> None:
        super().__init__(n_obs, n_actions, hidden, n_models)
        self.network = Ensemble(n_models, n_obs + n_actions, hidden, n_obs + 2)

    def losses(self, data: Batch) -> th.Tensor:
        """Return the loss of every member, ``[K]``, on data ``[K, B, ...]``."""
        answers = self.network(self._inputs(data.observations, data.actions))
        ends = F.binary_cross_entropy_with_logits(answers[..., -1], data.dones, reduction="none")
        return self._regression(answers, data) + ends.mean(1)

    @th.no_grad()
    def forward_sample(
        self, observations: th.Tensor, actions: th.Tensor, doubt: bool = False
    ) -> Prediction:
        """Predict what follows; one member per row.

        Args:
            observations: ``[B, D]``.
            actions: ``[B]``.
            doubt: Ask all members, to tell how far they are apart.
        """
        inputs = self._inputs(observations, actions)
        answers, spread = self._answer(self.network, inputs, observations, 1.0, doubt)
        moved = self._move(answers, observations, 1.0)
        return Prediction(moved, self._reward(answers), answers[:, -1].sigmoid(), spread, actions)

    @th.no_grad()
    def backup(
        self,
        observations: th.Tensor,
        actions: th.Tensor,
        value: Callable[[th.Tensor], th.Tensor],
        gamma: float,
    ) -> th.Tensor:
        """Return ``r + gamma (1 - d) value(s')``, the mean of all members, ``[B]``."""
        answers = self._ask_all(self.network, self._inputs(observations, actions))
        values = value(self._move(answers, observations, 1.0))
        ends = answers[..., -1].sigmoid()
        return (self._reward(answers) + gamma * (1 - ends) * values).mean(0)


class BackwardModel(NeuralModel):
    """``s'`` to the distribution of the action, then ``(s', a)`` to ``s - s'`` and the reward."""

    def __init__(self, n_obs: int, n_actions: int, hidden: Sequence[int], n_models: int) -> None:
        super().__init__(n_obs, n_actions, hidden, n_models)
        self.actor = Ensemble(n_models, n_obs, hidden, n_actions)
        self.network = Ensemble(n_models, n_obs + n_actions, hidden, n_obs + 1)

    def losses(self, data: Batch) -> th.Tensor:
        """Return the loss of every member, ``[K]``, on data ``[K, B, ...]``."""
        logits = self.actor(self.observations.normalize(data.next_observations))
        chosen = F.cross_entropy(logits.flatten(0, 1), data.actions.flatten(), reduction="none")
        answers = self.network(self._inputs(data.next_observations, data.actions))
        return self._regression(answers, data) + chosen.view(data.actions.shape).mean(1)

    @th.no_grad()
    def backward_sample(self, next_observations: th.Tensor, doubt: bool = False) -> Prediction:
        """Predict what came before; one member per row; actions are drawn.

        Args:
            next_observations: ``[B, D]``.
            doubt: Ask all members, to tell how far they are apart.
        """
        features = self.observations.normalize(next_observations)
        logits = self._collect(self.actor(self._deal(features)), len(features))
        # Gumbel noise on the logits: a draw from their softmax.
        actions = (logits - th.empty_like(logits).exponential_().log()).argmax(-1)
        inputs = self._inputs(next_observations, actions)
        answers, spread = self._answer(self.network, inputs, next_observations, -1.0, doubt)
        moved = self._move(answers, next_observations, -1.0)
        ends = th.zeros_like(spread)
        return Prediction(moved, self._reward(answers), ends, spread, actions)
