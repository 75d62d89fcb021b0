"""Where planned transitions come from: one planner, three parts (paper page, section 2.1).

``search_control.sample(n)`` gives what to plan from, ``source.transitions(queries)`` what happens
there, and one shared ``update(batch)`` learns from it. Replay is the source that looks the stored
outcome up.

=============  =====================================  ==================================
source         asks the model for                     updates
=============  =====================================  ==================================
``Stored``     nothing                                a real pair toward a real state
``Forward``    what follows a real pair               a real pair toward a predicted state
``Backward``   what came before a real state          a predicted pair toward a real state
``Rollout``    what follows what follows ...          predicted pairs as well (remedy 1)
``Return``     the same, as one return of k steps     a real pair (remedy 2)
=============  =====================================  ==================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch as th

from rlzoo.agents.dyna_dqn.transitions import Batch, Prediction

Choose = Callable[[th.Tensor], th.Tensor]
"""A policy: observations ``[B, D]`` to actions ``[B]``."""

Value = Callable[[th.Tensor], th.Tensor]
"""Observations ``[..., D]`` to values ``[...]``."""


class SearchControl(Protocol):
    """Where planning starts."""

    def sample(self, n: int) -> Batch:
        """Draw ``n`` real transitions: a pair with its outcome, or a state with its past."""


class ForwardSampler(Protocol):
    """A model of what follows."""

    def forward_sample(
        self, observations: th.Tensor, actions: th.Tensor, doubt: bool = False
    ) -> Prediction:
        """Predict what follows each pair."""

    def backup(
        self, observations: th.Tensor, actions: th.Tensor, value: Value, gamma: float
    ) -> th.Tensor:
        """Return the expected ``r + gamma (1 - d) value(s')``; NaN where nothing is known."""


class BackwardSampler(Protocol):
    """A model of what came before."""

    def backward_sample(self, next_observations: th.Tensor, doubt: bool = False) -> Prediction:
        """Predict what came before each state."""


class Source(Protocol):
    """Turns real transitions into those to learn from; as many."""

    def transitions(self, queries: Batch) -> Batch:
        """Return the transitions."""


@dataclass(frozen=True)
class Planner:
    """The planning half of the loop.

    Args:
        search_control: Where to start.
        source: What happens there.
        update: Learns from it; the same for every source.
    """

    search_control: SearchControl
    source: Source
    update: Callable[[Batch], None]

    def plan(self, n_updates: int, batch_size: int) -> int:
        """Take updates of ``batch_size`` planned transitions; returns how many were planned."""
        for _ in range(n_updates):
            self.update(self.source.transitions(self.search_control.sample(batch_size)))
        return n_updates * batch_size


class Stored:
    """Replay: the model is the buffer."""

    def transitions(self, queries: Batch) -> Batch:
        """Return the queries: they have their outcomes."""
        return queries


@dataclass(frozen=True)
class Forward:
    """One predicted step from real pairs.

    Args:
        model: The model.
        choose: Chooses actions anew, which a buffer cannot; None keeps the stored ones.
        limit: Largest doubt of a sample that is learned from; None: any finite one.
    """

    model: ForwardSampler
    choose: Choose | None = None
    limit: float | None = None

    def transitions(self, queries: Batch) -> Batch:
        """Replace outcomes by predicted ones."""
        actions = queries.actions if self.choose is None else self.choose(queries.observations)
        found = self.model.forward_sample(queries.observations, actions, self.limit is not None)
        return queries._replace(
            actions=actions, rewards=found.rewards, next_observations=found.observations,
            dones=found.dones, weights=trust(found, self.limit),
        )  # fmt: skip


@dataclass(frozen=True)
class Backward:
    """One predicted step into the past of real states, whose true ends are known.

    Args:
        model: The model.
        limit: As in :class:`Forward`.
    """

    model: BackwardSampler
    limit: float | None = None

    def transitions(self, queries: Batch) -> Batch:
        """Replace pairs and rewards by predicted ones."""
        found = self.model.backward_sample(queries.next_observations, self.limit is not None)
        return queries._replace(
            observations=found.observations, actions=found.actions, rewards=found.rewards,
            weights=trust(found, self.limit),
        )  # fmt: skip


@dataclass(frozen=True)
class Rollout:
    """Predicted trajectories; updates start at every state of them (remedy 1).

    ``n`` queries give ``ceil(n / length)`` trajectories at a time. One that ends, or that the model
    knows nothing about, begins again at an unused query, so every row is a transition.

    Args:
        model: The model.
        choose: The policy that is followed.
        length: Predicted steps in a row, ``k``.
        from_policy: The first action is chosen as well, instead of being the stored one.
        limit: As in :class:`Forward`.
    """

    model: ForwardSampler
    choose: Choose
    length: int
    from_policy: bool = False
    limit: float | None = None

    def transitions(self, queries: Batch) -> Batch:
        """Return the steps of the trajectories, in the order of time."""
        width = -(-queries.size // self.length)
        steps: list[Batch] = []
        step = Forward(self.model, None, self.limit)
        for start in range(0, queries.size, width):
            fresh = queries.rows(slice(start, start + width))
            if self.from_policy:
                fresh = fresh._replace(actions=self.choose(fresh.observations))
            steps.append(step.transitions(self._go_on(steps[-1], fresh) if steps else fresh))
        return Batch(*(th.cat(tensors) for tensors in zip(*steps, strict=True)))

    def _go_on(self, last: Batch, fresh: Batch) -> Batch:
        last = last.rows(slice(fresh.size))
        # Never a step from a state that is predicted to be the end.
        over = (last.dones > 0.5) | (last.weights == 0)
        observations = th.where(over[:, None], fresh.observations, last.next_observations)
        chosen = self.choose(last.next_observations)
        return fresh._replace(
            observations=observations, actions=th.where(over, fresh.actions, chosen)
        )


@dataclass(frozen=True)
class Return:
    """One return of ``length`` predicted steps (remedy 2); the arguments are :class:`Rollout`'s."""

    model: ForwardSampler
    choose: Choose
    length: int
    from_policy: bool = False
    limit: float | None = None

    def transitions(self, queries: Batch) -> Batch:
        """Return real starts with predicted returns; ``dones`` is the chance to have ended."""
        step = Forward(self.model, None, self.limit)
        batch = queries
        if self.from_policy:
            batch = batch._replace(actions=self.choose(batch.observations))
        start, total, gamma = batch, th.zeros_like(batch.rewards), batch.discounts
        alive, discount, weights = (th.ones_like(total) for _ in range(3))
        for index in range(self.length):
            if index:
                batch = batch._replace(
                    observations=batch.next_observations,
                    actions=self.choose(batch.next_observations),
                )
            batch = step.transitions(batch)
            total = total + discount * alive * batch.rewards
            alive, discount = alive * (1 - batch.dones), discount * gamma
            weights = weights * batch.weights
        return batch._replace(
            observations=start.observations, actions=start.actions, rewards=total,
            dones=1 - alive, discounts=discount, weights=weights,
        )  # fmt: skip


def trust(found: Prediction, limit: float | None) -> th.Tensor:
    """Return 1 for predictions to learn from and 0 for those with too much doubt, ``[B]``."""
    fine = found.doubt.isfinite() if limit is None else found.doubt <= limit
    return fine.to(found.rewards.dtype)


def lookahead(
    model: ForwardSampler, q_values: Callable[[th.Tensor], th.Tensor], observations: th.Tensor,
    gamma: float,
) -> th.Tensor:  # fmt: skip
    """Return ``r + gamma (1 - d) max Q(s', .)`` of every action, ``[B, A]``.

    Actions about which the model knows nothing keep their Q value.
    """
    direct = q_values(observations)
    n, n_actions = direct.shape
    actions = th.arange(n_actions, device=direct.device).repeat(n)
    repeated = observations.repeat_interleave(n_actions, 0)
    found = model.backup(repeated, actions, lambda s: q_values(s).amax(-1), gamma)
    found = found.view(n, n_actions)
    return th.where(found.isnan(), direct, found)
