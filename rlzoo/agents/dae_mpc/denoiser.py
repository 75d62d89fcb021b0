"""How familiar a plan is: the denoising autoencoder, its windows, and the penalty.

The best denoiser of data with noise of deviation sigma obeys
``g(x) - x = sigma^2 grad log p_sigma(x)`` (Miyasawa, Tweedie), so that ``||g(x) - x||^2`` is small
where data are, and its gradient leads back there (paper, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch as th
from torch import nn

from rlzoo.agents.dae_mpc.networks import Layers, SiluMLP, evaluate, in_bfloat16


class Denoiser(nn.Module):
    """The autoencoder: no bottleneck, no tied weights, linear output.

    Args:
        width: Of a window, ``w d``.
        hidden: Widths of the hidden layers.
        residual: Give ``x + net(x)`` instead of ``net(x)``.
        bf16: Inner layers in bf16, where no gradient is asked for.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], residual: bool = False, bf16: bool = False
    ) -> None:
        super().__init__()
        self.net = SiluMLP(width, hidden, width)
        self.residual, self.bf16 = residual, bf16

    def forward(self, windows: th.Tensor) -> th.Tensor:
        """Return the clean windows that were most likely, ``[..., width]``."""
        found: th.Tensor
        if th.is_grad_enabled():
            found = self.net(windows)
        else:
            found = evaluate(windows.flatten(0, -2), self._layers()).view(windows.shape)
        return windows + found if self.residual else found

    def _layers(self) -> Layers:
        layers = [(layer.bias, layer.weight.T) for layer in self.net.linear]
        return in_bfloat16(layers) if self.bf16 else layers

    def loss(self, windows: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """Return ``||g(x + noise) - x||^2``, mean over rows and dimensions."""
        loss: th.Tensor = (self(windows + noise) - windows).square().mean()
        return loss


class ParzenDenoiser(nn.Module):
    """The best denoiser of a finite set of rows, in closed form: an oracle for tests and toys.

    Args:
        rows: The data, ``[n, width]``.
        sigma: Deviation of the noise.
    """

    rows: th.Tensor

    def __init__(self, rows: th.Tensor, sigma: float) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.sigma = sigma

    def log_kernel(self, x: th.Tensor) -> th.Tensor:
        """Return ``-||x - row||^2 / (2 sigma^2)``, ``[..., n]``."""
        inner = x @ self.rows.T
        squares = x.square().sum(-1, keepdim=True) + self.rows.square().sum(-1)
        scaled: th.Tensor = (inner - 0.5 * squares) / self.sigma**2
        return scaled

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Return the mean of the rows, weighted by how likely they became ``x [..., width]``."""
        mean: th.Tensor = self.log_kernel(x).softmax(-1) @ self.rows
        return mean


def n_windows(horizon: int, window: int) -> int:
    """Return how many windows of ``window`` pairs a plan of ``horizon`` steps has."""
    return horizon - window + 1


def plan_windows(pairs: th.Tensor, window: int) -> th.Tensor:
    """Cut plans into all runs of ``window`` pairs.

    Args:
        pairs: Normalised pairs, time first, ``[H, R, d]``.
        window: Pairs per window, ``w``.

    Returns:
        ``[H - w + 1, R, w d]``; window k holds the pairs k to k + w - 1, earliest first.
    """
    if window == 1:
        return pairs
    return pairs.unfold(0, window, 1).movedim(-1, -2).flatten(-2)


def episode_windows(pairs: th.Tensor, follows: th.Tensor, window: int) -> th.Tensor:
    """Cut stored pairs into windows that do not cross from one episode into another.

    Args:
        pairs: In the order of time, ``[n, d]``.
        follows: Whether row i + 1 is the step after row i, booleans ``[n - 1]``.
        window: Pairs per window, ``w``.

    Returns:
        ``[m, w d]``, where m is 0 when no episode is long enough.
    """
    if window == 1:
        return pairs
    if len(pairs) < window:
        return pairs.new_zeros((0, window * pairs.shape[-1]))
    whole = follows.unfold(0, window - 1, 1).all(-1)
    return plan_windows(pairs.unsqueeze(1), window).squeeze(1)[whole]


@dataclass(frozen=True)
class Penalty:
    """What an error of the denoiser costs; the paper's is the error itself.

    Args:
        stop_gradient: Hold ``g`` constant in the gradient; stronger by ``(s^2 + sigma^2) /
            sigma^2`` for Gaussian data of variance ``s^2``.
        target: Penalise ``(error - target)^2`` instead (Di Palo and Valpola 2018): explores.
    """

    stop_gradient: bool = False
    target: float | None = None

    def __call__(
        self, denoiser: nn.Module, windows: th.Tensor, threshold: th.Tensor | None = None
    ) -> th.Tensor:
        """Return the penalty of every window.

        Args:
            denoiser: Maps windows to windows.
            windows: ``[..., w d]``.
            threshold: Errors below it cost nothing, and above it only what exceeds it.
        """
        clean = denoiser(windows)
        if self.stop_gradient:
            clean = clean.detach()
        # The sum over the normalised dimensions, not their mean.
        errors: th.Tensor = (clean - windows).square().sum(-1)
        if threshold is not None:
            errors = (errors - threshold).relu()
        return errors if self.target is None else (errors - self.target).square()
