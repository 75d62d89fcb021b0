"""Small worlds whose plans can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch as th

from rlzoo.agents.dae_mpc.dynamics import Rollout
from rlzoo.agents.dae_mpc.normalizer import Normalizer
from rlzoo.core.mpc_tasks import MpcTask

Step = Callable[[th.Tensor, th.Tensor], th.Tensor]


class KnownDynamics:
    """A model that is given as a function of state and action; pairs are normalised."""

    n_particles = 1

    def __init__(self, step: Step, normalizer: Normalizer | None = None) -> None:
        self.step, self.normalizer = step, normalizer

    def rollout(
        self, start: th.Tensor, actions: th.Tensor, generator: th.Generator | None = None
    ) -> Rollout:
        n_plans = actions.shape[2]
        states = [start.unsqueeze(1).expand(-1, n_plans, -1).flatten(0, 1)]
        pairs = []
        for action in actions.flatten(1, 2):
            pairs.append(th.cat((states[-1], action), -1))
            states.append(self.step(states[-1], action))
        found = th.stack(pairs)
        if self.normalizer is not None:
            found = self.normalizer.normalize(found)
        return Rollout(th.stack(states), found)


def task_of(
    reward: Callable[[th.Tensor, th.Tensor, th.Tensor], th.Tensor],
    n_observations: int = 2,
    n_actions: int = 2,
    **options: object,
) -> MpcTask:
    return MpcTask("test", n_observations, n_actions, reward, **options)  # type: ignore[arg-type]


def unit_bounds(n_actions: int, dtype: th.dtype = th.float32) -> tuple[th.Tensor, th.Tensor]:
    one = th.ones(n_actions, dtype=dtype)
    return -one, one


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)
