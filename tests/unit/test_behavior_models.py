"""The behaviour models, and where the CVAE collapses (section 8, item 7)."""

import math

import pytest
import torch as th

from rlzoo.core.behavior import CVAE, CVAE_COLLAPSE_STD, GaussianBehavior, make_behavior
from rlzoo.core.layers import mlp_bfloat16


def fit(model, draw, steps=800):
    """Fit a model to one-dimensional actions that do not depend on the observation."""
    optimizer = th.optim.Adam(model.parameters(), lr=2e-3)
    observations = th.zeros(256, 1)
    for _ in range(steps):
        loss, _, _ = model.loss(observations, draw())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with th.no_grad():
        return th.tanh(model.sample(th.zeros(500, 1), 20)).flatten()


def narrow():
    return (0.3 + 0.2 * th.randn(256, 1)).clamp(-0.999, 0.999)


def wide():
    return 2 * th.rand(256, 1) - 1


def two_peaks():
    return (th.randint(0, 2, (256, 1)) * 2 - 1) * 0.6 + 0.05 * th.randn(256, 1)


def test_cvae_collapses_where_the_actions_spread_little():
    th.manual_seed(0)
    samples = fit(CVAE(1, 1, [32, 32]), narrow)
    assert samples.std() < 0.02
    assert samples.mean().item() == pytest.approx(0.3, abs=0.03)


def test_cvae_does_not_collapse_on_uniform_actions():
    th.manual_seed(0)
    assert fit(CVAE(1, 1, [32, 32]), wide).std() > 0.1


def test_collapse_threshold_lies_between_the_two_cases():
    assert 0.2 < CVAE_COLLAPSE_STD < math.sqrt(1 / 3)


def test_gaussian_behavior_keeps_the_spread_that_the_cvae_loses():
    th.manual_seed(0)
    samples = fit(GaussianBehavior(1, 1, [32, 32]), narrow)
    assert samples.mean().item() == pytest.approx(0.3, abs=0.05)
    assert samples.std().item() == pytest.approx(0.2, abs=0.04)


def test_mixture_keeps_two_peaks_apart_and_a_gaussian_does_not():
    th.manual_seed(0)
    mixture = fit(make_behavior("mixture", 1, 1, [32, 32]), two_peaks)
    gaussian = fit(make_behavior("gaussian", 1, 1, [32, 32]), two_peaks)
    assert (mixture.abs() < 0.3).float().mean() < 0.05
    assert (mixture > 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (gaussian.abs() < 0.3).float().mean() > 0.1


def test_prior_samples_are_clipped_normals():
    model = CVAE(1, 3, [8])
    seen = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 1:]))
    th.manual_seed(0)
    with th.no_grad():
        model.sample(th.zeros(5000, 1), 4)
    assert seen[0].shape == (20_000, 6)
    assert seen[0].abs().max() == 0.5
    assert seen[0].std().item() == pytest.approx(0.4302, abs=0.003)


def test_latent_is_not_clipped_in_training():
    model = CVAE(1, 1, [8])
    seen = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 1:]))
    th.manual_seed(0)
    model.loss(th.zeros(1000, 1), th.zeros(1000, 1))
    assert seen[0].abs().max() > 1.0


def test_log_sigma_of_the_encoder_is_clamped():
    model = CVAE(1, 1, [8])
    with th.no_grad():
        model.encoder[-1].bias[2:] = th.tensor([100.0, -100.0])
        model.encoder[-1].weight.zero_()
    _, log_std = model.encode(th.zeros(1, 1), th.zeros(1, 1))
    assert log_std.tolist() == [[15.0, -4.0]]


def test_loss_is_reconstruction_plus_half_the_kl():
    th.manual_seed(0)
    loss, reconstruction, kl = CVAE(2, 1, [8]).loss(th.randn(9, 2), th.rand(9, 1))
    assert loss.item() == pytest.approx(reconstruction.item() + 0.5 * kl.item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["cvae", "gaussian", "mixture"])
def test_samples_belong_to_their_state(kind):
    """Row b of the samples depends on observation b alone."""
    th.manual_seed(0)
    model = make_behavior(kind, 3, 2, [16])
    observations = th.randn(6, 3)
    changed = observations.clone()
    changed[2] += 1.0

    def draw(inputs):
        th.manual_seed(1)
        with th.no_grad():
            return model.sample(inputs, 5)

    same = (draw(observations) == draw(changed)).all(-1).all(-1)
    assert draw(observations).shape == (6, 5, 2)
    assert same.tolist() == [True, True, False, True, True, True]


def test_decoder_in_bf16_agrees_to_two_percent():
    th.manual_seed(0)
    model = CVAE(11, 3, [256, 256])
    inputs = th.randn(4000, 17)
    with th.no_grad():
        exact, rounded = model.decoder(inputs), mlp_bfloat16(model.decoder, inputs)
    assert ((rounded - exact).norm() / exact.norm()).item() < 0.02
    assert not th.equal(rounded, exact)


def test_mixture_likelihood_equals_torchs_mixture():
    th.manual_seed(0)
    model = make_behavior("mixture", 3, 2, [16])
    observations, actions = th.randn(50, 3), th.rand(50, 2) * 1.8 - 0.9
    with th.no_grad():
        mean, log_std, log_weights = model.components(observations)
        components = th.distributions.Independent(th.distributions.Normal(mean, log_std.exp()), 1)
        mixture = th.distributions.MixtureSameFamily(
            th.distributions.Categorical(logits=log_weights), components
        )
        jacobian = (1 - actions.square()).log().sum(-1)
        expected = -(mixture.log_prob(th.atanh(actions)) - jacobian).mean()
        loss, _, _ = model.loss(observations, actions)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("action", [-1 + 1e-6, 1 - 1e-6])
def test_likelihood_is_finite_at_the_action_bounds(action):
    th.manual_seed(0)
    model = GaussianBehavior(1, 1, [8])
    loss, _, _ = model.loss(th.zeros(4, 1), th.full((4, 1), action))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())
