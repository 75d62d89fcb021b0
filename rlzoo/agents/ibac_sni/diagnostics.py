"""What an update says about itself, as scalars on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th

from rlzoo.agents.ibac_sni.bottleneck import Gaussian, kl_to_prior
from rlzoo.agents.ibac_sni.sni import PolicyTerm


@th.no_grad()
def collect(
    losses: dict[str, th.Tensor],
    terms: Sequence[PolicyTerm],
    latent: Gaussian | None,
) -> dict[str, th.Tensor]:
    """Return the values of one minibatch by name, all scalars without gradient.

    Args:
        losses: Parts of the loss.
        terms: Policy term of the branch that acts, and of the noisy one if that is another.
        latent: The bottleneck, where there is one.
    """
    acting, *others = terms
    found = {name: value.detach() for name, value in losses.items()}
    found |= {"approx_kl": acting.approx_kl, "clip_fraction": acting.clip_fraction}
    for noisy in others:
        found["approx_kl_noisy"] = noisy.approx_kl
        found["clip_fraction_noisy"] = noisy.clip_fraction
    if latent is not None:
        found["ib_kl_bits"] = kl_to_prior(latent, "bits").mean()
        found["ib_sigma_mean"] = latent.sigma.mean()
        found["ib_mu_rms"] = latent.mu.square().mean().sqrt()
    return found
