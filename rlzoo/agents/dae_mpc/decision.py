"""One decision: from observations and the last plans to new plans, on CUDA as one graph."""

from __future__ import annotations

from typing import NamedTuple

import torch as th

from rlzoo.agents.dae_mpc.objective import Objective
from rlzoo.agents.dae_mpc.planners import PlannerSettings, draw_noise, plan
from rlzoo.core.capture import Captured

FIXED_SEED = 1


class Decided(NamedTuple):
    """Plans ``[H, B, A]``, and how many objectives were not finite on the way to them."""

    plans: th.Tensor
    n_bad: th.Tensor


class Decider:
    """Plans with an objective; its random numbers are its own.

    Args:
        objective: What plans are worth.
        settings: The planner.
        horizon: Steps ``H``.
        graph: Capture a whole decision as a CUDA graph, one per number of environments.
    """

    def __init__(
        self, objective: Objective, settings: PlannerSettings, horizon: int, graph: bool = False
    ) -> None:
        self.objective, self.settings, self.horizon = objective, settings, horizon
        # Particles draw inside of a rollout, and Adam makes its state anew in every decision.
        self.graph = graph and settings.name == "cem" and objective.dynamics.n_particles == 1
        self._captured: dict[int, _CapturedPlan] = {}
        self._fixed: tuple[th.Tensor, ...] | None = None

    def __call__(self, start: th.Tensor, previous: th.Tensor, seed: int | None = None) -> Decided:
        """Plan.

        Args:
            start: Observations, ``[B, S]``.
            previous: Where to begin, ``[H, B, A]``.
            seed: Of this decision; None: always the same random numbers.
        """
        noise = self._noise(seed, previous)
        generator = None
        if self.objective.dynamics.n_particles > 1:
            # Not the one of the planner, whose fixed draws are made once.
            generator = th.Generator(start.device)
            generator.manual_seed(FIXED_SEED + 1 if seed is None else seed + 1)
        if not self.graph:
            return self._plan(start, previous, noise, generator)
        n = len(start)
        if n not in self._captured:
            self._captured[n] = _CapturedPlan(self, start, previous, noise)
        return self._captured[n](start, previous, noise)

    def _noise(self, seed: int | None, like: th.Tensor) -> tuple[th.Tensor, ...]:
        if seed is None and self._fixed is not None:
            return self._fixed
        generator = th.Generator(like.device).manual_seed(FIXED_SEED if seed is None else seed)
        noise = draw_noise(self.settings, self.horizon, generator, like)
        if seed is None:
            self._fixed = noise
        return noise

    def _plan(
        self,
        start: th.Tensor,
        previous: th.Tensor,
        noise: tuple[th.Tensor, ...],
        generator: th.Generator | None,
    ) -> Decided:
        n_bad = th.zeros((), dtype=th.int64, device=start.device)

        def score(plans: th.Tensor) -> th.Tensor:
            found = self.objective(start, plans, generator)
            n_bad.add_(found.n_bad)
            return found.objective

        return Decided(plan(score, previous, noise, self.settings), n_bad)


class _CapturedPlan:
    """A decision for a fixed number of environments, whose inputs stay where they are."""

    def __init__(
        self, decider: Decider, start: th.Tensor, previous: th.Tensor, noise: tuple[th.Tensor, ...]
    ) -> None:
        self.start, self.previous = start.clone(), previous.clone()
        self.noise = tuple(part.clone() for part in noise)
        self.plans = th.empty_like(previous)
        self.n_bad = th.zeros((), dtype=th.int64, device=start.device)
        self._source: tuple[th.Tensor, ...] | None = None

        def update() -> th.Tensor:
            found = decider._plan(self.start, self.previous, self.noise, None)
            self.n_bad.copy_(found.n_bad)
            return self.plans.copy_(found.plans)

        self.graph = Captured(update)

    def __call__(
        self, start: th.Tensor, previous: th.Tensor, noise: tuple[th.Tensor, ...]
    ) -> Decided:
        self.start.copy_(start)
        self.previous.copy_(previous)
        if noise is not self._source:  # fixed draws are here already
            for mine, given in zip(self.noise, noise, strict=True):
                mine.copy_(given)
            self._source = noise
        self.graph()
        return Decided(self.plans.clone(), self.n_bad.clone())
