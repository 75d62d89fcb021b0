"""Behaviour cloning finds a known conditional mean, by each of its models."""

import numpy as np
import pytest
import torch as th
from bear_testing import make_data
from gymnasium import spaces

from rlzoo.agents.bc import BC
from rlzoo.core.offline_update import DeviceUpdates
from rlzoo.data.transitions import Transitions
from rlzoo.errors import RefusedError

SPREAD = 0.2


def centre(states):
    """Pre-tanh mean of the behaviour, ``[n, 1]``."""
    return np.sin(2 * states[:, :1]) * 0.8


def cloning_data(rows=4000):
    rng = np.random.default_rng(0)
    states = rng.normal(size=(rows, 2)).astype(np.float32)
    actions = np.tanh(centre(states) + SPREAD * rng.normal(size=(rows, 1)))
    return Transitions(
        observations=states,
        actions=actions.astype(np.float32),
        rewards=np.zeros(rows, np.float32),
        terminations=np.ones(rows, np.bool_),
        truncations=np.zeros(rows, np.bool_),
        next_observations=states.copy(),
        episode_starts=np.arange(rows + 1),
        observation_space=spaces.Box(-np.inf, np.inf, (2,)),
        action_space=spaces.Box(-1, 1, (1,)),
    )


def error_of(model_name, steps=500):
    """Mean distance of the deterministic action to the tanh of the behaviour's centre."""
    model = BC(
        dataset=cloning_data(), model=model_name, seed=0, device="cpu", learning_rate=3e-3,
        policy_kwargs={"net_arch": [64, 64]},
    ).learn(steps)  # fmt: skip
    states = np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)
    actions, _ = model.predict(states, deterministic=True)
    return np.abs(actions - np.tanh(centre(states))).mean(), model


@pytest.mark.parametrize("name", ["mlp", "gaussian", "cvae"])
def test_it_fits_the_conditional_mean(name):
    assert error_of(name)[0] < 0.08


def test_a_clone_whose_gradient_is_lost_does_not(monkeypatch):
    def silent(loss, module):
        for parameter in module.parameters():
            parameter.grad = th.zeros_like(parameter)

    monkeypatch.setattr(DeviceUpdates, "_differentiate", staticmethod(silent))
    assert error_of("mlp")[0] > 0.2


def test_the_gaussian_finds_the_spread_as_well():
    _, model = error_of("gaussian", 1000)
    states = th.randn(200, 2)
    with th.no_grad():
        _, log_std, _ = model.policy.behavior.components(states)
    assert log_std.exp().mean().item() == pytest.approx(SPREAD, rel=0.15)


@pytest.mark.parametrize(("name", "draws"), [("mlp", 1), ("gaussian", 2), ("cvae", 2)])
def test_sampled_actions(name, draws):
    model = BC(dataset=make_data(), model=name, device="cpu", seed=0)
    observations = np.zeros((3, 3), np.float32)
    found = {model.predict(observations, deterministic=False)[0].tobytes() for _ in range(5)}
    assert len(found) >= draws
    same = {model.predict(observations, deterministic=True)[0].tobytes() for _ in range(5)}
    assert len(same) == 1


def test_the_preset_of_the_paper_clips_latents_at_a_quarter(monkeypatch):
    model = BC(dataset=make_data(), device="cpu", seed=0, **BC.PRESETS["bc_vae"])
    behavior = model.policy.behavior
    assert behavior.encoder[0].out_features == 750
    assert (model.batch_size, model.learning_rate) == (100, 1e-3)
    seen = []
    decode = behavior.decode
    monkeypatch.setattr(behavior, "decode", lambda o, z, *a: seen.append(z) or decode(o, z, *a))
    observations = np.zeros((50, 3), np.float32)
    model.predict(observations, deterministic=False)
    assert seen[0].abs().max() == 0.25
    model.predict(observations, deterministic=True)
    assert not seen[1].any()


def test_loss_of_the_mean_by_hand():
    model = BC(dataset=make_data(), device="cpu", seed=0)
    observations, actions = th.randn(5, 3), th.rand(5, 2)
    loss, error, kl = model.policy.behavior.loss(observations, actions)
    expected = (th.tanh(model.policy.behavior.network(observations)) - actions).square().mean()
    assert loss.item() == pytest.approx(expected.item())
    assert (error.item(), kl.item()) == (pytest.approx(expected.item()), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vae"}, r"BC: model='vae' is not known.\nAllowed: 'mlp', 'gaussian', 'cvae'."),
        ({"policy_kwargs": {"latent_clip": -1}}, "latent_clip=-1"),
        ({"capture": True}, "BC: capture=True on device cpu"),
    ],
    ids=str,
)
def test_arguments_are_checked(changes, message):
    with pytest.raises(RefusedError, match=message):
        BC(dataset=make_data(), device="cpu", **changes)


def test_going_on_online_is_refused():
    with pytest.raises(RefusedError, match="imitate itself"):
        BC(dataset=make_data(), device="cpu").learn_online(10, env="Pendulum-v1")
