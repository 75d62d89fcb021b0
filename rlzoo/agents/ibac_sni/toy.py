"""The paper's supervised experiment: signals whose class is a short pattern, not the background.

A network that remembers the backgrounds of its training data fails on others. The experiment shows
the bottleneck against weight decay and dropout without any reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rlzoo.agents.ibac_sni.bottleneck import draw, gaussian, kl_to_prior

Method = Literal["none", "weight_decay", "dropout", "vib"]

N_POINTS, N_CLASSES = 100, 5
_PATTERN, _STARTS, _ORDER = 20, 3, 3
_HIDDEN, _LATENT = 1024, 256
_BATCH = 25


@dataclass(frozen=True)
class Signals:
    """Signals and their classes.

    Args:
        inputs: ``[n, 100]``, float32.
        labels: ``[n]``, int64, from 0 to 4.
    """

    inputs: th.Tensor
    labels: th.Tensor


@dataclass(frozen=True)
class Scores:
    """Cross-entropy in nats and accuracy of a trained network, without noise.

    Args:
        train: Mean cross-entropy per training signal.
        test: The same on signals with other backgrounds.
        accuracy: Share of test signals that are classified right.
    """

    train: float
    test: float
    accuracy: float


def make_signals(
    seed: int, n_train: int, n_functions: int, n_test: int = 200
) -> tuple[Signals, Signals]:
    """Return training and test signals.

    A signal is a background, one of ``n_functions`` random Fourier series of its class plus noise
    N(0, 1), with the pattern of the class, free of noise, pasted at one of three places. Patterns
    and places are those of the training, the backgrounds of the test are others.

    Args:
        seed: Everything follows from it.
        n_train: Number of training signals.
        n_functions: Backgrounds per class.
        n_test: Number of test signals.
    """
    rng = np.random.default_rng(seed)
    grid = np.linspace(0, 2 * np.pi, 2000)
    where = np.sort(rng.choice(grid, N_POINTS, replace=False))
    seen, unseen = (_series(rng, (N_CLASSES, n_functions), where) for _ in range(2))
    patterns = _series(rng, (N_CLASSES,), np.linspace(0, 2 * np.pi, _PATTERN))
    starts = rng.choice(N_POINTS - _PATTERN, _STARTS, replace=False)

    def signals(backgrounds: NDArray[np.float64], n: int) -> Signals:
        labels = rng.integers(N_CLASSES, size=n)
        values = backgrounds[labels, rng.integers(n_functions, size=n)]
        values = values + rng.normal(size=values.shape)
        columns = rng.choice(starts, n)[:, None] + np.arange(_PATTERN)
        values[np.arange(n)[:, None], columns] = patterns[labels]
        return Signals(th.from_numpy(values.astype(np.float32)), th.from_numpy(labels))

    return signals(seen, n_train), signals(unseen, n_test)


def _series(
    rng: np.random.Generator, shape: tuple[int, ...], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return random series of order 3 at the points ``x``, ``[*shape, len(x)]``."""
    angles = np.arange(1, _ORDER + 1)[:, None] * x
    waves = np.concatenate([np.cos(angles), np.sin(angles)])
    series: NDArray[np.float64] = rng.uniform(-1, 1, (*shape, 2 * _ORDER)) @ waves
    return series


class ToyNet(nn.Module):
    """A convolution, a hidden layer, the latent, and a linear classifier.

    Args:
        is_stochastic: Whether the latent is a Gaussian.
        dropout: Probability of a zero in the hidden layer.
    """

    def __init__(self, is_stochastic: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.is_stochastic = is_stochastic
        self.trunk = nn.Sequential(
            nn.Conv1d(1, 10, 11),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(10 * (N_POINTS - 10), _HIDDEN),
            nn.Dropout(dropout),
            nn.ReLU(),
        )
        self.latent = nn.Linear(_HIDDEN, 2 * _LATENT if is_stochastic else _LATENT)
        if is_stochastic:  # as the authors' bottleneck
            nn.init.xavier_uniform_(self.latent.weight, nn.init.calculate_gain("relu"))
            nn.init.zeros_(self.latent.bias)
        self.head = nn.Linear(_LATENT, N_CLASSES)

    def forward(self, inputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return logits ``[B, 5]`` and the KL of every sample in nats, ``[B]``.

        The latent is drawn while training, and its mean in evaluation.
        """
        hidden = self.latent(self.trunk(inputs[:, None]))
        if not self.is_stochastic:
            return self.head(hidden.relu()), hidden.new_zeros(len(hidden))
        q = gaussian(hidden, 0.0)
        z = draw(q, 1)[0] if self.training else q.mu
        return self.head(z.relu()), kl_to_prior(q, "nats")


def train_toy(
    method: Method,
    seed: int,
    n_train: int,
    n_functions: int = 64,
    samples: int = 20_000,
    learning_rate: float = 1e-3,
    beta: float = 1e-3,
    weight_decay: float = 1e-3,
    dropout: float = 0.5,
) -> Scores:
    """Train a network, and score it without noise.

    Args:
        method: Which regulariser; the parameters of the others are not used.
        seed: Seed of data, weights, order and noise. Draws from torch's global generator.
        n_train: Number of training signals.
        n_functions: Backgrounds per class.
        samples: Signals seen, in batches of 25 (the authors: 819,200).
        learning_rate: Of SGD with momentum 0.9 (the authors: 1e-4).
        beta: Weight of the KL in nats.
        weight_decay: Of SGD, on all weights.
        dropout: Probability of a zero in the hidden layer.
    """
    data, test = make_signals(seed, n_train, n_functions)
    th.manual_seed(seed)
    net = ToyNet(method == "vib", dropout if method == "dropout" else 0.0)
    decay = weight_decay if method == "weight_decay" else 0.0
    optimiser = th.optim.SGD(
        net.parameters(), learning_rate, momentum=0.9, weight_decay=decay, fused=True
    )  # fused: half of the training was spent in steps that read every weight several times
    for rows in _batches(n_train, samples):
        logits, kl = net(data.inputs[rows])
        loss = F.cross_entropy(logits, data.labels[rows]) + beta * kl.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    with th.no_grad():
        fits, found = net(data.inputs)[0], net(test.inputs)[0]
    return Scores(
        float(F.cross_entropy(fits, data.labels)),
        float(F.cross_entropy(found, test.labels)),
        float((found.argmax(1) == test.labels).float().mean()),
    )


def _batches(n: int, samples: int) -> Iterator[th.Tensor]:
    """Yield rows, in a new order every time all were seen, until ``samples`` were given."""
    given = 0
    while given < samples:
        for rows in th.split(th.randperm(n), _BATCH):
            if given < samples:
                given += len(rows)
                yield rows
