"""The update as a whole: SB3's PPO and A2C, gradients, first minibatch, schedules (section 8)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from ibac_testing import N_ENVS, N_STEPS, SMALL, all_rows, collected, make
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from rlzoo.agents.ibac_sni import IBACSNI
from rlzoo.agents.ibac_sni.bottleneck import gaussian, kl_to_prior
from rlzoo.core.finite import NonFiniteError
from rlzoo.errors import RefusedError

# ------------------------------------------------------------------- SB3's PPO


class Trunk(BaseFeaturesExtractor):
    """The network of ``MlpPolicy`` up to the heads."""

    def __init__(self, space: Any, width: int, latent: int) -> None:
        super().__init__(space, latent)
        self.trunk = th.nn.Sequential(th.nn.Flatten(), th.nn.Linear(4, width), th.nn.Tanh())
        self.latent = th.nn.Linear(width, latent)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.latent(self.trunk(x)).tanh()


def sb3(cls: type[Any], model: IBACSNI, **kwargs: Any) -> Any:
    """Return SB3's agent with the networks of ours."""
    other = cls(
        "MlpPolicy", make_vec_env("CartPole-v1", N_ENVS, seed=0), n_steps=model.n_steps,
        learning_rate=model.learning_rate, gamma=model.gamma, gae_lambda=model.gae_lambda,
        ent_coef=model.ent_coef, max_grad_norm=model.max_grad_norm, seed=0, device="cpu",
        policy_kwargs={
            "features_extractor_class": Trunk, "net_arch": [],
            "features_extractor_kwargs": {"width": 16, "latent": 12},
            "optimizer_class": th.optim.Adam, "optimizer_kwargs": {"eps": 1e-5},
        },
        **kwargs,
    )  # fmt: skip
    ours = model.policy.state_dict()
    names = {"trunk.1": "features_extractor.trunk.1", "latent": "features_extractor.latent"}
    theirs = dict(other.policy.state_dict())
    for name, tensor in ours.items():
        layer, kind = name.rsplit(".", 1)
        target = f"{names.get(layer, layer)}.{kind}"
        assert target in theirs
        for alias in (target, f"pi_{target}", f"vf_{target}"):
            if alias in theirs:
                theirs[alias] = tensor.clone()
    other.policy.load_state_dict(theirs)
    return other


def assert_same_weights(model: IBACSNI, other: Any, atol: float) -> None:
    theirs = other.policy.state_dict()
    for name, tensor in model.policy.state_dict().items():
        layer, kind = name.rsplit(".", 1)
        layer = layer if layer.endswith("net") else f"features_extractor.{layer}"
        th.testing.assert_close(tensor, theirs[f"{layer}.{kind}"], rtol=0, atol=atol)


def ppo_settings(**kwargs: Any) -> dict[str, Any]:
    """Return the preset ``ppo`` in a size for tests."""
    return {**IBACSNI.PRESETS["ppo"], **SMALL, "normalize_reward": False, **kwargs}


@pytest.mark.parametrize("initial_gain", [0.01, 1.0])
def test_the_preset_ppo_is_sb3s_update_on_the_same_data(initial_gain: float) -> None:
    kwargs = {"policy_kwargs": {"net_arch": [16], "initial_gain": initial_gain}}
    model = collected(make(**ppo_settings(learning_rate=3e-3, n_epochs=4, **kwargs)))
    other = sb3(PPO, model, batch_size=32, n_epochs=4, vf_coef=model.vf_coef)
    start = {n: t.clone() for n, t in model.policy.state_dict().items()}
    other._setup_learn(1000)
    ours, theirs = model.rollout_buffer, other.rollout_buffer
    for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
        array = getattr(ours, name).numpy()
        setattr(theirs, name, array.reshape(getattr(theirs, name).shape).copy())
    theirs.full, theirs.pos = True, N_STEPS
    for agent in (model, other):
        np.random.seed(3)  # noqa: NPY002 - the permutation of the minibatches
        agent.train()
    assert_same_weights(model, other, atol=2e-6)
    moved = max((t - start[n]).abs().max() for n, t in model.policy.state_dict().items())
    assert moved > 1e-2
    shared = ("policy_gradient_loss", "value_loss", "entropy_loss", "explained_variance")
    for name in shared:
        ours_, theirs_ = (a.logger.name_to_value[f"train/{name}"] for a in (model, other))
        assert ours_ == pytest.approx(theirs_, rel=1e-4, abs=1e-5), name


def test_a_whole_training_is_that_of_sb3() -> None:
    model = make(**ppo_settings(bootstrap_timeouts=True))
    other = sb3(PPO, model, batch_size=32, n_epochs=2, vf_coef=model.vf_coef)
    for agent in (model, other):
        agent.set_random_seed(5)
        agent.learn(5 * N_ENVS * N_STEPS)
    assert_same_weights(model, other, atol=1e-4)


def test_the_form_a2c_is_sb3s() -> None:
    whole = {"objective": "a2c", "n_epochs": 1, "batch_size": N_ENVS * N_STEPS}
    model = make(**ppo_settings(normalize_advantage=False, bootstrap_timeouts=True, **whole))
    other = sb3(A2C, model, vf_coef=model.vf_coef, use_rms_prop=False)
    for agent in (model, other):
        agent.set_random_seed(5)
        agent.learn(5 * N_ENVS * N_STEPS)
    assert_same_weights(model, other, atol=1e-4)


# ------------------------------------------------------------- first minibatch

NOISY: list[dict[str, Any]] = [
    {"regulariser": "ib"},
    {"regulariser": "dropout"},
    {"regulariser": "batchnorm"},
    {"regulariser": "dropout", "suspend": "frozen"},
]


@pytest.mark.parametrize("noise", NOISY)
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, None])
def test_the_policy_that_acted_is_the_one_of_the_first_minibatch(
    noise: dict[str, Any], lam: float | None
) -> None:
    model = collected(make(**noise, sni_lambda=lam))
    rows = all_rows(model)[:32]
    model.policy.redraw("fast")
    take = model.rollout_buffer.rows
    found = model.policy.evaluate_branches(take("observations", rows), take("actions", rows))
    old = take("log_probs", rows)
    if found.quiet is not None:
        assert (found.quiet.log_prob - old).abs().max() < 1e-6
    if found.noisy is not None:
        assert (found.noisy.log_prob - old).abs().max() > 1e-3
    model = collected(make(**noise, sni_lambda=lam))  # batch norm has moved its statistics above
    model.train()
    first = model.logger.name_to_value["train/approx_kl_first"]
    if lam is None:
        assert first > 1e-5
    else:
        assert first < 1e-12


# ------------------------------------------------------------ gradient routing


def gradients(model: IBACSNI, seed: int = 0, **kwargs: Any) -> dict[str, th.Tensor]:
    for name, value in kwargs.items():
        setattr(model, name, value)
    th.manual_seed(seed)
    model.policy.zero_grad()
    model._losses(all_rows(model))[0].backward()
    return {
        name: th.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.policy.named_parameters()
    }


def of_rho(model: IBACSNI, **kwargs: Any) -> th.Tensor:
    return gradients(model, **kwargs)["latent.bias"][12:]


def test_rho_gets_nothing_but_the_kl_when_lambda_is_one() -> None:
    model = collected(make(sni_lambda=1.0, l2_coef=0.0))
    assert (of_rho(model, beta=0.0) == 0).all()
    parameters = model.policy._latent_parameters(
        model.policy.inputs(model.rollout_buffer.rows("observations", all_rows(model))),
        "quiet", False,
    ).detach().requires_grad_()  # fmt: skip
    kl = 0.7 * kl_to_prior(gaussian(parameters, 0.0), "bits").mean()
    (expected,) = th.autograd.grad(kl, parameters)
    th.testing.assert_close(of_rho(model, beta=0.7), expected[:, 12:].sum(0), rtol=1e-4, atol=1e-7)


def test_the_noisy_policy_reaches_rho_and_the_value_does_not() -> None:
    model = collected(make(sni_lambda=0.5, l2_coef=0.0, beta=0.0))
    with_value = gradients(model, vf_coef=5.0)
    without = gradients(model, vf_coef=0.0)
    assert of_rho(model).abs().max() > 1e-6
    assert th.equal(with_value["latent.bias"][12:], without["latent.bias"][12:])
    assert not th.equal(with_value["latent.bias"][:12], without["latent.bias"][:12])
    # The value and its gradient do not know the seed of the noise.
    a, b = (gradients(model, seed, vf_coef=5.0)["value_net.weight"] for seed in (1, 2))
    assert th.equal(a, b)
    c, d = (gradients(model, seed)["action_net.weight"] for seed in (1, 2))
    assert not th.equal(c, d)
    noisy = collected(make(sni_lambda=0.5, l2_coef=0.0, critic_noise=True))
    e, f = (gradients(noisy, seed)["value_net.weight"] for seed in (1, 2))
    assert not th.equal(e, f)


@pytest.mark.parametrize(("unit", "factor"), [("bits", 1 / math.log(2)), ("nats", 1.0)])
def test_beta_and_its_unit(unit: str, factor: float) -> None:
    model = collected(make(sni_lambda=1.0, kl_unit=unit, l2_coef=0.0))
    grown = of_rho(model, beta=2.0) - of_rho(model, beta=1.0)
    model.kl_unit = "nats"
    th.testing.assert_close(grown, factor * of_rho(model, beta=1.0), rtol=1e-3, atol=1e-7)


# -------------------------------------------------------------------------- L2


def test_l2_is_half_the_squares_of_everything_but_biases() -> None:
    model = collected(make(regulariser="weight_decay", l2_coef=0.3))
    plain = collected(make(regulariser="none"))
    plain.policy.load_state_dict(model.policy.state_dict())
    rows = all_rows(model)
    difference = model._losses(rows)[0] - plain._losses(rows)[0]
    arrays = [p for n, p in model.policy.named_parameters() if "bias" not in n]
    assert len(arrays) == 4
    expected = 0.5 * 0.3 * sum(p.square().sum() for p in arrays)
    assert difference.item() == pytest.approx(expected.item(), rel=1e-4)
    for name, gradient in gradients(model).items():
        decay = 0.0 if "bias" in name else 0.3 * dict(model.policy.named_parameters())[name]
        other = gradients(plain)[name]
        th.testing.assert_close(gradient, other + decay, rtol=1e-4, atol=1e-6)


def test_l2_is_clipped_with_the_rest() -> None:
    model = collected(make(regulariser="weight_decay", l2_coef=1e6, max_grad_norm=0.5))
    model._update(all_rows(model))
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.policy.parameters()))
    assert norm == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("regulariser", "given", "used"),
    [("ib", None, 1e-4), ("none", None, 0.0), ("dropout", 0.0, 0.0), ("weight_decay", 0.1, 0.1)],
)
def test_default_of_the_l2_coefficient(regulariser: str, given: Any, used: float) -> None:
    assert make(regulariser=regulariser, l2_coef=given).l2 == used


# ------------------------------------------------------------------- schedules


@pytest.mark.parametrize("progress", [1.0, 0.25, 0.0])
def test_anneal_lowers_rate_and_both_clip_ranges(progress: float) -> None:
    model = collected(make(anneal=True, clip_range_vf=0.4))
    model._current_progress_remaining = progress
    model.train()
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * progress)
    logged = model.logger.name_to_value
    assert logged["train/learning_rate"] == pytest.approx(1e-3 * progress)
    assert logged["train/clip_range"] == pytest.approx(0.2 * progress)
    assert logged["train/clip_range_vf"] == pytest.approx(0.4 * progress)
    assert model._clip_now.tolist() == pytest.approx([0.2 * progress, 0.4 * progress])


def test_schedules_are_followed() -> None:
    model = collected(make(clip_range=lambda p: 0.1 + p, clip_range_vf=lambda p: p / 2))
    model._current_progress_remaining = 0.5
    model.train()
    assert model._clip_now.tolist() == pytest.approx([0.6, 0.25])


# ------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"regulariser": "vib"}, "regulariser"),
        ({"sni_lambda": 1.5}, "sni_lambda"),
        ({"dropout_p": 1.0}, "dropout_p"),
        ({"n_noise_samples": 0}, "n_noise_samples"),
        ({"suspend": "frozen"}, "only dropout has a mask"),
        ({"regulariser": "none", "l2_coef": 1e-4}, "weight_decay"),
        ({"regulariser": "weight_decay", "l2_coef": 0.0}, "regulariser=none"),
        ({"capture": True}, "CUDA only"),
        ({"kl_unit": "bytes"}, "kl_unit"),
        ({"objective": "trpo"}, "objective"),
        ({"policy_kwargs": {"encoder": "resnet"}}, "encoder"),
    ],
)
def test_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message) as refused:
        make(**kwargs)
    assert len(str(refused.value).splitlines()) <= 3


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(RefusedError, match="only supports"):
        IBACSNI("MlpPolicy", "Pendulum-v1", device="cpu")


def test_presets_are_arguments() -> None:
    for name, preset in IBACSNI.PRESETS.items():
        arguments = {**preset, "policy_kwargs": {}, "device": "cpu"}
        arguments.pop("cutout", None)  # of frames only; tests/unit/test_ibac_cutout.py
        model = IBACSNI("MlpPolicy", "CartPole-v1", **arguments)
        for argument, value in preset.items():
            if argument not in ("policy_kwargs", "cutout"):
                assert getattr(model, argument) == value, name


def test_numbers_that_are_not_finite_stop_the_run() -> None:
    model = collected(make())
    model.rollout_buffer.advantages[3, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        model.train()
