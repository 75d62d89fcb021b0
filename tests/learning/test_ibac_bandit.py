"""A bandit with contexts: all mixtures learn it, and only SNI is on-policy (page, section 8)."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.agents.ibac_sni import IBACSNI
from rlzoo.agents.ibac_sni.policies import MlpPolicy

N_CONTEXTS, N_ENVS = 64, 512


class Bandit(VecEnv):
    """512 draws at a time: a context of 16 numbers, four arms, the right one pays 1."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.contexts = rng.normal(size=(N_CONTEXTS, 16)).astype(np.float32)
        self.right = (self.contexts[:, :8] @ rng.normal(size=(8, 4))).argmax(-1)
        self.rng = np.random.default_rng(1)
        super().__init__(N_ENVS, spaces.Box(-10, 10, (16,), np.float32), spaces.Discrete(4))

    def reset(self) -> Any:
        self.now = self.rng.integers(N_CONTEXTS, size=N_ENVS)
        return self.contexts[self.now]

    def step_async(self, actions: Any) -> None:
        self.rewards = (actions == self.right[self.now]).astype(np.float32)

    def step_wait(self) -> Any:
        return self.reset(), self.rewards, np.ones(N_ENVS, bool), [{} for _ in range(N_ENVS)]

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * N_ENVS

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """There is nothing to set."""

    def env_method(self, method_name: str, *args: Any, **kwargs: Any) -> list[Any]:
        return [None] * N_ENVS

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        return [False] * N_ENVS


class Watch(BaseCallback):
    """Keeps what every update logged."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[dict[str, float]] = []

    def _on_rollout_start(self) -> None:
        self._keep()

    def _on_training_end(self) -> None:
        self._keep()

    def _keep(self) -> None:
        values = self.logger.name_to_value
        if "train/approx_kl" in values:
            self.log.append({k.removeprefix("train/"): v for k, v in values.items()})

    def _on_step(self) -> bool:
        return True


class LearnsNothing(IBACSNI):
    """Broken: advantages of other samples."""

    def _losses(self, rows: th.Tensor) -> Any:
        advantages: Any = self.rollout_buffer.advantages
        advantages.copy_(advantages.roll(1, 1))
        return super()._losses(rows)


class ActsWithNoise(IBACSNI):
    """Broken: the policy that acts has the noise although SNI is on."""

    @th.no_grad()
    def _act(self, observation: th.Tensor) -> Any:
        policy = self.policy
        log_probs, values = policy.outputs(observation, "noisy")
        actions = log_probs.exp().multinomial(1)
        return actions.squeeze(-1), values, log_probs.gather(-1, actions).squeeze(-1)


@cache
def trained(
    lam: float | None, cls: type[IBACSNI] = IBACSNI, iterations: int = 80
) -> tuple[float, list[dict[str, float]]]:
    """Return accuracy without noise on all contexts, and the log."""
    env, watch = Bandit(), Watch()
    model = cls(
        MlpPolicy, env, n_steps=1, batch_size=N_ENVS // 4, n_epochs=3, learning_rate=1e-3,
        sni_lambda=lam, beta=1e-3, kl_unit="nats", n_noise_samples=4, latent_dim=32,
        sigma_offset=0.0, l2_coef=0.0, normalize_reward=False, seed=0, device="cpu",
        policy_kwargs={"net_arch": [64], "initial_gain": 1.0},
    )  # fmt: skip
    model.learn(iterations * N_ENVS, callback=watch, log_interval=None)
    actions, _ = model.predict(env.contexts, deterministic=True)
    return float((actions == env.right).mean()), watch.log


def mean(log: list[dict[str, float]], name: str = "approx_kl") -> float:
    return float(np.mean([line[name] for line in log]))


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, None])
def test_every_mixture_learns_the_bandit(lam: float | None) -> None:
    accuracy, log = trained(lam)
    assert accuracy >= 0.95  # chance: 0.25
    assert len(log) == 80


def test_nothing_holds_sigma_down_when_lambda_is_one() -> None:
    sigmas = [line["ib_sigma_mean"] for line in trained(1.0, iterations=150)[1]]
    assert sigmas[0] < 0.8
    assert 0.95 < sigmas[-1] < 1.05
    assert mean(trained(0.5)[1][-5:], "ib_sigma_mean") < mean(trained(1.0)[1][-5:], "ib_sigma_mean")


def test_only_with_sni_the_first_minibatch_is_on_policy() -> None:
    for lam in (0.5, 1.0):
        assert max(line["approx_kl_first"] for line in trained(lam)[1]) < 1e-11
    plain = trained(None)[1]
    assert plain[0]["approx_kl_first"] > 1e-3
    assert mean(plain) > 1.5 * mean(trained(0.5)[1])


def test_broken_variants_fail() -> None:
    accuracy, _ = trained(0.5, LearnsNothing)
    assert accuracy < 0.6
    _, log = trained(0.5, ActsWithNoise, iterations=5)
    assert log[0]["approx_kl_first"] > 1e-4
