"""Sampled maximum mean discrepancy, the distance that BEAR constrains. Pure functions.

Shapes: ``x`` and ``u`` are ``[B, N, d]`` (``N`` samples of each of two distributions per state),
results are ``[B]``. Page references are to Kumar et al. 2019 (arXiv 1906.00949), section 4, and to
the official code for what the paper leaves open (kernels, square root, estimator).
"""

from __future__ import annotations

from typing import Literal

import torch as th

Kernel = Literal["laplacian", "gaussian"]
Estimator = Literal["v", "u"]

# Inside the square root of the official code.
FLOOR = 1e-6


def pairwise_distances(z: th.Tensor, kernel: Kernel) -> th.Tensor:
    """Return L1 (laplacian) or squared L2 (gaussian) distances, ``[B, M, d] -> [B, M, M]``."""
    difference = z.unsqueeze(-2) - z.unsqueeze(-3)
    return difference.abs().sum(-1) if kernel == "laplacian" else difference.square().sum(-1)


def median_sigma(distances: th.Tensor) -> th.Tensor:
    """Return the bandwidth for which the median pair has ``exp(-1)`` similarity, a scalar."""
    size = distances.shape[-1]
    rows, columns = th.triu_indices(size, size, offset=1, device=distances.device).unbind()
    return (distances[:, rows, columns].median() / 2).clamp_min(FLOOR)


def kernel_minus_one(
    x: th.Tensor, u: th.Tensor, sigma: float | Literal["median"], kernel: Kernel
) -> th.Tensor:
    """Return ``k - 1`` for all pairs of ``[x, u]``, ``[B, 2N, 2N]``.

    ``k(a, b) = exp(-dist / (2 sigma))`` (sigma is not squared, as in the official code). The ones
    cancel in the MMD because its weights sum to zero, and ``expm1`` keeps the digits that
    ``exp`` loses for the wide kernels in use (values near 1).
    """
    distances = pairwise_distances(th.cat([x, u], dim=-2), kernel)
    width = median_sigma(distances.detach()) if sigma == "median" else sigma
    return th.expm1(-distances / (2 * width))


def mmd_squared(kernel_values: th.Tensor, estimator: Estimator = "v") -> th.Tensor:
    """Return MMD^2 per state from :func:`kernel_minus_one`, ``[B, 2N, 2N] -> [B]``.

    ``"v"`` keeps the diagonals (official code): biased, never negative. ``"u"`` drops them:
    unbiased, may be negative.
    """
    n = kernel_values.shape[-1] // 2
    signs = th.ones(2 * n, dtype=kernel_values.dtype, device=kernel_values.device)
    signs[n:] = -1
    if estimator == "v":
        weights = signs / n
        return th.einsum("bij,i,j->b", kernel_values, weights, weights)
    # k - 1 is zero on the diagonal, so leaving the diagonal out of the within-set sums means the
    # ones no longer cancel by themselves: mean over pairs j != k of (k - 1) + 1, twice, minus
    # 2 * (mean of (k - 1) + 1) is the same expression with the ones gone again.
    within = (kernel_values[:, :n, :n].sum((1, 2)) + kernel_values[:, n:, n:].sum((1, 2))) / (
        n * (n - 1)
    )
    return within - 2 * kernel_values[:, :n, n:].mean((1, 2))


def mmd(
    x: th.Tensor,
    u: th.Tensor,
    sigma: float | Literal["median"] = 20.0,
    kernel: Kernel = "laplacian",
    estimator: Estimator = "v",
) -> th.Tensor:
    """Return the MMD per state, ``[B]``: ``sqrt(MMD^2 + 1e-6)`` for ``"v"``, MMD^2 for ``"u"``."""
    squared = mmd_squared(kernel_minus_one(x, u, sigma, kernel), estimator)
    return (squared.clamp_min(0) + FLOOR).sqrt() if estimator == "v" else squared


def mmd_floor(x: th.Tensor, sigma: float | Literal["median"], kernel: Kernel) -> th.Tensor:
    """Return the MMD that two equal distributions would show, a scalar.

    For equal distributions ``E[MMD^2] = (2 / N)(1 - kappa)`` with ``kappa`` the mean similarity of
    two independent draws, here estimated from the pairs within ``x``. A threshold below this floor
    cannot be met: the multiplier then climbs to its cap.
    """
    n = x.shape[-2]
    distances = pairwise_distances(x, kernel)
    width = median_sigma(distances) if sigma == "median" else sigma
    off_diagonal = -th.expm1(-distances / (2 * width)).sum((1, 2)) / (n * (n - 1))
    return (2 / n * off_diagonal.mean() + FLOOR).sqrt()
