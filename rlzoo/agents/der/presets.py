"""Constructor arguments of published relatives of DER; ``der`` itself is the defaults.

Steps are agent steps (four frames on Atari); ``target_update_interval`` counts updates.
"""

from __future__ import annotations

from typing import Any

_DOPAMINE_NET = {"encoder": "nature", "net_arch": [512], "shared_hidden": True, "bias_fan": "in"}

PRESETS: dict[str, dict[str, Any]] = {
    "der": {},
    # google/dopamine labs/atari_100k/configs/DER.gin: the 100-run reference data.
    "der-dopamine": {
        "n_steps": 10,
        "buffer_size": 1_000_000,
        "max_grad_norm": None,
        "beta_initial": 0.5,
        "beta_final": 0.5,
        "policy_kwargs": _DOPAMINE_NET,
    },
    # Kielak 2020 (arXiv 2003.10181), Dopamine's OTRainbow.gin. Its target period of 500 counts
    # agent steps, of eight updates each.
    "otrainbow": {
        "n_steps": 3,
        "learning_starts": 20_000,
        "warmup": "uniform",
        "gradient_steps": 8,
        "target_update_interval": 4_000,
        "exploration_initial_eps": 1.0,
        "exploration_final_eps": 0.01,
        "exploration_steps": 50_000,
        "sigma": None,
        "dueling": False,
        "double": False,
        "learning_rate": 6.25e-5,
        "buffer_size": 1_000_000,
        "max_grad_norm": None,
        "beta_initial": 0.5,
        "beta_final": 0.5,
        "policy_kwargs": _DOPAMINE_NET,
    },
    # Agarwal et al. 2021 (arXiv 2108.13264), Dopamine's DrQ_eps.gin.
    "drq-eps": {
        "n_steps": 10,
        "distributional": False,
        "priority_exponent": 0.0,
        "target_update_interval": 1,
        "warmup": "uniform",
        "exploration_initial_eps": 1.0,
        "exploration_final_eps": 0.01,
        "exploration_steps": 5_000,
        "sigma": None,
        "image_shift": 4,
        "buffer_size": 1_000_000,
        "max_grad_norm": None,
        "policy_kwargs": _DOPAMINE_NET,
    },
    # mila-iqia/spr without its self-supervised part and without augmentation.
    "spr-rainbow": {
        "n_steps": 10,
        "learning_starts": 2_000,
        "warmup": "uniform",
        "gradient_steps": 2,
        "target_update_interval": 1,
        "sigma": 0.5,
        "policy_kwargs": {"encoder": "nature"},
    },
    # Hessel et al. 2018 (arXiv 1710.02298), 50M agent steps: an update every 4 steps, so that the
    # target period of 8,000 steps is 2,000 updates.
    "rainbow": {
        "n_steps": 3,
        "learning_starts": 20_000,
        "train_freq": 4,
        "target_update_interval": 2_000,
        "buffer_size": 1_000_000,
        "learning_rate": 6.25e-5,
        "sigma": 0.5,
        "policy_kwargs": {"encoder": "nature", "net_arch": [512]},
    },
}
