"""Behaviours: what is exported acts like the SB3 model; what ships loads and is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DDPG, PPO, SAC, TD3

from rlzoo.data import behaviours
from rlzoo.data.behaviours.extract import CARD_FIELDS, export
from rlzoo.data.policies import Step
from rlzoo.errors import RefusedError

CARD: dict[str, Any] = {
    "env_id": "Hopper-v4",
    "level": "medium",
    "steps": 300,
    "command": "rlzoo train sac",
    "commit": "abc",
    "episodes": 100,
    "return_mean": 1.0,
    "return_std": 0.5,
    "deterministic_return_mean": 1.0,
    "deterministic_return_std": 0.5,
}


class Wide(gym.Env[Any, Any]):
    """Three observations far from unit scale, two actions with lopsided bounds; random walk."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Box(np.float32([-1.0, 0.5]), np.float32([3.0, 0.75]))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def _observe(self) -> Any:
        return self.np_random.normal([0.0, 20.0, -3.0], [1.0, 2.0, 0.1])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        self.t += 1
        return self._observe(), float(-np.square(action).sum()), False, self.t == 50, {}


def trained(kind: type[Any], **policy: Any) -> Any:
    """Return a model that learned for long enough to have moved every weight."""
    kwargs: dict[str, Any] = {"net_arch": [32, 24], **policy}
    model = kind(
        "MlpPolicy", Wide(), policy_kwargs=kwargs, learning_starts=50, batch_size=32, seed=1
    )
    return model.learn(200)


def test_batch_norm_statistics_reach_the_exported_layers(tmp_path: Path) -> None:
    model = trained(CrossQ)
    x = np.random.default_rng(0).normal([0, 20, -3], [1, 2, 0.1], (50, 3))
    good = export(model, tmp_path / "x", CARD).predict(x, deterministic=True)[0]
    np.testing.assert_allclose(good, model.predict(x, deterministic=True)[0], atol=1e-5)
    model.actor.latent_pi[0].ra_mean += 1.0  # a fold that ignored the statistics would not notice
    moved = export(model, tmp_path / "y", CARD).predict(x, deterministic=True)[0]
    assert np.abs(moved - good).max() > 1e-3
    np.testing.assert_allclose(moved, model.predict(x, deterministic=True)[0], atol=1e-5)


@pytest.mark.parametrize("kind", [SAC, TQC, CrossQ, TD3, DDPG])
def test_exported_behaviour_acts_like_the_model(kind: type[Any], tmp_path: Path) -> None:
    model = trained(kind)
    export(model, tmp_path / "some-medium", CARD)
    behaviour = behaviours.load_behaviour("Hopper-v4", "medium", tmp_path)
    x = np.random.default_rng(0).normal([0, 20, -3], [1, 2, 0.1], (200, 3))
    want = model.predict(x, deterministic=True)[0]
    np.testing.assert_allclose(behaviour.predict(x, deterministic=True)[0], want, atol=1e-5)
    np.testing.assert_allclose(behaviour.predict(x[0], deterministic=True)[0], want[0], atol=1e-5)
    assert behaviour.observation_space == model.observation_space
    assert behaviour.action_space == model.action_space
    assert behaviour.card["algorithm"] == kind.__name__


@pytest.mark.parametrize("kind", [SAC, TQC, CrossQ])
def test_sampled_actions_follow_the_law_of_the_model(kind: type[Any], tmp_path: Path) -> None:
    model = trained(kind)
    behaviour = export(model, tmp_path / "x", CARD)
    x = np.random.default_rng(0).normal([0, 20, -3], [1, 2, 0.1], (100, 3))
    z = np.random.default_rng(1).standard_normal((100, 2))
    with torch.no_grad():
        tensor, _ = model.policy.obs_to_tensor(x)
        mean, log_std, _ = model.actor.get_action_dist_params(tensor)
        squashed = torch.tanh(mean + log_std.exp() * torch.as_tensor(z).float()).numpy()
    step = Step(z, np.zeros((100, 0)), np.zeros(100, bool), np.ones(100, bool))
    want = model.policy.unscale_action(squashed)
    np.testing.assert_allclose(behaviour.act(x, step), want, atol=1e-5)
    behaviour.set_random_seed(3)
    first = behaviour.predict(x)[0]
    behaviour.set_random_seed(3)
    assert np.array_equal(behaviour.predict(x)[0], first)
    assert not np.array_equal(behaviour.predict(x)[0], first)


def test_tanh_activations_are_kept(tmp_path: Path) -> None:
    model = trained(SAC, activation_fn=torch.nn.Tanh)
    x = np.random.default_rng(0).normal([0, 20, -3], [1, 2, 0.1], (20, 3))
    got = export(model, tmp_path / "x", CARD).predict(x, deterministic=True)[0]
    np.testing.assert_allclose(got, model.predict(x, deterministic=True)[0], atol=1e-5)


def test_export_refuses_what_it_cannot_store(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="PPO"):
        export(PPO("MlpPolicy", Wide(), n_steps=8, batch_size=8), tmp_path / "x", CARD)
    with pytest.raises(RefusedError, match="SAC"):
        export(SAC("MlpPolicy", Wide(), use_sde=True), tmp_path / "x", CARD)
    elu = {"activation_fn": torch.nn.ELU}
    with pytest.raises(RefusedError, match="ELU"):
        export(SAC("MlpPolicy", Wide(), policy_kwargs=elu), tmp_path / "x", CARD)
    with pytest.raises(RefusedError, match="lacks command"):
        export(trained(TD3), tmp_path / "x", {k: v for k, v in CARD.items() if k != "command"})
    assert list(tmp_path.iterdir()) == []


def test_foreign_weights_and_unknown_names_are_refused(tmp_path: Path) -> None:
    export(trained(TD3), tmp_path / "hopper-medium", CARD)
    assert behaviours.available(tmp_path) == [("Hopper-v4", "medium")]
    with pytest.raises(RefusedError, match="Did you mean 'Hopper-v4 medium'"):
        behaviours.load_behaviour("Hoper-v4", "medium", tmp_path)
    weights = tmp_path / "hopper-medium.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(RefusedError, match="not those of their card"):
        behaviours.load_behaviour("Hopper-v4", "medium", tmp_path)
    weights.unlink()
    with pytest.raises(RefusedError, match="missing"):
        behaviours.load_behaviour("Hopper-v4", "medium", tmp_path)


def test_layers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    export(trained(SAC), tmp_path / "x", CARD)
    card, weights = (
        json.loads((tmp_path / "x.json").read_text()),
        load_file(tmp_path / "x.safetensors"),
    )
    with pytest.raises(RefusedError, match="shape"):
        behaviours.Behaviour(card, {**weights, "layer1.weight": weights["layer1.weight"][:-1]})
    with pytest.raises(RefusedError, match="log_std"):
        behaviours.Behaviour(card, {k: v for k, v in weights.items() if k != "log_std.bias"})
    with pytest.raises(RefusedError, match="format 2"):
        behaviours.Behaviour({**card, "format": 2}, weights)


@pytest.mark.parametrize(("env_id", "level"), behaviours.available())
def test_every_shipped_behaviour_is_what_its_card_says(env_id: str, level: str) -> None:
    behaviour = behaviours.load_behaviour(env_id, level)
    card = behaviour.card
    assert not [name for name in CARD_FIELDS if name not in card]
    assert card["episodes"] >= 100
    env = gym.make(env_id, disable_env_checker=True)
    assert behaviour.observation_space == env.observation_space
    assert behaviour.action_space == env.action_space
    behaviour.set_random_seed(0)
    returns = []
    for episode in range(4):
        observation, _ = env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            action, _ = behaviour.predict(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    # four standard errors and a tenth: other versions of MuJoCo move returns a little
    allowed = 4 * card["return_std"] / 2 + 0.1 * abs(card["return_mean"])
    assert abs(np.mean(returns) - card["return_mean"]) < allowed
