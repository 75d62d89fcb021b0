"""Cart-pole swing-up: the equations of motion, and the task as one tensor program.

Freeman, Metz, Ha 2019 (arXiv 1910.13038), whose constants are those of PILCO's task with steps of
0.01 s. The state is (x, dx/dt, theta, dtheta/dt), theta = 0 upright; the observation
[x, dx/dt, cos theta, sin theta, dtheta/dt].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.core.simulator import Simulator

GRAVITY, CART_MASS, POLE_MASS, LENGTH, FRICTION = 9.82, 0.5, 0.5, 0.6, 0.1
"""In m/s^2, kg, kg, m, N s/m."""
FORCE, DT, LIMIT, STEPS = 10.0, 0.01, 2.4, 1_000
"""Force of a full action in N, seconds per step, half of the track in m, steps per episode."""

_M, _ML = CART_MASS + POLE_MASS, POLE_MASS * LENGTH
_BIG = float(np.finfo(np.float32).max)
_EASY_SPREAD = 0.2
_HARD_SPEED, _HARD_ANGLE = 10.0, math.pi / 2

Number = TypeVar("Number", float, NDArray[np.float64], th.Tensor)


def accelerations(
    velocity: Number, cosine: Number, sine: Number, spin: Number, action: Number
) -> tuple[Number, Number]:
    """Return the accelerations of cart (m/s^2) and pole (1/s^2); floats, arrays or tensors.

    Args:
        velocity: Of the cart, m/s.
        cosine: Of the angle.
        sine: Of the angle.
        spin: Angular velocity, 1/s.
        action: Within [-1, 1]; not clipped here.
    """
    push = FORCE * action - FRICTION * velocity
    swing = _ML * spin * spin * sine
    cart = (-2 * swing + 3 * POLE_MASS * GRAVITY * sine * cosine + 4 * push) / (
        4 * _M - 3 * POLE_MASS * cosine * cosine
    )
    pole = (-3 * swing * cosine + 6 * _M * GRAVITY * sine + 6 * push * cosine) / (
        4 * LENGTH * _M - 3 * _ML * cosine * cosine
    )
    return cart, pole


def integrate(observation: th.Tensor, cart: th.Tensor, pole: th.Tensor) -> th.Tensor:
    """Take an Euler step with given accelerations; positions move with the old velocities.

    Args:
        observation: ``[*N, 5]``.
        cart: Acceleration of the cart, ``[*N]``.
        pole: Of the pole, ``[*N]``.

    Returns:
        The next observation, ``[*N, 5]``; nothing is clipped.
    """
    position, velocity, cosine, sine, spin = observation.unbind(-1)
    angle = th.atan2(sine, cosine) + spin * DT
    moved, swung = position + velocity * DT, spin + pole * DT
    return th.stack([moved, velocity + cart * DT, angle.cos(), angle.sin(), swung], -1)


class CartPoleSwingUp(Simulator):
    """Swing the pole up and keep it there, in the middle of the track.

    Reward, of the state that is reached: (1 + cos theta) / 2 times cos(pi/2 x / 2.4). An episode
    ends beyond the track. ``easy`` starts hang at rest, give or take 0.2; ``hard`` starts are
    anywhere on the track at up to 10 m/s, so that about a third of them cannot be saved.

    Args:
        hard: Which starts.
        max_steps: Steps per episode.
    """

    name = "cart-pole swing-up"
    world_model = "cartpole"

    def __init__(self, hard: bool = False, max_steps: int = STEPS) -> None:
        self.hard, self.max_steps = hard, max_steps
        high = np.array([2 * LIMIT, _BIG, 1, 1, _BIG], np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def start(self, rng: np.random.Generator, shape: Sequence[int] = ()) -> NDArray[np.float64]:
        """Draw starting states, ``[*shape, 4]``."""
        if not self.hard:
            return rng.normal((0.0, 0.0, math.pi, 0.0), _EASY_SPREAD, (*shape, 4))
        high = np.array([LIMIT, _HARD_SPEED, _HARD_ANGLE, _HARD_SPEED])
        hanging = np.array([0.0, 0.0, math.pi, 0.0])
        return hanging + rng.uniform(-high, high, (*shape, 4))

    def observe(self, state: th.Tensor) -> th.Tensor:
        """Return ``[*N, 5]``."""
        position, velocity, angle, spin = state.unbind(-1)
        return th.stack([position, velocity, angle.cos(), angle.sin(), spin], -1)

    def step(
        self, state: th.Tensor, action: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """Take an Euler step with the old velocities; ``[*N, 4]`` and ``[*N, 1]``."""
        position, velocity, angle, spin = state.unbind(-1)
        cart, pole = accelerations(
            velocity, angle.cos(), angle.sin(), spin, action.squeeze(-1).clamp(-1, 1)
        )
        after = th.stack(
            [position + velocity * DT, velocity + cart * DT, angle + spin * DT, spin + pole * DT],
            -1,
        )
        observation = self.observe(after)
        return after, observation, *self.judge(observation)

    def judge(self, observation: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return the reward of an observation, and whether it lies beyond the track."""
        position, cosine = observation[..., 0], observation[..., 2]
        reward = (1 + cosine) / 2 * (position * (math.pi / 2 / LIMIT)).cos()
        return reward, position.abs() > LIMIT

    def foresee(self, observation: th.Tensor, action: th.Tensor) -> th.Tensor:
        """Return the true next observation."""
        _, velocity, cosine, sine, spin = observation.unbind(-1)
        push = action.squeeze(-1).clamp(-1, 1)
        return integrate(observation, *accelerations(velocity, cosine, sine, spin, push))

    @property
    def dream_task(self) -> CartPoleSwingUp:
        """Dreams begin hanging at rest, as the policies from them are tested (page, 2.6)."""
        return CartPoleSwingUp(False, self.max_steps)
