"""Gymnasium's ``Pendulum-v1``."""

from __future__ import annotations

import torch as th

from rlzoo.core.mpc_tasks.base import MpcTask


def reward(observations: th.Tensor, actions: th.Tensor, _: th.Tensor) -> th.Tensor:
    """Return ``-(theta^2 + 0.1 thetadot^2 + 0.001 u^2)`` of the state before the step.

    Args:
        observations: ``[N, 3]``: cosine, sine, and speed in rad/s.
        actions: ``[N, 1]``: torque in [-2, 2].
    """
    angle = th.atan2(observations[..., 1], observations[..., 0])
    speed, torque = observations[..., 2], actions[..., 0]
    return -(angle.square() + 0.1 * speed.square() + 0.001 * torque.square())


PENDULUM = MpcTask("Pendulum-v1", n_observations=3, n_actions=1, reward=reward)
