"""Tasks whose episodes are stepped together, as tensors: one program for any number of episodes.

An environment that has one says so by an attribute ``simulator``; agents that can use it then need
no environment steps at all. :mod:`rlzoo.core.swingup` is the first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray


class Simulator(ABC):
    """A task; states and observations are tensors of any leading shape ``[*N]``.

    Whatever is drawn is drawn when an episode starts, by a NumPy generator, so that the same draw
    gives the same episode on every device. A simulator holds no state and never clips what it is
    given, except for actions.

    Attributes:
        name: Name of the task, for messages.
        observation_space: Box of shape ``[O]``.
        action_space: Box of shape ``[A]`` within [-1, 1], or Discrete with A actions.
        max_steps: Steps after which an episode is cut off.
        world_model: Kind of learnt model that fits its observations, as agents name it.
    """

    name: str
    observation_space: spaces.Box
    action_space: spaces.Box | spaces.Discrete
    max_steps: int
    world_model: str = "residual"

    @abstractmethod
    def start(self, rng: np.random.Generator, shape: Sequence[int] = ()) -> NDArray[np.float64]:
        """Draw states in which episodes begin, ``[*shape, S]``."""

    @abstractmethod
    def observe(self, state: th.Tensor) -> th.Tensor:
        """Return the observations of states, ``[*N, S]`` to ``[*N, O]``."""

    @abstractmethod
    def step(
        self, state: th.Tensor, action: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """Take a step.

        Args:
            state: ``[*N, S]``.
            action: ``[*N, A]``; clipped to [-1, 1], or one-hot where actions are discrete.

        Returns:
            Next state ``[*N, S]``, its observation ``[*N, O]``, reward ``[*N]``, and whether the
            episode has ended ``[*N]``, bool.
        """

    @abstractmethod
    def judge(self, observation: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return reward and end, both ``[*N]``, of a step that led to this observation.

        What is known of the task without its dynamics, for episodes in a learnt model.
        """

    @abstractmethod
    def foresee(self, observation: th.Tensor, action: th.Tensor) -> th.Tensor:
        """Return the true next observation, ``[*N, O]``: what a perfect model would predict."""

    @property
    def dream_task(self) -> Simulator:
        """The task as it is dreamt, and in which policies from dreams are judged."""
        return self
