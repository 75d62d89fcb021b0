"""Fitting a neural model to what is stored: held-out rows, early stopping, best weights kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch as th

from rlzoo.agents.dyna_dqn.neural_model import NeuralModel
from rlzoo.agents.dyna_dqn.transitions import Batch

IMPROVEMENT = 0.01  # share by which a loss must fall to count as better (mbrl-lib)
EVALUATED = 4096  # held-out rows at a time


@dataclass(frozen=True)
class FitSettings:
    """How a model is fitted; the agent's arguments ``model_...`` of the same names.

    Args:
        learning_rate: Of Adam.
        weight_decay: Of Adam.
        batch_size: Rows per step and member.
        patience: Epochs without improvement of any member, after which fitting ends.
        epochs: Most epochs of one fit.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    batch_size: int = 256
    patience: int = 5
    epochs: int = 20


@dataclass(frozen=True)
class Fit:
    """What came of it.

    Args:
        loss: Held-out loss, mean over the members at their best.
        epochs: Epochs taken.
    """

    loss: float
    epochs: int


def fit(model: NeuralModel, data: Batch, held_out: th.Tensor, settings: FitSettings) -> Fit:
    """Fit a model from its present weights, each member on its own order of the rows.

    The optimiser begins anew in every fit, so that weights are the whole state of a model.

    Args:
        model: The model; its scales are measured on all data.
        data: Everything stored, ``[N, ...]``.
        held_out: Rows that are not learned from, booleans ``[N]``; when it holds out none (or
            all), the stopping rule looks at the training rows.
        settings: How.
    """
    training, held = _part(data, ~held_out), _part(data, held_out)
    training = training if training.size else held
    held = held if held.size else training
    model.measure(data)
    parameters = list(model.parameters())
    optimizer = th.optim.Adam(
        parameters, settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    best, kept = _held_out_losses(model, held), [p.detach().clone() for p in parameters]
    since, epoch = 0, 0
    while epoch < settings.epochs and since < settings.patience:
        for batch in _epoch(training, model.n_models, settings.batch_size):
            optimizer.zero_grad()
            model.losses(batch).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        epoch += 1
        losses = _held_out_losses(model, held)
        better = losses < best * (1 - IMPROVEMENT)
        since = 0 if bool(better.any()) else since + 1
        lower = losses < best
        best = th.where(lower, losses, best)
        for parameter, saved in zip(parameters, kept, strict=True):
            saved[lower] = parameter.detach()[lower]  # members are the first dimension
    with th.no_grad():
        for parameter, saved in zip(parameters, kept, strict=True):
            parameter.copy_(saved)
    model.zero_grad(set_to_none=True)
    model.fitted.fill_(True)
    return Fit(float(best.mean()), epoch)


def _part(data: Batch, rows: th.Tensor) -> Batch:
    return Batch(*(tensor[rows] for tensor in data))


def _epoch(data: Batch, n_models: int, batch_size: int) -> Iterator[Batch]:
    """Give batches ``[K, b, ...]``; every member sees every row once, in its own order."""
    order = th.rand(n_models, data.size, device=data.rewards.device).argsort(1)
    for rows in th.split(order, batch_size, dim=1):
        yield Batch(*(tensor[rows] for tensor in data))


@th.no_grad()
def _held_out_losses(model: NeuralModel, held: Batch) -> th.Tensor:
    total = held.rewards.new_zeros(model.n_models)
    for start in range(0, held.size, EVALUATED):
        part = held.rows(slice(start, start + EVALUATED))
        wide = Batch(*(tensor.expand(model.n_models, *tensor.shape) for tensor in part))
        total += model.losses(wide) * part.size
    return total / held.size
