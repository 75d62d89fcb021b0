"""What the agents of this package have in common: a probability to peek, a simulator, dreams."""

from __future__ import annotations

from typing import Any, cast

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from rlzoo.agents.observational_dropout import deployment
from rlzoo.agents.observational_dropout.environments import simulator_of
from rlzoo.agents.observational_dropout.policies import ObsDropoutPolicy
from rlzoo.core.arguments import UNIT, check_range
from rlzoo.core.simulator import Simulator
from rlzoo.core.simulator_vec import SimulatorVecEnv


class PeekingAlgorithm(BaseAlgorithm):
    """An agent that acts on the predictions of its world model where it may not look."""

    policy: ObsDropoutPolicy
    peek_prob: float

    def set_peek_prob(self, peek_prob: float) -> None:
        """Change how often the true observation is seen, from now on.

        Raises:
            RefusedError: If it is not a probability.
        """
        check_range("peek_prob", peek_prob, UNIT, type(self).__name__)
        self.peek_prob = self.policy.peek_prob = peek_prob

    def _simulator(self) -> Simulator | None:
        """Return the tensor program of the environment, if it has one that may be used."""
        if self.env is None or self.get_vec_normalize_env() is not None:
            return None  # it would be passed by
        return simulator_of(self.env)

    def dream_env(self, n_envs: int = 1, task: Simulator | None = None) -> SimulatorVecEnv:
        """Return environments of the learnt world model, with its weights of now (page, 2.6).

        Open loop: there is never a peek. Reward and end are the known ones of the task, of the
        dreamt observations.

        Args:
            n_envs: Number of environments.
            task: Where episodes begin and how they are judged; None: the task of the environment as
                it is dreamt, which for the swing-up has the easy starts.

        Raises:
            RefusedError: If the environment has no simulator and no task is given.
        """
        return SimulatorVecEnv(deployment.dream_of(cast(Any, self), task), n_envs)

    def swap_models(self, **options: Any) -> dict[str, th.Tensor]:
        """Play with the learnt, no and the true model; see ``deployment.swap_models``."""
        return deployment.swap_models(cast(Any, self), **options)

    # ------------------------------------------------------------- checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        """Return the generator of the peeks in ``predict``, for checkpoints."""
        return {"peeks": self.policy.peeks.bit_generator.state}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self.policy.peeks.bit_generator.state = state["peeks"]
