"""Constructor arguments of the published settings; ``procgen-easy`` is the defaults.

The numbers of environments, levels and frames belong to the run: ``configs/ibac-sni/default.yaml``.
"""

from __future__ import annotations

from typing import Any

# microsoft/IBAC-SNI torch_rl/: KL in nats, sigma = softplus(rho), one noise sample, advantages as
# they are.
_MULTIROOM: dict[str, Any] = {
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 4,
    "learning_rate": 7e-4,
    "gamma": 0.99,
    "normalize_advantage": False,
    "normalize_reward": False,
    "value_loss_scale": 1.0,
    "beta": 1e-6,
    "kl_unit": "nats",
    "sigma_offset": 0.0,
    "latent_dim": 64,
    "n_noise_samples": 1,
    "policy_kwargs": {"encoder": "grid"},
}

PRESETS: dict[str, dict[str, Any]] = {
    "procgen-easy": {},
    # microsoft/IBAC-SNI coinrun/: three training ranks of 32 environments, 8 minibatches; rewards
    # as they are, learning rate and clip ranges falling to zero, cutout (`-uda 1`).
    "coinrun-paper": {
        "batch_size": 3_072,
        "anneal": True,
        "normalize_reward": False,
        "cutout": True,
    },
    "multiroom": _MULTIROOM,
    # The same with fewer frames.
    "multiroom-cpu": _MULTIROOM,
    # The update is SB3's PPO: its value loss is neither clipped nor halved (so that its
    # coefficient is), its advantages are divided by the sample deviation.
    "ppo": {
        "regulariser": "none",
        "clip_range_vf": None,
        "vf_coef": 0.25,
        "value_loss_scale": 1.0,
        "advantage_std": "sample",
    },
}
