"""Small IBAC-SNI agents and policies for the unit tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from rlzoo.agents.ibac_sni import IBACSNI, CnnPolicy, MlpPolicy
from rlzoo.agents.ibac_sni.noise import NoiseSettings

VECTOR = spaces.Box(-1, 1, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 64, 64), np.uint8)
N_ENVS, N_STEPS = 4, 16

SMALL: dict[str, Any] = {
    "n_steps": N_STEPS,
    "batch_size": 32,
    "n_epochs": 2,
    "learning_rate": 1e-3,
    "latent_dim": 12,
    "n_noise_samples": 3,
    "sigma_offset": 0.0,
    "normalize_reward": False,
    "policy_kwargs": {"net_arch": [16], "initial_gain": 1.0},
    "seed": 0,
    "device": "cpu",
}


def make(n_envs: int = N_ENVS, **kwargs: Any) -> IBACSNI:
    """Return an agent on CartPole whose noise is large enough to be seen."""
    env = make_vec_env("CartPole-v1", n_envs, seed=0)
    return IBACSNI("MlpPolicy", env, **{**SMALL, **kwargs})


class Nothing(BaseCallback):
    def _on_step(self) -> bool:
        return True


def collected(model: IBACSNI) -> IBACSNI:
    """Let an agent collect one rollout, ready for ``train`` or ``_losses``."""
    _, callback = model._setup_learn(10_000, Nothing())
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)  # type: ignore[arg-type]
    model._follow_schedules()
    return model


def all_rows(model: IBACSNI) -> th.Tensor:
    return th.arange(model.n_steps * model.n_envs)


def mlp(n_actions: int = 3, net_arch: Any = (16,), **noise: Any) -> MlpPolicy:
    """Return a policy for four numbers; the latent has a width of 12."""
    th.manual_seed(0)
    settings = NoiseSettings(**{"latent_dim": 12, "n_samples": 3, "sigma_offset": 0.0, **noise})
    return MlpPolicy(
        VECTOR, spaces.Discrete(n_actions), lambda _: 1e-3, net_arch=list(net_arch),
        initial_gain=1.0, noise=settings,
    )  # fmt: skip


def cnn(encoder: Any = "impala", space: spaces.Box = IMAGE, n_actions: int = 15, **kw: Any) -> Any:
    """Return a policy for images."""
    th.manual_seed(0)
    layout = {"channels_last": kw.pop("channels_last")} if "channels_last" in kw else {}
    return CnnPolicy(
        space, spaces.Discrete(n_actions), lambda _: 1e-3, encoder=encoder,
        noise=NoiseSettings(**kw), **layout,
    )  # fmt: skip
