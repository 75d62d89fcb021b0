"""SB3 models as the policy: the law of ``predict``, and rows that do not depend on each other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN, TQC, CrossQ, RecurrentPPO
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3

from rlzoo.data import shards
from rlzoo.data.behaviours.extract import export
from rlzoo.data.collect import collect
from rlzoo.data.policies import BatchPolicy, NoisyPolicy, RandomPolicy, Step
from rlzoo.data.sb3_policies import (
    CategoricalPolicy,
    DiagonalGaussianPolicy,
    GreedyPolicy,
    RowByRowPolicy,
    SquashedGaussianPolicy,
    sb3_policy,
)
from rlzoo.errors import RefusedError

pendulum = functools.partial(gym.make, "Pendulum-v1", disable_env_checker=True)
cartpole = functools.partial(gym.make, "CartPole-v1", disable_env_checker=True)


class OwnPredict(SAC):
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        return super().predict(*args, **kwargs)


CARD = {
    **{"env_id": "Pendulum-v1", "level": "medium", "steps": 0, "command": "", "commit": ""},
    **{"episodes": 100, "return_mean": 0.0, "return_std": 0.0},
    **{"deterministic_return_mean": 0.0, "deterministic_return_std": 0.0},
}
ON: dict[str, Any] = {"n_steps": 8, "batch_size": 8}


def off(kind: type[Any], env: Any = pendulum, size: tuple[int, ...] = (24, 16), **more: Any) -> Any:
    kwargs = {"net_arch": list(size)}
    return kind("MlpPolicy", env(), seed=0, buffer_size=10, policy_kwargs=kwargs, **more)


MODELS: dict[str, tuple[Callable[[], Any], type[Any]]] = {
    "sac": (lambda: off(SAC), SquashedGaussianPolicy),
    "tqc": (lambda: off(TQC), SquashedGaussianPolicy),
    "crossq": (lambda: off(CrossQ), SquashedGaussianPolicy),
    "td3": (lambda: off(TD3), GreedyPolicy),
    "ddpg": (lambda: off(DDPG), GreedyPolicy),
    "dqn": (lambda: off(DQN, cartpole), GreedyPolicy),
    "qrdqn": (lambda: off(QRDQN, cartpole), GreedyPolicy),
    "ppo": (lambda: PPO("MlpPolicy", pendulum(), seed=0, **ON), DiagonalGaussianPolicy),
    "ppo-discrete": (lambda: PPO("MlpPolicy", cartpole(), seed=0, **ON), CategoricalPolicy),
    "gsde": (lambda: off(SAC, use_sde=True), RowByRowPolicy),
    "ppo-gsde": (
        lambda: PPO("MlpPolicy", pendulum(), seed=0, use_sde=True, **ON),
        RowByRowPolicy,
    ),
    "recurrent": (
        lambda: RecurrentPPO("MlpLstmPolicy", pendulum(), seed=0, **ON),
        RowByRowPolicy,
    ),
    "own": (lambda: off(OwnPredict), RowByRowPolicy),
}


def batch_of(policy: BatchPolicy, model: Any, n: int, seed: int) -> tuple[Any, Step]:
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((n, *model.observation_space.shape)).astype(np.float32)
    step = Step(
        rng.standard_normal((n, policy.normals)),
        rng.random((n, policy.uniforms)),
        np.ones(n, bool),
        np.ones(n, bool),
    )
    return observations, step


@pytest.mark.parametrize("name", MODELS)
def test_deterministic_actions_are_those_of_predict(name: str) -> None:
    make_model, wrapper = MODELS[name]
    model = make_model()
    policy = sb3_policy(model)
    assert type(policy) is wrapper
    observations, step = batch_of(policy, model, 8, seed=0)
    got = policy.act(observations, step, deterministic=True)
    want = model.predict(observations, episode_start=np.ones(8, bool), deterministic=True)[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert got.shape == want.shape
    assert isinstance(policy, BatchPolicy)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_does_not_depend_on_the_others(name: str) -> None:
    model = MODELS[name][0]()
    policy = NoisyPolicy(sb3_policy(model), model.action_space, epsilon=0.3)
    check_rows(policy, model)


def check_rows(policy: BatchPolicy, model: Any) -> None:
    observations, step = batch_of(policy, model, 8, seed=0)
    others, other_step = batch_of(policy, model, 8, seed=1)
    want = policy.act(observations, step)
    for row in range(8):
        mixed = others.copy()
        mixed[row] = observations[row]
        normals, uniforms = other_step.normals.copy(), other_step.uniforms.copy()
        normals[row], uniforms[row] = step.normals[row], step.uniforms[row]
        alone = np.arange(8) == row
        torch.rand(row + 1)  # the global generators must not matter
        got = policy.act(mixed, Step(normals, uniforms, np.ones(8, bool), alone))
        assert got[row].tobytes() == want[row].tobytes()


def test_a_row_of_a_behaviour_does_not_depend_on_the_others(tmp_path: Path) -> None:
    model = off(SAC, size=(256, 256))
    check_rows(export(model, tmp_path / "x", CARD), model)
    check_rows(RandomPolicy(pendulum().action_space), model)


@pytest.mark.parametrize("name", ["sac", "ppo", "ppo-discrete", "recurrent"])
def test_sampled_actions_follow_the_law_of_predict(name: str) -> None:
    model = MODELS[name][0]()
    policy = sb3_policy(model)
    n = 1_000 if name == "recurrent" else 20_000
    observations, step = batch_of(policy, model, n, seed=0)
    observations[:] = observations[0]
    got = policy.act(observations, step).astype(np.float64).ravel()
    torch.manual_seed(0)
    start = np.ones(n, bool)
    want = model.predict(observations, episode_start=start)[0].astype(np.float64).ravel()
    error = 4 * want.std() * (2 / n) ** 0.5
    assert want.std() > 0.1
    assert abs(got.mean() - want.mean()) < error
    assert np.allclose(np.quantile(got, [0.2, 0.8]), np.quantile(want, [0.2, 0.8]), atol=4 * error)


def test_recurrent_state_is_carried_through_episodes() -> None:
    model = MODELS["recurrent"][0]()
    data = collect(pendulum, model, 450, seed=0, n_envs=1, deterministic=True)
    assert data.episode_lengths.tolist() == [200, 200, 50]
    state: Any = None
    for row in range(450):
        start = np.array([row in data.episode_starts])
        action, state = model.predict(
            data.observations[row], state, episode_start=start, deterministic=True
        )
        np.testing.assert_allclose(data.actions[row], action, atol=1e-5)


@pytest.mark.parametrize("name", ["sac", "ppo-discrete", "recurrent"])
def test_groups_resume_exactly_with_a_model(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("rlzoo.data.collect.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(shards, "FLUSH_ROWS", 1)
    model = MODELS[name][0]()
    make_env = cartpole if name == "ppo-discrete" else short_pendulum
    whole = collect(make_env, model, 300, seed=1, n_envs=5)

    def stop(done: int, total: int) -> None:
        if done >= 160:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(make_env, model, 300, seed=1, n_envs=5, work_dir=tmp_path, progress=stop)
    episodes = sorted(tmp_path.glob("*.npz"))
    assert len(episodes) > 4
    for path in episodes[::3]:  # slots go on from different places, with other rows full or behind
        path.unlink()
    resumed = collect(make_env, model, 300, seed=1, n_envs=5, work_dir=tmp_path)
    assert resumed.fingerprint == whole.fingerprint


def short_pendulum() -> Any:
    return gym.make("Pendulum-v1", max_episode_steps=17, disable_env_checker=True)


def test_a_behaviour_collects_the_same_in_workers(tmp_path: Path) -> None:
    model = off(SAC, size=(256, 256))
    behaviour = export(model, tmp_path / "x", CARD)
    alone = collect(short_pendulum, behaviour, 800, seed=1, n_envs=8, gaussian_noise=0.1)
    together = collect(
        short_pendulum, behaviour, 800, seed=1, n_envs=8, gaussian_noise=0.1, workers=2
    )
    assert alone.fingerprint == together.fingerprint
    assert alone.metadata["policy"]["sha256"] == behaviour.card["weights_sha256"]
    other = collect(short_pendulum, model, 800, seed=1, n_envs=8, gaussian_noise=0.1)
    np.testing.assert_allclose(other.actions[:17], alone.actions[:17], atol=1e-4)


def test_a_policy_for_other_spaces_is_refused() -> None:
    model = MODELS["sac"][0]()
    with pytest.raises(RefusedError, match="another observation space"):
        collect(cartpole, model, 10, seed=0)
    model.action_space = gym.spaces.Box(-1, 1, (2,))
    with pytest.raises(RefusedError, match="another action space"):
        collect(pendulum, model, 10, seed=0)
