"""Selective noise injection: the policy-gradient terms, and how the two branches are mixed.

``G_SNI = lambda G(pibar_r, pibar, Vbar) + (1 - lambda) G(pibar_r, pi, Vbar)``: one rollout of the
noise-free policy ``pibar``, the same actions and advantages in both terms.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch as th

Objective = Literal["ppo", "a2c"]


class PolicyTerm(NamedTuple):
    """One branch of the policy gradient; all scalars.

    Args:
        loss: To be minimised.
        clip_fraction: Share of samples whose ratio is outside of the clip range.
        approx_kl: ``mean(r - 1 - log r)``, an estimate of KL(old || new).
    """

    loss: th.Tensor
    clip_fraction: th.Tensor
    approx_kl: th.Tensor


def policy_term(
    log_prob: th.Tensor,
    old_log_prob: th.Tensor,
    advantages: th.Tensor,
    clip_range: th.Tensor,
    objective: Objective = "ppo",
    weighted: bool = True,
) -> PolicyTerm:
    """Return the policy loss of one branch.

    Args:
        log_prob: Log-probabilities of the actions under the branch, ``[B]``.
        old_log_prob: Those of the policy that acted, the same for every branch, ``[B]``.
        advantages: ``[B]``.
        clip_range: ``epsilon`` of PPO, a scalar.
        objective: ``"ppo"``: the clipped surrogate. ``"a2c"``: ``log pi`` times the advantage.
        weighted: For ``"a2c"``: importance weight ``pi / pi_r``, of which there is no gradient;
            without it the weight is one.
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    if objective == "ppo":
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        loss = -th.min(ratio * advantages, clipped * advantages).mean()
    else:
        weight = ratio.detach() if weighted else 1.0
        loss = -(weight * log_prob * advantages).mean()
    with th.no_grad():
        clip_fraction = ((ratio - 1).abs() > clip_range).float().mean()
        # expm1, as the ratio of the first minibatch is 1 to all digits but the last.
        approx_kl = (log_ratio.expm1() - log_ratio).mean()
    return PolicyTerm(loss, clip_fraction, approx_kl)


def mixed(
    weights: tuple[float, float], terms: tuple[th.Tensor | None, th.Tensor | None]
) -> th.Tensor:
    """Return ``lambda quiet + (1 - lambda) noisy``; a term of weight zero is not touched.

    Args:
        weights: ``(lambda, 1 - lambda)``.
        terms: Scalars of the quiet and of the noisy branch; None where the weight is zero.
    """
    pairs = zip(weights, terms, strict=True)
    parts = [weight * term for weight, term in pairs if weight > 0 and term is not None]
    return th.stack(parts).sum()


def value_loss(
    values: th.Tensor, old_values: th.Tensor, returns: th.Tensor, clip_range: th.Tensor | None
) -> th.Tensor:
    """Return ``mean max((V-R)^2, (V_old + clip(V-V_old, -e, e) - R)^2)``, a scalar.

    Args:
        values: ``[B]``.
        old_values: Values of the time of acting, ``[B]``.
        returns: ``[B]``.
        clip_range: ``e``; None for the plain squared error.
    """
    error = (values - returns).square()
    if clip_range is not None:
        change = (values - old_values).clamp(-clip_range, clip_range)
        error = th.max(error, (old_values + change - returns).square())
    return error.mean()


def normalized(advantages: th.Tensor, std: Literal["population", "sample"]) -> th.Tensor:
    """Return advantages of one minibatch with mean 0 and standard deviation 1, ``[B]``.

    A single one is left as it is, as in SB3.
    """
    if len(advantages) < 2:
        return advantages
    deviation = advantages.std(correction=0 if std == "population" else 1)
    return (advantages - advantages.mean()) / (deviation + 1e-8)
