"""Fitting model and denoiser to what is stored (page, section 2.6, step 3).

The two are independent of each other, and take their steps side by side. Weights and moments go on
from the last fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch as th

from rlzoo.agents.dae_mpc.denoiser import Denoiser, Penalty, episode_windows
from rlzoo.agents.dae_mpc.dynamics import DynamicsModel
from rlzoo.agents.dae_mpc.memory import Stored

EVALUATED = 8192  # rows at a time
QUANTILE_ROWS = 100_000  # more say the same


@dataclass(frozen=True)
class FitSettings:
    """How both are fitted; the agent's arguments of the same names.

    Args:
        batch_size: Rows per step.
        epochs: Passes over the data.
        max_steps: Most gradient steps of one fit.
        weight_decay: Of the model, by layer.
        sigma: Deviation of the denoiser's noise, in normalised units.
        window: Pairs per window of the denoiser.
    """

    batch_size: int = 256
    epochs: int = 100
    max_steps: int = 20_000
    weight_decay: Sequence[float] = ()
    sigma: float = 0.1
    window: int = 1


@dataclass(frozen=True)
class Fit:
    """What came of it; means over the last pass.

    Args:
        steps: Gradient steps taken (by each of the two).
        capped: Whether ``max_steps`` ended it.
        model_loss: Loss of the model, with its regularisers.
        nll: Its likelihood part (twice the negative log-likelihood, but for a constant).
        dae_loss: Loss of the denoiser; None without one.
    """

    steps: int
    capped: bool
    model_loss: float
    nll: float
    dae_loss: float | None


@dataclass(frozen=True)
class Prepared:
    """Data in normalised units.

    Args:
        pairs: Inputs of the model, ``[n, d]``.
        targets: ``[n, D]``.
        windows: Of the denoiser, ``[m, w d']``.
    """

    pairs: th.Tensor
    targets: th.Tensor
    windows: th.Tensor


@th.no_grad()
def prepare(
    model: DynamicsModel, data: Stored, columns: th.Tensor | None, window: int, measure: bool
) -> Prepared:
    """Normalise data, if asked with their own statistics.

    Args:
        model: Holds the statistics.
        data: Transitions.
        columns: Of a pair that the denoiser sees; None: all.
        window: Pairs per window.
        measure: Take the statistics of these data first.
    """
    pairs = model.raw_pairs(data.observations, data.actions)
    targets = model.raw_targets(data.observations, data.next_observations, data.rewards)
    if measure:
        model.measure(pairs, targets)
    pairs, targets = model.inputs.normalize(pairs), model.targets.normalize(targets)
    seen = pairs if columns is None else pairs[:, columns]
    return Prepared(pairs, targets, episode_windows(seen, data.follows, window))


def fit(
    model: DynamicsModel,
    denoiser: Denoiser | None,
    optimizers: Sequence[th.optim.Optimizer],
    data: Prepared,
    settings: FitSettings,
    on_step: Callable[[int, int], None] | None = None,
) -> Fit:
    """Train both.

    Args:
        model: The model.
        denoiser: The denoiser; None: the model alone.
        optimizers: Of the model and, if there is one, of the denoiser.
        data: What to learn.
        settings: How.
        on_step: Called with (steps taken, steps in all) after every step.
    """
    n, members, device = len(data.pairs), model.network.n_members, data.pairs.device
    per_epoch = -(-n // settings.batch_size)
    wanted = settings.epochs * per_epoch
    total = min(wanted, settings.max_steps)
    windows = data.windows if denoiser is not None else data.windows[:0]
    sums, counted = th.zeros(3, device=device), 0
    orders = _orders(n, members, settings.batch_size, device)
    dae_orders = _orders(len(windows), 1, settings.batch_size, device)
    for step, rows in zip(range(total), orders, strict=False):
        loss, nll = model.network.loss(data.pairs[rows], data.targets[rows], settings.weight_decay)
        _step(optimizers[0], loss)
        dae_loss = loss.new_zeros(())
        if denoiser is not None and len(windows):
            clean = windows[next(dae_orders)[0]]
            dae_loss = denoiser.loss(clean, settings.sigma * th.randn_like(clean))
            _step(optimizers[1], dae_loss)
        if step >= total - per_epoch:
            sums += th.stack((loss.detach(), nll, dae_loss.detach()))
            counted += 1
        if on_step is not None:
            on_step(step + 1, total)
    means = (sums / max(counted, 1)).tolist()
    learned = denoiser is not None and len(windows) > 0
    return Fit(total, total < wanted, means[0], means[1], means[2] if learned else None)


def _step(optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _orders(n: int, members: int, size: int, device: th.device) -> Iterator[th.Tensor]:
    """Give batches of rows ``[K, b]`` without end; every member has its own order."""
    while n:
        order = th.stack([th.randperm(n, device=device) for _ in range(members)])
        yield from th.split(order, size, dim=1)


@th.no_grad()
def prediction_error(model: DynamicsModel, data: Prepared) -> th.Tensor:
    """Return the squared error of the mean prediction, normalised units, a scalar."""
    total = data.targets.new_zeros(())
    for pairs, targets in zip(
        th.split(data.pairs, EVALUATED), th.split(data.targets, EVALUATED), strict=True
    ):
        total += (model.predict(pairs) - targets).square().sum()
    return total / data.targets.numel()


@th.no_grad()
def window_errors(denoiser: Denoiser, windows: th.Tensor) -> th.Tensor:
    """Return the error of every window, ``[m]``."""
    found = [Penalty()(denoiser, part) for part in th.split(windows, EVALUATED)]
    return th.cat(found) if found else windows.new_zeros(0)


def error_quantile(denoiser: Denoiser, windows: th.Tensor, quantile: float) -> th.Tensor:
    """Return the quantile of the errors, a scalar; 0 without windows."""
    if not len(windows):
        return windows.new_zeros(())
    every = max(len(windows) // QUANTILE_ROWS, 1)
    return window_errors(denoiser, windows[::every]).quantile(quantile)
