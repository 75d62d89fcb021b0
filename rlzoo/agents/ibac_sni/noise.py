"""Where noise is: the settings, what follows from them for every quantity, dropout, batch norm.

A forward pass has one of three modes. ``"noisy"``: with noise. ``"quiet"``: with suspended noise,
the branch that is written with a bar in the paper. ``"off"``: no noise at all, for ``predict``;
it differs from ``"quiet"`` only where dropout is suspended by freezing its mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch as th
from torch import nn
from torch.nn import functional as F  # noqa: N812

Mode = Literal["noisy", "quiet", "off"]
Regulariser = Literal["none", "ib", "dropout", "batchnorm", "weight_decay"]
Suspend = Literal["identity", "frozen"]


@dataclass(frozen=True)
class NoiseSettings:
    """Which noise there is and which quantity uses it; the agent's arguments of the same names.

    ===================  ==================  =======================  ====================
    quantity             no noise            ``sni_lambda=None``      SNI
    ===================  ==================  =======================  ====================
    acting, old values   quiet               noisy                    quiet
    policy and entropy   quiet               noisy                    lambda quiet +
                                                                      (1 - lambda) noisy
    value                quiet               noisy                    quiet; noisy with
                                                                      ``critic_noise``
    ===================  ==================  =======================  ====================
    """

    regulariser: Regulariser = "ib"
    sni_lambda: float | None = 0.5
    suspend: Suspend = "identity"
    n_samples: int = 12
    latent_dim: int = 256
    sigma_offset: float = -5.0
    dropout_p: float = 0.2
    critic_noise: bool = False
    bf16: bool = False

    @property
    def is_noisy(self) -> bool:
        """Whether the regulariser is noise."""
        return self.regulariser in ("ib", "dropout", "batchnorm")

    @property
    def acting(self) -> Mode:
        """Mode of the rollout, of the stored log-probabilities and of the stored values."""
        return "noisy" if self.is_noisy and self.sni_lambda is None else "quiet"

    @property
    def weights(self) -> tuple[float, float]:
        """Weights of the quiet and of the noisy policy terms."""
        if not self.is_noisy:
            return 1.0, 0.0
        quiet = 0.0 if self.sni_lambda is None else self.sni_lambda
        return quiet, 1.0 - quiet

    @property
    def critic(self) -> Mode:
        """Mode of the value in the update."""
        return "noisy" if self.is_noisy and self.critic_noise else self.acting


class Dropout(nn.Module):
    """Inverted dropout on the latent, scaled by 1 / (1 - p).

    With ``frozen`` there is one mask for the whole batch, as in the CoinRun code: a "slow" one,
    which stays for an iteration, and a "fast" one, which stays for a minibatch. Without it every
    sample has a mask of its own, and suspended means none. Masks are in the ``state_dict``, so that
    a run goes on exactly; ``"off"`` uses none of them.

    Args:
        size: Width of the latent.
        p: Probability of a zero.
        frozen: See above.
    """

    slow: th.Tensor
    fast: th.Tensor

    def __init__(self, size: int, p: float, frozen: bool) -> None:
        super().__init__()
        self.p, self.frozen = p, frozen
        if frozen:
            self.register_buffer("slow", th.ones(size))
            self.register_buffer("fast", th.ones(size))
            self.redraw("slow")
            self.redraw("fast")

    @th.no_grad()
    def redraw(self, which: Literal["slow", "fast"]) -> None:
        """Draw a new mask in place; does nothing unless ``frozen``."""
        if self.frozen:
            mask = self.slow if which == "slow" else self.fast
            mask.bernoulli_(1 - self.p).div_(1 - self.p)

    def forward(self, latent: th.Tensor, mode: Mode) -> th.Tensor:
        """Apply a mask to ``[B, d]``."""
        if mode == "off":
            return latent
        if self.frozen:
            return latent * (self.fast if mode == "noisy" else self.slow)
        return F.dropout(latent, self.p) if mode == "noisy" else latent


class BatchNorm(nn.Module):
    """Batch normalisation whose noise, the statistics of the batch, is chosen call by call.

    ``"noisy"`` uses the statistics of the batch, and moves the running ones where ``tracking`` is
    set; otherwise the running ones are used and nothing is moved.

    Args:
        n_channels: Number of channels.
        momentum: Weight of the newest batch in the running statistics.
    """

    running_mean: th.Tensor
    running_var: th.Tensor

    def __init__(self, n_channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(th.ones(n_channels))
        self.bias = nn.Parameter(th.zeros(n_channels))
        self.momentum = momentum
        self.register_buffer("running_mean", th.zeros(n_channels))
        self.register_buffer("running_var", th.ones(n_channels))
        self.mode: Mode = "off"
        self.tracking = False

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Normalise ``[B, C, ...]``."""
        if self.mode != "noisy":
            # Copies: the noisy pass behind this one moves the originals, unseen by autograd, before
            # the backward pass of this one reads them.
            still = self.running_mean.clone(), self.running_var.clone()
            return F.batch_norm(inputs, *still, self.weight, self.bias)
        mean, var = (self.running_mean, self.running_var) if self.tracking else (None, None)
        return F.batch_norm(
            inputs, mean, var, self.weight, self.bias, training=True, momentum=self.momentum
        )
