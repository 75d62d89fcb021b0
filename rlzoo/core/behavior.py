"""Models of the policy that collected a data set: what BEAR, BCQ and cloning stay close to.

Every model has ``loss(observations, actions)`` and ``sample(observations, n)``; samples are
pre-tanh values, so that gradients through them survive saturation. Actions are in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rlzoo.core.layers import mlp, mlp_bfloat16

LATENT_CLIP = 0.5


def tanh_log_prob(x: th.Tensor, mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """Return the log-density of ``tanh(x)`` under a squashed diagonal Gaussian.

    Args:
        x: Pre-tanh values, ``[..., d]``.
        mean: Mean before tanh, broadcast against ``x``.
        log_std: Log standard deviation before tanh.

    Returns:
        ``[...]``, with the clamp of 1e-6 of the official code in the change of variables.
    """
    normal = -0.5 * (((x - mean) * (-log_std).exp()).square() + math.log(2 * math.pi)) - log_std
    correction = (1 - th.tanh(x).square()).clamp_min(1e-6).log()
    return (normal - correction).sum(-1)


def cvae_loss(
    reconstruction: th.Tensor, actions: th.Tensor, mean: th.Tensor, log_std: th.Tensor
) -> tuple[th.Tensor, th.Tensor]:
    """Return reconstruction error and KL of the CVAE, two scalars.

    Both are means over their last axis, not sums: this sets the decoder variance that the loss
    implies (1/8 with the default weight of 0.5 and a latent of twice the action's width).
    """
    kl = -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp()).mean()
    return F.mse_loss(reconstruction, actions), kl


class CVAE(nn.Module):
    """Conditional variational auto-encoder of BCQ and BEAR (their official codes agree).

    Args:
        n_observations: Width of an observation, ``o``.
        n_actions: Width of an action, ``d``; the latent has ``2 d``.
        hidden: Widths of the hidden layers of encoder and decoder.
        kl_weight: Weight of the KL term.
        latent_clip: Draws of the prior are clipped to +- this value (cloning: 0.25).
    """

    def __init__(
        self,
        n_observations: int,
        n_actions: int,
        hidden: Sequence[int],
        kl_weight: float = 0.5,
        latent_clip: float = LATENT_CLIP,
    ) -> None:
        super().__init__()
        self.n_latents, self.kl_weight = 2 * n_actions, kl_weight
        self.latent_clip = latent_clip
        self.encoder = mlp(n_observations + n_actions, hidden, 2 * self.n_latents)
        self.decoder = mlp(n_observations + self.n_latents, hidden, n_actions)

    def encode(self, observations: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return mean and log standard deviation of the latent, ``[B, 2d]`` each."""
        mean, log_std = self.encoder(th.cat([observations, actions], -1)).chunk(2, -1)
        return mean, log_std.clamp(-4, 15)

    def loss(
        self, observations: th.Tensor, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return ``(loss, reconstruction error, KL)``, scalars."""
        mean, log_std = self.encode(observations, actions)
        latents = mean + log_std.exp() * th.randn_like(mean)
        decoded = th.tanh(self.decoder(th.cat([observations, latents], -1)))
        reconstruction, kl = cvae_loss(decoded, actions, mean, log_std)
        return reconstruction + self.kl_weight * kl, reconstruction, kl

    def sample(self, observations: th.Tensor, n: int, low_precision: bool = False) -> th.Tensor:
        """Return ``n`` pre-tanh actions per state, ``[B, n, d]``, from the clipped prior."""
        latents = th.randn(len(observations), n, self.n_latents, device=observations.device)
        latents = latents.clamp_(-self.latent_clip, self.latent_clip)
        return self.decode(observations, latents, low_precision)

    def decode(
        self, observations: th.Tensor, latents: th.Tensor, low_precision: bool = False
    ) -> th.Tensor:
        """Return the pre-tanh actions of latents ``[B, n, 2d]``, ``[B, n, d]``."""
        repeated = observations.unsqueeze(1).expand(-1, latents.shape[1], -1)
        inputs = th.cat([repeated, latents], -1).flatten(0, 1)
        decoded = mlp_bfloat16(self.decoder, inputs) if low_precision else self.decoder(inputs)
        result: th.Tensor = decoded.view(len(observations), latents.shape[1], -1)
        return result


class GaussianBehavior(nn.Module):
    """Mixture of squashed Gaussians by maximum likelihood; one component is a plain Gaussian.

    Does not collapse where the conditional spread of the data is small, which the CVAE does
    (below a standard deviation of 0.354). Not in the paper.

    Args:
        n_observations: Width of an observation.
        n_actions: Width of an action, ``d``.
        hidden: Widths of the hidden layers.
        n_components: Number of components, ``C``.
    """

    def __init__(
        self, n_observations: int, n_actions: int, hidden: Sequence[int], n_components: int = 1
    ) -> None:
        super().__init__()
        self.n_actions, self.n_components = n_actions, n_components
        self.network = mlp(n_observations, hidden, n_components * (2 * n_actions + 1))

    def components(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return means and log standard deviations ``[B, C, d]`` and log weights ``[B, C]``."""
        output = self.network(observations).unflatten(-1, (self.n_components, -1))
        mean, log_std, logits = output.split([self.n_actions, self.n_actions, 1], -1)
        return mean, log_std.clamp(-5, 2), logits.squeeze(-1).log_softmax(-1)

    def loss(
        self, observations: th.Tensor, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return ``(loss, mean squared error of the mean action, 0)``, scalars."""
        mean, log_std, log_weights = self.components(observations)
        x = th.atanh(actions).unsqueeze(1)
        log_prob = th.logsumexp(log_weights + tanh_log_prob(x, mean, log_std), -1)
        average = (log_weights.exp().unsqueeze(-1) * th.tanh(mean)).sum(1)
        error = (average - actions).square().mean()
        return -log_prob.mean(), error.detach(), th.zeros_like(error)

    def sample(self, observations: th.Tensor, n: int, low_precision: bool = False) -> th.Tensor:
        """Return ``n`` pre-tanh actions per state, ``[B, n, d]``."""
        mean, log_std, log_weights = self.components(observations)
        # Gumbel-max: a categorical draw without the synchronisation of torch.multinomial.
        shape = (len(observations), n, self.n_components)
        uniform = th.rand(shape, device=mean.device).clamp_(1e-20, 1 - 1e-7)
        chosen = (log_weights.unsqueeze(1) - (-uniform.log()).log()).argmax(-1, keepdim=True)
        index = chosen.expand(-1, -1, self.n_actions)
        mean, log_std = mean.gather(1, index), log_std.gather(1, index)
        return mean + log_std.exp() * th.randn_like(mean)


def make_behavior(
    kind: str, n_observations: int, n_actions: int, hidden: Sequence[int]
) -> CVAE | GaussianBehavior:
    """Return the behaviour model of that name: ``"cvae"``, ``"gaussian"`` or ``"mixture"``."""
    if kind == "cvae":
        return CVAE(n_observations, n_actions, hidden)
    return GaussianBehavior(n_observations, n_actions, hidden, 1 if kind == "gaussian" else 5)


# Below this conditional standard deviation of the actions the CVAE's decoder ignores its latent.
CVAE_COLLAPSE_STD = math.sqrt(1 / 8)
