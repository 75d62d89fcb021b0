"""Observational dropout as a recursion over batches, with the peeks drawn beforehand (page, 2.1).

Pure functions over tensors of any leading shape ``[*N]``. The paper's displayed equation peeks with
probability 1 - p; its text, its poster and its code peek with probability p, as here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import nn

from rlzoo.core.simulator import Simulator

BLOCK = 50
"""Steps between two looks at whether an episode is still running."""

Act = Callable[[th.Tensor], th.Tensor]
"""``pi(x)``: ``[*N, O]`` to ``[*N, A]``: actions in [-1, 1], or logits of discrete ones."""
Predict = Callable[[th.Tensor, th.Tensor], th.Tensor]
"""``M(x, a)``: to ``[*N, O]``; a discrete action is one-hot."""


@dataclass(frozen=True)
class Block:
    """What happened in up to :data:`BLOCK` steps; NumPy, ``[*N]`` unless said otherwise.

    Args:
        steps: Number of steps taken by all episodes together.
        rewards: Sum of the rewards.
        ended: Whether the episode ended in this block.
        returns: Return so far, undiscounted.
        lengths: Steps so far.
        observations: The last ones, ``[*N, O]``.
    """

    steps: int
    rewards: NDArray[np.float32]
    ended: NDArray[np.bool_]
    returns: NDArray[np.float32]
    lengths: NDArray[np.int64]
    observations: NDArray[np.float32]


@dataclass(frozen=True)
class Episodes:
    """Finished episodes.

    Args:
        returns: Discounted returns ``[*N]``.
        lengths: Steps ``[*N]``, int64.
        peeks: Share of the steps at which the true observation was seen.
        error: Mean squared error of the predictions; NaN where nothing was predicted.
    """

    returns: th.Tensor
    lengths: th.Tensor
    peeks: float
    error: float


def draw_peeks(
    rng: np.random.Generator, n_steps: int, shape: Sequence[int], peek_prob: float
) -> NDArray[np.bool_]:
    """Draw flags, ``[T, *shape]``: the first step always peeks, others with probability p."""
    peeks = rng.random((n_steps, *shape), np.float32) < np.float32(peek_prob)
    peeks[:1] = True
    return peeks


def believe(observation: th.Tensor, prediction: th.Tensor, peek: th.Tensor) -> th.Tensor:
    """Return what the agent takes for the observation: step 2 of the recursion.

    Args:
        observation: The true one, ``[*N, O]``.
        prediction: That of the model, ``[*N, O]``.
        peek: ``[*N]``, bool.
    """
    return th.where(peek.unsqueeze(-1), observation, prediction)


def choose(logits: th.Tensor, luck: th.Tensor | None = None) -> th.Tensor:
    """Draw actions from a softmax, one-hot: ``[*N, A]``.

    Args:
        logits: ``[*N, A]``.
        luck: Uniform on [0, 1), ``[*N]``: equal numbers and equal logits give equal actions. None
            takes the likeliest.
    """
    if luck is None:
        index = logits.argmax(-1)
    else:
        below = logits.softmax(-1).cumsum(-1)[..., :-1]
        index = (below <= luck.unsqueeze(-1)).sum(-1)
    return nn.functional.one_hot(index, logits.shape[-1]).to(logits.dtype)


def run_episodes(
    task: Simulator,
    state: th.Tensor,
    peeks: th.Tensor | None,
    act: Act,
    predict: Predict,
    n_steps: int,
    gamma: float = 1.0,
    on_block: Callable[[Block], bool] | None = None,
    luck: th.Tensor | None = None,
    idle: th.Tensor | None = None,
) -> Episodes | None:
    """Play one episode from every state.

    An episode ends where the task says so, after ``n_steps``, or where a reward is not finite: the
    return so far is kept.

    Args:
        task: What is played.
        state: Where episodes begin, ``[*N, S]``.
        peeks: ``[T, *N]`` with T at least ``n_steps``, the first row all true; None looks at every
            step, and then nothing is predicted.
        act: The policy.
        predict: The world model.
        n_steps: Most steps.
        gamma: Discount of the returns.
        on_block: Told about every block of steps; False breaks the episodes off.
        luck: Draws discrete actions, see :func:`choose`; ``[T, *N]``. None: ``act`` gives actions.
        idle: The model is told the action of the step before, and this one in the first step,
            ``[*N, A]``; None: that of the step itself.

    Returns:
        The episodes, or None if they were broken off.
    """
    observation = task.observe(state)
    prediction = observation
    returns, raw, start = (th.zeros_like(observation[..., 0]) for _ in range(3))
    error, discount = th.zeros_like(returns), 1.0
    lengths = th.zeros(returns.shape, dtype=th.int64, device=returns.device)
    seen = th.zeros_like(lengths)
    alive = th.ones(returns.shape, dtype=th.bool, device=returns.device)
    before, counted = alive.clone(), 0
    for step in range(n_steps):
        # 1 and 2. The first observation is real; the policy is not told whether x is.
        x = observation if peeks is None else believe(observation, prediction, peeks[step])
        action = act(x) if luck is None else choose(act(x), luck[step])  # 3
        if peeks is not None:
            # 5. The model sees the x that the policy used: a peek puts it right, nothing else does.
            prediction = predict(x, action if idle is None else idle)
            seen += peeks[step] & alive  # 4 was drawn beforehand
        idle = None if idle is None else action
        state, observation, reward, ended = task.step(state, action)  # 6
        going = alive & reward.isfinite()
        if peeks is not None:
            miss = (prediction - observation).square_().mean(-1)
            error += th.where(going & miss.isfinite(), miss, 0)
        reward = th.where(going, reward, 0)
        returns.add_(reward, alpha=discount)
        raw += reward
        discount *= gamma
        lengths += alive
        alive = going & ~ended
        if (step + 1) % BLOCK == 0 or step + 1 == n_steps:
            total = int(lengths.sum())
            over = before & ~alive if step + 1 < n_steps else before
            if on_block is not None:
                parts = map(_numpy, (raw - start, over, raw, lengths, observation))
                if not on_block(Block(total - counted, *parts)):
                    return None
            counted, before, start = total, alive, raw.clone()
            if not alive.any():
                break
    looks = float(seen.sum()) / max(int(lengths.sum()), 1)
    if peeks is None:
        return Episodes(returns, lengths, 1.0, float("nan"))
    return Episodes(returns, lengths, looks, float(error.sum()) / max(int(lengths.sum()), 1))


def _numpy(values: th.Tensor) -> NDArray[Any]:
    found: NDArray[Any] = values.cpu().numpy()
    return found
