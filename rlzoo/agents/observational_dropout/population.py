"""All candidates in all their episodes at once: C x E episodes as one tensor program (page, 7).

Starts, peeks and the chance in discrete actions are drawn beforehand from one generator. Candidate
i and its mirror image i + C/2 get the same ones, different pairs different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch as th

from rlzoo.agents.observational_dropout.recursion import (
    Act,
    Block,
    Predict,
    draw_peeks,
    run_episodes,
)
from rlzoo.agents.observational_dropout.stacked import (
    Shape,
    laid_out,
    mlp,
    shapes_of,
    size_of,
    split,
)
from rlzoo.agents.observational_dropout.world_models import WORLD_MODELS, WorldModel
from rlzoo.core.simulator import Simulator


@dataclass(frozen=True)
class Networks:
    """World model and policy as one vector: first the layers of the model, then of the policy.

    Args:
        model: The world model.
        policy_shapes: Inputs and outputs of the layers of the policy, tanh on all.
        discrete: The policy gives logits instead, without tanh on the last layer.
        lagged: The model is told the action of the step before.
    """

    model: WorldModel
    policy_shapes: tuple[Shape, ...]
    discrete: bool = False
    lagged: bool = False

    @classmethod
    def make(
        cls,
        kind: str,
        n_observations: int,
        n_actions: int,
        net_arch: Sequence[int],
        model_arch: Sequence[int] | None,
        discrete: bool = False,
        lagged: bool = False,
    ) -> Networks:
        """Return the networks of a task.

        Args:
            kind: Of world model, a key of ``WORLD_MODELS``.
            n_observations: Length of observations.
            n_actions: Length of actions, or number of discrete ones.
            net_arch: Hidden widths of the policy.
            model_arch: Hidden widths of the model; None for those of its kind.
            discrete: Whether actions are drawn from logits.
            lagged: Whether the model is told the action of the step before.
        """
        model = WORLD_MODELS[kind](n_observations, n_actions, model_arch)
        return cls(model, shapes_of(n_observations, net_arch, n_actions), discrete, lagged)

    @property
    def n_parameters(self) -> int:
        """Length of the vector."""
        return size_of(self.model.shapes) + size_of(self.policy_shapes)

    def idle(self, like: th.Tensor) -> th.Tensor | None:
        """Return what a lagged model is told in a first step: zeros, or action 0; else None.

        Args:
            like: Of the shape ``[*N, …]``, and of the type of actions.
        """
        if not self.lagged:
            return None
        action = like.new_zeros((*like.shape[:-1], self.policy_shapes[-1][1]))
        if self.discrete:
            action[..., 0] = 1
        return action

    def bind(self, vectors: th.Tensor) -> tuple[Act, Predict]:
        """Return policies and models of candidates, ``[C, P]``, for inputs ``[C, E, ...]``."""
        cut = size_of(self.model.shapes)
        model = laid_out(split(vectors[:, :cut], self.model.shapes))
        policy = laid_out(split(vectors[:, cut:], self.policy_shapes))
        return partial(mlp, policy, bounded=not self.discrete), partial(self.model.predict, model)


@dataclass(frozen=True)
class Scores:
    """How candidates did.

    Args:
        fitness: Mean discounted return of each, ``[C]``, float32 on the CPU.
        returns: Of every episode, ``[C, E]``.
        lengths: Steps of every episode, ``[C, E]``.
        peeks: Share of the steps at which the true observation was seen.
        error: Mean squared error of the predictions.
    """

    fitness: th.Tensor
    returns: th.Tensor
    lengths: th.Tensor
    peeks: float
    error: float


def draw_starts(
    task: Simulator, rng: np.random.Generator, pairs: int, n_episodes: int, mirrored: bool = True
) -> th.Tensor:
    """Draw where episodes begin: ``[2 pairs, E, S]``, both of a pair at the same place."""
    starts = th.from_numpy(task.start(rng, (pairs, n_episodes)))
    return th.cat([starts, starts]) if mirrored else starts


def play(
    task: Simulator,
    networks: Networks,
    candidates: th.Tensor,
    n_episodes: int,
    peek_prob: float,
    rng: np.random.Generator,
    gamma: float = 1.0,
    on_block: Callable[[Block], bool] | None = None,
    model: Predict | None = None,
    mirrored: bool = True,
) -> Scores | None:
    """Play ``n_episodes`` with every candidate.

    Args:
        task: What is played.
        networks: What the vectors mean.
        candidates: ``[C, P]``; C is even where pairs share their randomness.
        n_episodes: Episodes per candidate, E.
        peek_prob: Probability of seeing the true observation, after the first step.
        rng: Draws starts, peeks and discrete actions.
        gamma: Discount of the returns.
        on_block: See :func:`.recursion.run_episodes`; its arrays are ``[C * E]`` long.
        model: Used in place of the candidates' own world models.
        mirrored: Whether i and i + C/2 are a pair that shares its randomness.

    Returns:
        Their scores, or None if ``on_block`` broke the episodes off.
    """
    pairs = len(candidates) // 2 if mirrored else len(candidates)
    states = draw_starts(task, rng, pairs, n_episodes, mirrored)
    states = states.to(candidates.device, candidates.dtype)
    peeks = None
    if peek_prob < 1:
        drawn = th.from_numpy(draw_peeks(rng, task.max_steps, (pairs, n_episodes), peek_prob))
        peeks = (th.cat([drawn, drawn], 1) if mirrored else drawn).to(candidates.device)
    luck = None
    if networks.discrete:
        drawn = th.from_numpy(rng.random((task.max_steps, pairs, n_episodes), np.float32))
        luck = (th.cat([drawn, drawn], 1) if mirrored else drawn).to(candidates.device)
    act, predict = networks.bind(candidates)
    with th.no_grad():
        episodes = run_episodes(
            task, states, peeks, act, predict if model is None else model, task.max_steps, gamma,
            on_block, luck, networks.idle(states),
        )  # fmt: skip
    if episodes is None:
        return None
    fitness = episodes.returns.float().mean(1).cpu()
    return Scores(fitness, episodes.returns, episodes.lengths, episodes.peeks, episodes.error)
