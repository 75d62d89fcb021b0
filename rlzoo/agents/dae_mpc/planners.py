"""The optimisers of plans (page, section 2.5), for B environments at once.

Plans are ``[H, B, A]``, candidates ``[H, B, N, A]``, scaled to [-1, 1]. All environments see the
same random numbers, so that a row of a batch gets the plan that it would get alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch as th

PlannerName = Literal["cem", "adam", "random"]
Scorer = Callable[[th.Tensor], th.Tensor]
"""Candidates ``[H, B, N, A]`` to finite objectives ``[B, N]``."""

_SQRT2 = 2.0**0.5


@dataclass(frozen=True)
class PlannerSettings:
    """How plans are optimised.

    Args:
        name: CEM, Adam, or the best of random plans.
        n_candidates: Plans per iteration of CEM; all plans of random shooting.
        n_elites: Best plans that the next mean is made of.
        n_iters: Iterations.
        smoothing: Share of the old mean and variance that stays. [HoT] 0.1.
        epsilon: Largest variance at which CEM ends early. [HoT] 0.001.
        variance: First variance. [HoT] a sixteenth of the squared range, 0.25 here.
        lr: Step size of Adam, in units of half the range.
        n_restarts: Plans that Adam improves.
        spread: Deviation of the restarts around the warm start. Ours.
    """

    name: PlannerName = "cem"
    n_candidates: int = 500
    n_elites: int = 50
    n_iters: int = 5
    smoothing: float = 0.1
    epsilon: float = 1e-3
    variance: float = 0.25
    lr: float = 0.1
    n_restarts: int = 64
    spread: float = 0.3


def truncated_normal(
    shape: tuple[int, ...], generator: th.Generator | None, like: th.Tensor
) -> th.Tensor:
    """Draw standard normals truncated at two deviations, by the inverse of their distribution.

    No rejection loop, so that the draw has a fixed length and can be captured.
    """
    uniform = th.rand(shape, generator=generator, device=like.device, dtype=like.dtype)
    # 2 u - 1 for u uniform between Phi(-2) and Phi(2) is uniform within +-erf(2 / sqrt 2).
    edge = th.erf(th.tensor(2.0 / _SQRT2, dtype=th.float64)).item()
    drawn = th.erfinv((2 * uniform - 1) * edge) * _SQRT2
    return drawn.clamp_(-2, 2)


def draw_noise(
    settings: PlannerSettings, horizon: int, generator: th.Generator | None, like: th.Tensor
) -> tuple[th.Tensor, ...]:
    """Draw all random numbers of one decision.

    Args:
        settings: The planner.
        horizon: Steps ``H``.
        generator: Where from.
        like: A plan, ``[H, B, A]``: gives width, type and device.
    """
    n_actions = like.shape[-1]
    if settings.name == "cem":
        shape = (settings.n_iters, horizon, settings.n_candidates, n_actions)
        return (truncated_normal(shape, generator, like),)
    n = settings.n_restarts if settings.name == "adam" else settings.n_candidates
    full = (horizon, n, n_actions)
    uniform = th.rand(full, generator=generator, device=like.device, dtype=like.dtype) * 2 - 1
    if settings.name == "random":
        return (uniform,)
    normal = th.randn(full, generator=generator, device=like.device, dtype=like.dtype)
    return uniform, normal


def plan(
    score: Scorer, previous: th.Tensor, noise: tuple[th.Tensor, ...], settings: PlannerSettings
) -> th.Tensor:
    """Optimise plans.

    Args:
        score: Objective to maximise.
        previous: Where to begin: the last plans, moved on by a step, ``[H, B, A]``.
        noise: What :func:`draw_noise` gave.
        settings: How.

    Returns:
        Plans ``[H, B, A]`` within [-1, 1].
    """
    if settings.name == "cem":
        return cem(score, previous, noise[0], settings)
    if settings.name == "adam":
        return adam(score, previous, noise[0], noise[1], settings)
    return best_of(score, noise[0].unsqueeze(1).expand(-1, previous.shape[1], -1, -1))


@th.no_grad()
def cem(
    score: Scorer, previous: th.Tensor, noise: th.Tensor, settings: PlannerSettings
) -> th.Tensor:
    """Cross-entropy method of HoT; returns the mean, which overfits the model less than the best.

    Args:
        score: Objective to maximise.
        previous: First mean, ``[H, B, A]``.
        noise: Truncated normals, ``[I, H, N, A]``.
        settings: Elites, smoothing, variances.
    """
    mean, variance = previous, th.full_like(previous, settings.variance)
    horizon, n_starts, n_actions = previous.shape
    kept = settings.smoothing
    for drawn in noise:
        # Two deviations stay within the bounds.
        room = th.minimum((mean + 1).square(), (1 - mean).square()) / 4
        std = th.minimum(room, variance).sqrt()
        samples = mean.unsqueeze(2) + std.unsqueeze(2) * drawn.unsqueeze(1)
        best = score(samples).topk(settings.n_elites, dim=1).indices
        rows = best.view(1, n_starts, -1, 1).expand(horizon, -1, -1, n_actions)
        elites = samples.gather(2, rows)
        # HoT ends early where the variance has become small; here such a row just stays.
        active = variance.amax((0, 2)).view(1, -1, 1) > settings.epsilon
        closer = th.lerp(elites.mean(2), mean, kept)
        narrower = th.lerp(elites.var(2, correction=0), variance, kept)
        mean = th.where(active, closer, mean)
        variance = th.where(active, narrower, variance)
    return mean.clamp(-1, 1)


def adam(
    score: Scorer,
    previous: th.Tensor,
    uniform: th.Tensor,
    normal: th.Tensor,
    settings: PlannerSettings,
) -> th.Tensor:
    """Gradient ascent from several starts; returns the best plan after the last step.

    Args:
        score: Differentiable objective to maximise.
        previous: The first start, ``[H, B, A]``; half of the others are around it.
        uniform: ``[H, K, A]``: the rest.
        normal: ``[H, K, A]``.
        settings: Iterations, step size, spread.
    """
    near = previous.unsqueeze(2) + settings.spread * normal.unsqueeze(1)
    near[:, :, :1] = previous.unsqueeze(2)
    n_near = 1 + settings.n_restarts // 2
    far = uniform.unsqueeze(1).expand_as(near)
    plans = th.cat((near[:, :, :n_near], far[:, :, n_near:]), 2).clamp(-1, 1)
    plans.requires_grad_(True)
    optimizer = th.optim.Adam([plans], lr=settings.lr, maximize=True)
    for _ in range(settings.n_iters):
        with th.enable_grad():  # SB3's predict has switched gradients off
            (gradient,) = th.autograd.grad(score(plans).sum(), plans)
        plans.grad = gradient.nan_to_num_(0.0, 0.0, 0.0)  # of a rollout that diverged
        optimizer.step()
        with th.no_grad():
            plans.clamp_(-1, 1)
    return best_of(score, plans.detach())


@th.no_grad()
def best_of(score: Scorer, plans: th.Tensor) -> th.Tensor:
    """Return the best plan of each environment, ``[H, B, N, A]`` to ``[H, B, A]``."""
    horizon, n_starts, _, n_actions = plans.shape
    best = score(plans).argmax(1).view(1, n_starts, 1, 1).expand(horizon, -1, 1, n_actions)
    return plans.gather(2, best).squeeze(2)


def move_on(plans: th.Tensor, steps: int = 1) -> th.Tensor:
    """Shift plans ``[H, B, A]`` by the steps that were taken; what is new is the mid-range."""
    return th.cat((plans[steps:], th.zeros_like(plans[:steps])))
