"""Constructor arguments of the paper's rows, and of settings for a CPU.

Paper: Boney et al. 2019, appendix C; CEM's sizes are those of HoT, which it names as its reference.
Its step sizes of Adam are in units of the actions and are divided by half their range here.
"""

from __future__ import annotations

from typing import Any

_SMALL_CEM: dict[str, Any] = {"horizon": 25, "n_candidates": 400, "n_elites": 40}
_LARGE_CEM: dict[str, Any] = {"n_candidates": 500, "n_elites": 50}
_ARMS: dict[str, Any] = {"horizon": 25, "alpha": 0.01, "sigma": 0.1}
_ARM_ADAM: dict[str, Any] = {"planner": "adam", "n_iters": 5, "model_epochs": 300}

PRESETS: dict[str, dict[str, Any]] = {
    # Ours: a pendulum in a minute on one core. The page's small setting.
    "cpu": {
        "horizon": 15,
        "n_candidates": 128,
        "n_elites": 13,
        "n_iters": 3,
        "n_restarts": 16,
        "batch_size": 128,
        "alpha": 0.001,
        "policy_kwargs": {"net_arch": [64, 64]},
    },
    "cartpole_cem": {**_SMALL_CEM, "model_epochs": 500, "alpha": 0.001, "sigma": 0.1},
    "cartpole_adam": {
        "planner": "adam", "horizon": 25, "n_iters": 10, "model_epochs": 500,
        "plan_lr": 0.001 / 3, "alpha": 0.001, "sigma": 0.2,
    },
    "reacher_cem": {**_SMALL_CEM, **_ARMS, "model_epochs": 500},
    "reacher_adam": {**_ARMS, **_ARM_ADAM, "plan_lr": 1 / 20},
    "pusher_cem": {**_LARGE_CEM, **_ARMS, "model_epochs": 500},
    "pusher_adam": {**_ARMS, **_ARM_ADAM, "plan_lr": 1 / 2},
    "cheetah_cem": {**_LARGE_CEM, "horizon": 30, "model_epochs": 100, "alpha": 2.0, "sigma": 0.1},
    "cheetah_adam": {
        "planner": "adam", "horizon": 30, "n_iters": 10, "model_epochs": 200, "plan_lr": 0.1,
        "alpha": 1.0, "sigma": 0.2,
    },
    "cheetah200_cem": {
        **_LARGE_CEM, "horizon": 30, "model_epochs": 20, "alpha": 2.0, "sigma": 0.2,
    },
    "cheetah200_adam": {
        "planner": "adam", "horizon": 30, "n_iters": 10, "model_epochs": 40, "plan_lr": 0.1,
        "alpha": 1.0, "sigma": 0.1,
    },
    "ant_cem": {**_LARGE_CEM, "horizon": 35, "model_epochs": 400, "alpha": 0.045, "sigma": 0.3},
    "ant_adam": {
        "planner": "adam", "horizon": 35, "n_iters": 10, "model_epochs": 1000, "plan_lr": 0.075,
        "alpha": 0.03, "sigma": 0.4,
    },
    # PETS as in HoT: five networks, twenty particles, five epochs of small batches, no denoiser.
    "pets": {
        "n_ensemble": 5, "propagation": "tsinf", "n_particles": 20, "dae": False, "alpha": 0.0,
        "model_epochs": 5, "batch_size": 32,
    },
}  # fmt: skip
