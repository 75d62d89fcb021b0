"""The bottleneck against closed forms (paper page, section 8, tests 1, 3, 8 and 9)."""

from __future__ import annotations

import math

import pytest
import torch as th
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F  # noqa: N812

from rlzoo.agents.ibac_sni.bottleneck import (
    Gaussian,
    draw,
    gaussian,
    kl_to_prior,
    mixture_log_prob,
)

D = 256


def at_init(offset: float) -> Gaussian:
    return gaussian(th.zeros(1, 2 * D, dtype=th.float64), offset)


# -------------------------------------------------------------------------- KL


def test_kl_is_that_of_torch() -> None:
    parameters = th.randn(50, 2 * D, dtype=th.float64, generator=th.Generator().manual_seed(0))
    q = gaussian(3 * parameters, -5.0)
    prior = Normal(th.zeros_like(q.mu), th.ones_like(q.mu))
    expected = kl_divergence(Normal(q.mu, q.sigma), prior).sum(-1)
    th.testing.assert_close(kl_to_prior(q, "nats"), expected, rtol=1e-12, atol=0)
    th.testing.assert_close(kl_to_prior(q, "bits"), expected / math.log(2), rtol=1e-12, atol=0)


def test_constants_at_the_start() -> None:
    images, grid = at_init(-5.0), at_init(0.0)
    assert images.sigma[0, 0].item() == pytest.approx(math.log1p(math.exp(-5)), rel=1e-12)
    assert images.sigma[0, 0].item() == pytest.approx(0.0067153, abs=5e-8)
    assert kl_to_prior(images, "nats").item() / D == pytest.approx(4.50338, abs=5e-6)
    assert kl_to_prior(images, "nats").item() == pytest.approx(1152.87, abs=5e-3)
    assert kl_to_prior(images, "bits").item() == pytest.approx(1663.23, abs=1e-2)
    assert grid.sigma[0, 0].item() == pytest.approx(math.log(2), rel=1e-12)
    assert kl_to_prior(grid, "nats").item() / D == pytest.approx(0.106739, abs=5e-7)


def test_the_kl_alone_pushes_sigma_to_one() -> None:
    parameters = th.zeros(1, 2, dtype=th.float64, requires_grad=True)
    kl_to_prior(gaussian(parameters, -5.0), "nats").sum().backward()
    assert parameters.grad is not None
    assert parameters.grad[0, 1].item() == pytest.approx(-0.9966, abs=5e-5)
    at_one = th.tensor([[0.0, 5 + math.log(math.e - 1)]], dtype=th.float64, requires_grad=True)
    assert at_one[0, 1].item() == pytest.approx(5.5413, abs=5e-5)
    kl_to_prior(gaussian(at_one, -5.0), "nats").sum().backward()
    assert at_one.grad is not None
    assert at_one.grad.abs().max().item() < 1e-12


def test_gradient_of_mu_is_that_of_an_l2_activation_penalty() -> None:
    beta = 1e-4
    parameters = th.randn(7, 2 * D, dtype=th.float64, requires_grad=True)
    (beta * kl_to_prior(gaussian(parameters, -5.0), "bits").sum()).backward()
    assert parameters.grad is not None
    expected = beta / math.log(2) * parameters.detach()[:, :D]  # d/dmu of beta/(2 ln 2) mu^2
    th.testing.assert_close(parameters.grad[:, :D], expected, rtol=1e-12, atol=1e-18)


def test_a_sigma_that_underflows_has_a_finite_kl_and_gradient() -> None:
    parameters = th.tensor([[0.0, -200.0]], requires_grad=True)
    q = gaussian(parameters, -5.0)
    assert q.sigma.item() == 0
    kl_to_prior(q, "nats").sum().backward()
    assert parameters.grad is not None
    assert parameters.grad[0, 1].item() == pytest.approx(-1)


# ----------------------------------------------------------------- the mixture


def heads(k: int, sigma: float = 0.5) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Return z ``[K, B, d]``, its mean, and weights of a head."""
    generator = th.Generator().manual_seed(1)
    mu = th.randn(6, 8, dtype=th.float64, generator=generator)
    noise = th.randn(k, 6, 8, dtype=th.float64, generator=generator)
    return mu + sigma * noise, mu, th.randn(8, 5, dtype=th.float64, generator=generator)


def test_one_sample_is_itself() -> None:
    z, _, w = heads(1)
    log_probs = (z @ w).log_softmax(-1)
    assert th.equal(mixture_log_prob(log_probs), log_probs[0])


@pytest.mark.parametrize("k", [1, 3, 12])
def test_the_mixture_is_a_distribution_and_the_mean_of_its_parts(k: int) -> None:
    z, _, w = heads(k)
    log_probs = (z @ w).log_softmax(-1)
    mixture = mixture_log_prob(log_probs)
    th.testing.assert_close(mixture.exp().sum(-1), th.ones(6, dtype=th.float64))
    th.testing.assert_close(mixture.exp(), log_probs.exp().mean(0))
    if k > 1:  # neither the mean of logs nor that of logits
        assert not th.allclose(mixture, log_probs.mean(0), atol=1e-3)
        assert not th.allclose(mixture, (z @ w).mean(0).log_softmax(-1), atol=1e-3)


@pytest.mark.parametrize("k", [1, 3, 12])
def test_without_sigma_every_k_is_the_noise_free_policy(k: int) -> None:
    z, mu, w = heads(k, sigma=0.0)
    mixture = mixture_log_prob((z @ w).log_softmax(-1))
    th.testing.assert_close(mixture, (mu @ w).log_softmax(-1), rtol=0, atol=1e-14)


def test_mean_entropy_of_the_parts_is_below_that_of_the_mixture() -> None:
    z, _, w = heads(12)
    log_probs = (z @ w).log_softmax(-1)
    parts = -(log_probs.exp() * log_probs).sum(-1).mean(0)
    mixture = mixture_log_prob(log_probs)
    whole = -(mixture.exp() * mixture).sum(-1)
    assert (parts < whole).all()


# ----------------------------------------------------------------------- draws


def test_a_draw_is_reparameterised() -> None:
    parameters = th.randn(4, 6, dtype=th.float64, requires_grad=True)
    q = gaussian(parameters, 0.0)
    th.manual_seed(3)
    z = draw(q, 5)
    th.manual_seed(3)
    noise = th.randn(5, 4, 3, dtype=th.float64)
    th.testing.assert_close(z, q.mu + q.sigma * noise)
    z.sum().backward()
    assert parameters.grad is not None
    slope = F.sigmoid(parameters.detach()[:, 3:])  # d softplus
    th.testing.assert_close(parameters.grad[:, :3], th.full((4, 3), 5.0, dtype=th.float64))
    th.testing.assert_close(parameters.grad[:, 3:], slope * noise.sum(0))
