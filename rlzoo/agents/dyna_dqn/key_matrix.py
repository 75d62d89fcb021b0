"""When temporal differences with linear values are stable: the key matrix. Pure functions, float64.

Values are ``v(s) = w x(s)``. Updates start in state ``i`` with probability ``d_i`` and end where a
buffer or a model says: in ``j`` with probability ``P_ij``; what a row lacks to one is the
probability that the episode ends. The expected update is ``w <- w + alpha (b - A w)`` with
``A = X' D (I - gamma P) X``. It is stable for every X if the *key matrix* ``D (I - gamma P)`` has a
positive definite symmetric part; if that has a negative eigenvalue, the eigenvector is a feature
with which the values diverge.

Full episodes replayed uniformly are always stable; the same starts with the outcomes of a learnt
model need not be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlzoo.errors import RefusedError

Array = NDArray[np.float64]


class Statistics(NamedTuple):
    """What a buffer says about where updates start and end.

    Args:
        weights: ``d``, share of the transitions that leave each state, ``[S]``.
        transitions: ``P``, where they lead, ``[S, S]``; a row sums to less than 1 where episodes
            end, and to 0 for a state that was never left.
    """

    weights: Array
    transitions: Array


@dataclass(frozen=True)
class Verdict:
    """Whether updates are stable whatever the features.

    Args:
        eigenvalue: Smallest eigenvalue of the symmetric part of the key matrix.
        feature: Its eigenvector, ``[S]``: the worst single feature, for which
            ``A = eigenvalue``; zero where no update starts.
        row_sum: Smallest row sum of the key matrix, at least ``(1 - gamma) min(d)``.
        column_sum: Smallest column sum. If it is positive, so is the eigenvalue; the reverse does
            not hold.
    """

    eigenvalue: float
    feature: Array
    row_sum: float
    column_sum: float

    @property
    def stable(self) -> bool:
        """Whether the symmetric part is positive definite."""
        return self.eigenvalue > 0


def key_matrix(d: ArrayLike, p: ArrayLike, gamma: float, n_steps: int = 1) -> Array:
    """Return ``D (I - gamma^n P^n)``, ``[S, S]``.

    Args:
        d: Start weights of updates, ``[S]``.
        p: Transition matrix without ends, ``[S, S]``.
        gamma: Discount.
        n_steps: Steps of the return, 1 for TD(0).

    Raises:
        RefusedError: If shapes do not fit, weights or probabilities are negative, or a row of
            ``p`` sums to more than 1.
    """
    weights, matrix = np.asarray(d, float), np.asarray(p, float)
    _check(weights, matrix)
    ahead = np.linalg.matrix_power(gamma * matrix, n_steps)
    key: Array = weights[:, None] * (np.eye(len(weights)) - ahead)
    return key


def iteration_matrix(features: ArrayLike, key: Array) -> Array:
    """Return ``A = X' K X``, ``[k, k]``, for features ``X``, ``[S, k]`` or ``[S]``."""
    x = _columns(features)
    a: Array = x.T @ key @ x
    return a


def iteration_vector(features: ArrayLike, d: ArrayLike, rewards: ArrayLike) -> Array:
    """Return ``b = X' D r``, ``[k]``, with the expected reward of leaving each state, ``[S]``."""
    b: Array = _columns(features).T @ (np.asarray(d, float) * np.asarray(rewards, float))
    return b


def is_stable(a: Array) -> bool:
    """Whether ``w <- w + alpha (b - A w)`` converges for small alpha: real parts above 0."""
    return bool(np.linalg.eigvals(a).real.min() > 0)


def column_sums(key: Array) -> Array:
    """Return ``d_j - gamma (d' P)_j``, ``[S]``."""
    return np.asarray(key.sum(0))


def verdict(key: Array) -> Verdict:
    """Judge a key matrix over the states in which updates start.

    Raises:
        RefusedError: If updates start nowhere.
    """
    # A state without updates has an empty row; its value is a constant that others bootstrap from.
    used = key.any(1)
    if not used.any():
        raise RefusedError("The key matrix is zero.", "Needed: a state with a positive weight.")
    part = key[np.ix_(used, used)]
    values, vectors = np.linalg.eigh((part + part.T) / 2)
    feature = np.zeros(len(key))
    feature[used] = vectors[:, 0]
    return Verdict(
        float(values[0]), feature, float(part.sum(1).min()), float(column_sums(part).min())
    )


def buffer_statistics(
    states: ArrayLike, after: ArrayLike, n_states: int, weights: ArrayLike | None = None
) -> Statistics:
    """Return start weights and empirical transitions of a buffer.

    For the guarantee the buffer must hold *full* episodes: cut off the unfinished tail, and weight
    all transitions alike. Neither is checked here, as both ways of breaking it are worth a look.

    Args:
        states: State that each transition left, ``[T]``.
        after: State that it entered, ``[T]``; -1 where the episode ended.
        n_states: S.
        weights: Weight of each transition in sampling; None for uniform.

    Raises:
        RefusedError: If the buffer is empty, or a state is out of range.
    """
    left, entered = np.asarray(states, np.int64), np.asarray(after, np.int64)
    share = np.ones(len(left)) if weights is None else np.asarray(weights, float)
    if not share.sum() > 0:
        raise RefusedError("The buffer has no transition with a weight.")
    if left.min() < 0 or entered.min() < -1 or max(left.max(), entered.max()) >= n_states:
        raise RefusedError(
            "A state of the buffer is out of range.",
            f"Allowed: 0 to {n_states - 1}, and -1 for an end.",
        )
    mass = np.zeros((n_states, n_states + 1))  # The last column, which -1 reaches, holds the ends.
    np.add.at(mass, (left, entered), share)
    out = mass.sum(1)
    transitions = np.divide(mass, out[:, None], out=np.zeros_like(mass), where=out[:, None] > 0)
    return Statistics(out / out.sum(), transitions[:, :-1])


def sample_episodes(
    p: ArrayLike, n_episodes: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the states left and entered (-1: the end) in full episodes from uniform starts.

    Args:
        p: Transition matrix without ends, ``[S, S]``; every episode must end.
        n_episodes: Number of episodes.
        rng: Generator.
    """
    matrix = np.asarray(p, float)
    ways = np.cumsum(np.column_stack([matrix, 1 - matrix.sum(1)]), 1)
    states, after = [], []
    for start in rng.integers(len(matrix), size=n_episodes):
        state = int(start)
        while state >= 0:
            states.append(state)
            chosen = int(np.searchsorted(ways[state], rng.random(), side="right"))
            state = chosen if chosen < len(matrix) else -1
            after.append(state)
    return np.array(states, np.int64), np.array(after, np.int64)


def occupancy(p: ArrayLike, start: ArrayLike) -> Array:
    """Return the share of steps that a model spends in each state, ``start (I - P)^-1``, ``[S]``.

    Updates that start there, from states that the model itself generates, are stable again.

    Args:
        p: Transition matrix without ends, ``[S, S]``; every episode must end.
        start: Where episodes begin, ``[S]``.
    """
    matrix = np.asarray(p, float)
    visits = np.linalg.solve((np.eye(len(matrix)) - matrix).T, np.asarray(start, float))
    return np.asarray(visits / visits.sum())


def simulate(
    a: ArrayLike, b: ArrayLike, w: ArrayLike, alpha: float = 0.1, steps: int = 2000
) -> Array:
    """Iterate the expected update; return all weights, ``[steps + 1, k]``.

    Args:
        a: Iteration matrix, ``[k, k]``.
        b: Iteration vector, ``[k]``.
        w: First weights, ``[k]``.
        alpha: Step size.
        steps: Number of updates.
    """
    matrix, vector = np.atleast_2d(np.asarray(a, float)), np.atleast_1d(np.asarray(b, float))
    path = np.empty((steps + 1, len(vector)))
    path[0] = w
    with np.errstate(over="ignore", invalid="ignore"):  # Divergence is a result.
        for step in range(steps):
            path[step + 1] = path[step] + alpha * (vector - matrix @ path[step])
    return path


def critical(line: Callable[[float], float]) -> float:
    """Return where a function that is linear in its argument is zero.

    ``A`` is linear in every entry of ``d`` and of ``P``.

    Raises:
        RefusedError: If the function is constant.
    """
    at_zero, at_one = line(0.0), line(1.0)
    if at_zero == at_one:
        raise RefusedError("The function is constant.", "Needed: one that changes from 0 to 1.")
    return at_zero / (at_zero - at_one)


def _columns(features: ArrayLike) -> Array:
    x = np.asarray(features, float)
    return x[:, None] if x.ndim == 1 else x


def _check(d: Array, p: Array) -> None:
    if d.ndim != 1 or p.shape != (len(d), len(d)):
        raise RefusedError(
            f"Weights have the shape {d.shape} and transitions {p.shape}.",
            "Needed: (S,) and (S, S).",
        )
    if d.min() < 0 or p.min() < 0 or p.sum(1).max() > 1 + 1e-9:
        raise RefusedError(
            "Weights or transitions are no probabilities.",
            "Needed: no negative number, and rows of transitions that sum to 1 at most.",
        )
