"""What a plan is worth: the imagined return, less what is unfamiliar (page, section 2.4).

``J(U) = R(U) - alpha P(U)`` is maximised: undiscounted unless gamma says otherwise, without a
terminal value. The paper's text once says that the penalty is added; its mathematics subtract it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch as th
from torch import nn

from rlzoo.agents.dae_mpc.denoiser import Penalty, plan_windows
from rlzoo.agents.dae_mpc.dynamics import Dynamics, Rollout
from rlzoo.core.mpc_tasks import MpcTask

WORST = -1e9
"""Stands for what is not finite, so that it is never an elite. mbrl-lib has -1e-10, which ranks a
rollout that diverged above every negative return."""


class Score(NamedTuple):
    """Of plans ``[H, B, N, A]``; each ``[B, N]``, ``n_bad`` a scalar.

    Args:
        objective: ``J``, finite.
        returns: ``R``.
        penalties: ``P``, zeros where there is no denoiser.
        n_bad: Number of objectives that were not finite.
    """

    objective: th.Tensor
    returns: th.Tensor
    penalties: th.Tensor
    n_bad: th.Tensor


def rank_safely(objective: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Return the objective with everything that is not finite replaced, and how many that were."""
    bad = ~objective.isfinite()
    return th.where(bad, WORST, objective), bad.sum()


@dataclass
class Objective:
    """Scores plans with a model, a task, and a denoiser.

    Args:
        dynamics: The model.
        task: Gives reward and end.
        low: Bounds of the actions in the units of the environment, ``[A]``.
        high: As ``low``.
        alpha: Weight of the penalty.
        denoiser: Of windows of pairs; None: no penalty.
        columns: Columns of a pair that the denoiser sees, ``[d']``; None: all.
        window: Pairs per window.
        penalty: Form of the penalty.
        threshold: Error below which it is zero, a scalar; None: no hinge.
        gamma: Discount.
    """

    dynamics: Dynamics
    task: MpcTask
    low: th.Tensor
    high: th.Tensor
    alpha: float = 0.0
    denoiser: nn.Module | None = None
    columns: th.Tensor | None = None
    window: int = 1
    penalty: Penalty = field(default_factory=Penalty)
    threshold: th.Tensor | None = None
    gamma: float = 1.0

    def __call__(
        self,
        start: th.Tensor,
        actions: th.Tensor,
        generator: th.Generator | None = None,
        familiar: bool = False,
    ) -> Score:
        """Score plans.

        Args:
            start: Observations, ``[B, S]``.
            actions: Scaled to [-1, 1], ``[H, B, N, A]``.
            generator: Of the model's own noise.
            familiar: Report the penalty also where ``alpha`` is 0.
        """
        rollout = self.dynamics.rollout(start, actions, generator)
        returns = self._average(self._returns(rollout, actions), actions)
        penalties = th.zeros_like(returns)
        if self.denoiser is not None and (self.alpha > 0 or familiar):
            penalties = self._average(self.unfamiliarity(rollout.pairs).sum(0), actions)
        objective = returns - self.alpha * penalties if self.alpha > 0 else returns
        objective, n_bad = rank_safely(objective)
        return Score(objective, returns, penalties, n_bad)

    def unfamiliarity(self, pairs: th.Tensor) -> th.Tensor:
        """Return the penalty of every window of a plan, ``[H, R, d]`` to ``[H - w + 1, R]``."""
        if self.denoiser is None:
            raise RuntimeError("no denoiser")
        seen = pairs if self.columns is None else pairs.index_select(-1, self.columns)
        # All windows of all plans in one call.
        return self.penalty(self.denoiser, plan_windows(seen, self.window), self.threshold)

    def imagined_rewards(self, rollout: Rollout, actions: th.Tensor) -> th.Tensor:
        """Return the reward of every step ``[H, R]``; zero after the end of an episode."""
        horizon, rows = rollout.pairs.shape[:2]
        now, later = rollout.states[:-1].flatten(0, 1), rollout.states[1:].flatten(0, 1)
        units = self.low + 0.5 * (actions + 1) * (self.high - self.low)
        taken = units.flatten(1, 2).repeat(1, self.dynamics.n_particles, 1).flatten(0, 1)
        rewards = rollout.rewards
        if rewards is None:
            if self.task.reward is None:
                raise RuntimeError(f"{self.task.name} has no reward")
            rewards = self.task.reward(now, taken, later).view(horizon, rows)
        if self.task.termination is None:
            return rewards
        ended = self.task.termination(now, taken, later).view(horizon, rows)
        alive = (~ended).to(rewards.dtype).cumprod(0)
        # The step that ends an episode is paid.
        return rewards * th.cat((th.ones_like(alive[:1]), alive[:-1]))

    def _returns(self, rollout: Rollout, actions: th.Tensor) -> th.Tensor:
        rewards = self.imagined_rewards(rollout, actions)
        if self.gamma == 1.0:
            return rewards.sum(0)
        steps = th.arange(len(rewards), device=rewards.device, dtype=rewards.dtype)
        return (self.gamma**steps).unsqueeze(-1).mul(rewards).sum(0)

    def _average(self, values: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Average the particles: ``[P B N]`` to ``[B, N]``."""
        return values.view(-1, *actions.shape[1:3]).mean(0)
