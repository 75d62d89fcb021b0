"""The variational bottleneck: a Gaussian latent, its KL to N(0, I), and mixtures of K samples."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch as th
from torch.nn import functional as F  # noqa: N812

KLUnit = Literal["bits", "nats"]


class Gaussian(NamedTuple):
    """A diagonal Gaussian ``q(z|x)``; all fields ``[B, d]``."""

    mu: th.Tensor
    sigma: th.Tensor
    log_sigma: th.Tensor


def gaussian(parameters: th.Tensor, offset: float) -> Gaussian:
    """Return ``N(mu, sigma^2)`` with ``sigma = softplus(rho + offset)``.

    Args:
        parameters: ``[mu, rho]`` side by side, ``[B, 2d]``.
        offset: ``c``; -5 for images, 0 for grids.
    """
    mu, rho = parameters.chunk(2, -1)
    shifted = rho + offset
    sigma = F.softplus(shifted)
    # softplus(x) = exp(x) (1 - exp(x)/2 + ...): its logarithm goes to x, also where softplus has
    # become zero, whose own logarithm would give an infinite gradient.
    tiny = shifted < -30
    log_sigma = th.where(tiny, shifted, th.where(tiny, 1.0, sigma).log())
    return Gaussian(mu, sigma, log_sigma)


def kl_to_prior(q: Gaussian, unit: KLUnit) -> th.Tensor:
    """Return ``KL(q || N(0, I))`` summed over the latent, ``[B]``.

    Args:
        q: The latent distribution.
        unit: ``"bits"`` divides by ln 2, as the CoinRun code does; the grid code does not.
    """
    nats = (0.5 * (q.sigma.square() + q.mu.square() - 1) - q.log_sigma).sum(-1)
    return nats / math.log(2) if unit == "bits" else nats


def draw(q: Gaussian, n_samples: int) -> th.Tensor:
    """Return ``z_k = mu + sigma eps_k``, ``[K, B, d]``; gradients reach mu and rho."""
    noise = th.randn((n_samples, *q.mu.shape), dtype=q.mu.dtype, device=q.mu.device)
    return th.addcmul(q.mu, q.sigma, noise)


def mixture_log_prob(log_probs: th.Tensor) -> th.Tensor:
    """Return ``log (1/K sum_k p_k)``, ``[K, ...]`` to ``[...]``; not a mean of logs or logits."""
    return log_probs.logsumexp(0) - math.log(len(log_probs))
