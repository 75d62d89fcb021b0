"""CarRacing-v3 as a task for tiny networks: 16 numbers per frame, three actions in [-1, 1].

Freeman, Metz, Ha 2019 (arXiv 1910.13038): the frame goes through the encoder of a VAE
(:mod:`rlzoo.core.vae`), and the actions are outputs of a tanh.
"""

from __future__ import annotations

import torch as th

ENV_ID = "CarRacing-v3"
LATENTS, ACTIONS = 16, 3


def physical(action: th.Tensor) -> th.Tensor:
    """Return steering [-1, 1], gas [0, 1] and brake [0, 1] of actions in [-1, 1].

    Nothing is half throttle: gas is (a1 + 1) / 2, and the brake works above zero only.

    Args:
        action: ``[*N, 3]``.
    """
    steer, gas, brake = action.clamp(-1, 1).unbind(-1)
    return th.stack([steer, (gas + 1) / 2, brake.clamp(min=0)], -1)
