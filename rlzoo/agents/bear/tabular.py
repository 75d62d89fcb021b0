"""The theory of the paper on tables: backups over a set of policies, and what they cost.

A set of policies ``Pi`` is given by its *support*, a mask ``[S, A]``: every policy that only takes
allowed actions belongs to it. Everything is exact (up to the stated tolerance), in float64, for
MDPs of a few dozen states. Sections refer to Kumar et al. 2019 (arXiv 1906.00949), section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlzoo.errors import RefusedError

Table = NDArray[np.float64]
Mask = NDArray[np.bool_]


class MDP(NamedTuple):
    """A finite Markov decision process.

    Args:
        transitions: ``[S, A, S]``, probabilities of the next state.
        rewards: ``[S, A]``, expected rewards.
        start: ``[S]``, distribution ``rho_0`` of the first state.
        gamma: Discount factor in (0, 1).
    """

    transitions: Table
    rewards: Table
    start: Table
    gamma: float

    @property
    def everything(self) -> Mask:
        """The support of the set of all policies, ``[S, A]``."""
        return np.ones(self.rewards.shape, np.bool_)


def support_mask(behavior: Table, epsilon: float) -> Mask:
    """Return the support of ``Pi_eps``: actions that the behaviour takes at least so often.

    Args:
        behavior: Probabilities ``beta(a|s)``, ``[S, A]``.
        epsilon: Smallest probability that counts as seen.

    Returns:
        ``[S, A]``.

    Raises:
        RefusedError: If a state is left without any action.
    """
    mask: Mask = behavior >= epsilon
    empty = np.flatnonzero(~mask.any(1))
    if empty.size:
        raise RefusedError(
            f"epsilon={epsilon} leaves state {empty[0]} without an action.",
            f"Allowed: at most {behavior.max(1).min():g}, its least likely best action.",
        )
    return mask


# --- backups ------------------------------------------------------------------------------------


def values(q: Table, mask: Mask) -> Table:
    """Return ``max_{pi in Pi} E_pi Q(s, .)``, the best allowed action's value, ``[..., S]``."""
    best: Table = np.where(mask, q, -np.inf).max(-1)
    return best


def backup(mdp: MDP, q: Table, mask: Mask) -> Table:
    """Return the distribution-constrained backup ``T^Pi Q``, ``[S, A]`` (definition 4.1).

    ``(T^Pi Q)(s, a) = R(s, a) + gamma E_{s'} max_{pi in Pi} E_{a' ~ pi} Q(s', a')``: on a support
    set the inner maximum is one over the allowed actions. It contracts by ``gamma``.
    """
    backed_up: Table = mdp.rewards + mdp.gamma * mdp.transitions @ values(q, mask)
    return backed_up


def fixed_point(mdp: MDP, mask: Mask, tolerance: float = 1e-12) -> Table:
    """Return ``Q^Pi = T^Pi Q^Pi``, ``[S, A]``, off by at most ``tolerance``."""
    q = np.zeros_like(mdp.rewards)
    while True:
        previous, q = q, backup(mdp, q, mask)
        if np.abs(q - previous).max() * mdp.gamma <= tolerance * (1 - mdp.gamma):
            return q


def greedy(q: Table, mask: Mask) -> Table:
    """Return the greedy policy within the support, ``[S, A]`` of zeros and ones."""
    chosen: Table = np.eye(q.shape[1])[np.where(mask, q, -np.inf).argmax(1)]
    return chosen


def policy_values(mdp: MDP, policy: Table) -> Table:
    """Return ``V^pi``, ``[S]``, by solving the linear equations."""
    kernel, rewards = _kernel(mdp, policy), (policy * mdp.rewards).sum(1)
    solution: Table = np.linalg.solve(np.eye(len(kernel)) - mdp.gamma * kernel, rewards)
    return solution


def sweeps(
    mdp: MDP, q: Table, mask: Mask, updated: Mask, n: int, target_rewards: Table | None = None
) -> Iterator[Table]:
    """Iterate the backup where there are data, leave all other entries as they are.

    This is what a fixed batch does to a table: the entry of an action that it never contains keeps
    the value that it started with, and a backup that may choose that action spreads it.

    Args:
        mdp: Its transitions and discount.
        q: First table, ``[S, A]``.
        mask: Actions over which the backup maximises.
        updated: Entries that the data contain.
        n: Number of sweeps.
        target_rewards: Rewards as the data show them, ``[S, A]``; the expected ones by default.

    Yields:
        The table after every sweep.
    """
    if target_rewards is not None:
        mdp = mdp._replace(rewards=target_rewards)
    for _ in range(n):
        q = np.where(updated, backup(mdp, q, mask), q)
        yield q


# --- what the constraint costs --------------------------------------------------------------------


def suboptimality(mdp: MDP, mask: Mask) -> float:
    """Return ``alpha(Pi) = max |T^Pi Q* - T Q*|`` (definition 4.2).

    By the triangle inequality ``max |Q* - Q^Pi| <= alpha(Pi) / (1 - gamma)``.
    """
    optimal = fixed_point(mdp, mdp.everything)
    return float(np.abs(backup(mdp, optimal, mask) - optimal).max())


def discounted_states(mdp: MDP, policy: Table) -> Table:
    """Return ``(1 - gamma) sum_t gamma^t rho_0 P^t``, the states that a policy visits, ``[S]``."""
    system = np.eye(len(mdp.start)) - mdp.gamma * _kernel(mdp, policy).T
    return np.asarray((1 - mdp.gamma) * np.linalg.solve(system, mdp.start), np.float64)


def reachable(mdp: MDP, mask: Mask) -> Mask:
    """Return the states that some policy of the set visits from the start, ``[S]``."""
    found: Mask = np.asarray(mdp.start > 0)
    edges = np.asarray(((mdp.transitions > 0) & mask[..., None]).any(axis=1))
    for _ in range(len(found)):  # one more state, at least, in every round but the last
        found[edges[found].any(axis=0)] = True
    return found


def concentrabilities(mdp: MDP, mask: Mask, mu: Table, n: int) -> Table:
    """Return ``c(1) ... c(n)``, ``[n]`` (assumption 4.1).

    ``c(k)`` is the supremum of ``(rho_0 P^{pi_1} ... P^{pi_k})(x) / mu(x)`` over states and over
    policies of the set, another one at every step. For each target ``x`` the best of them comes
    from backward induction: ``U_0 = e_x``, ``U_{j+1}(s) = max_a sum_{s'} P(s'|s, a) U_j(s')``.

    Args:
        mdp: The process.
        mask: Support of the set of policies.
        mu: Distribution of the states in the data, ``[S]``.
        n: Number of steps ahead.
    """
    reach = np.eye(len(mdp.start))  # [target, state]
    found = np.empty(n)
    for k in range(n):
        reach = np.where(mask, np.einsum("sat,xt->xsa", mdp.transitions, reach), -np.inf).max(-1)
        found[k] = _largest_ratio(reach @ mdp.start, mu)
    return found


def policy_concentrabilities(mdp: MDP, policy: Table, mu: Table, n: int) -> Table:
    """Return ``c(1) ... c(n)`` of the set that holds one policy only, ``[n]``."""
    kernel, states = _kernel(mdp, policy), mdp.start
    found = np.empty(n)
    for k in range(n):
        states = states @ kernel
        found[k] = _largest_ratio(states, mu)
    return found


def concentrability(mdp: MDP, policies: Table | Mask, mu: Table, tolerance: float = 1e-9) -> float:
    """Return ``C(Pi) = (1 - gamma)^2 sum_k k gamma^(k-1) c(k)``, at most ``tolerance`` too small.

    Args:
        mdp: The process.
        policies: Support of a set (bool), or one policy (float), ``[S, A]``.
        mu: Distribution of the states in the data, ``[S]``.
        tolerance: Where the sum is cut, relative to the largest possible ``c``.
    """
    # What is left after K terms: sum_{k > K} k g^(k-1) (1-g)^2 = g^K (K (1-g) + 1).
    gamma, n = mdp.gamma, 1
    while gamma**n * (n * (1 - gamma) + 1) > tolerance * mu[mu > 0].min():
        n += 1
    if policies.dtype == np.bool_:
        c = concentrabilities(mdp, policies.astype(np.bool_), mu, n)
    else:
        c = policy_concentrabilities(mdp, policies.astype(np.float64), mu, n)
    k = np.arange(1, n + 1)
    return float((1 - gamma) ** 2 * (k * gamma ** (k - 1) * c).sum())


# --- bounds ---------------------------------------------------------------------------------------


def error_bound(mdp: MDP, mask: Mask, mu: Table, delta: Table) -> float:
    """Return the bound on ``limsup_k E_{rho_0} |V^{pi_k} - V*|`` (theorem 4.1).

    ``2 gamma / (1-gamma)^2 [C(Pi) E_mu max_{pi in Pi} E_pi delta + (1-gamma)/gamma alpha(Pi)]``.
    The paper has no factor 2; without it random MDPs break the bound, see the README.

    Args:
        mdp: The process.
        mask: Support of the set of policies.
        mu: Distribution of the states in the data, ``[S]``.
        delta: Bound on ``|Q_k - T^Pi Q_{k-1}|`` for all ``k``, ``[S, A]``.
    """
    gamma = mdp.gamma
    propagated = concentrability(mdp, mask, mu) * float(mu @ values(delta, mask))
    bias = (1 - gamma) / gamma * suboptimality(mdp, mask)
    return 2 * gamma / (1 - gamma) ** 2 * (propagated + bias)


def support_bound(mdp: MDP, behavior: Table, epsilon: float, mu: Table) -> float:
    """Return the bound on ``C(Pi_eps)`` from the data alone (theorem 4.2).

    ``C(beta) (1 + gamma / ((1-gamma) f(eps)) (1 - eps))`` with ``f(eps)`` the smallest ``mu(s)``
    among states that ``Pi_eps`` reaches. Loose by one to two orders of magnitude.
    """
    least = float(mu[reachable(mdp, support_mask(behavior, epsilon))].min())
    growth = mdp.gamma / ((1 - mdp.gamma) * least) * (1 - epsilon)
    return concentrability(mdp, behavior, mu) * (1 + growth)


# --- the picture ----------------------------------------------------------------------------------


def chain(n_states: int, gamma: float = 0.99) -> tuple[MDP, Mask]:
    """Return a chain without rewards, and which of its two actions the data contain, ``[S, A]``.

    Both actions lead to the next state, the last one stays where it is. The data show action 0
    only: whatever value action 1 starts with is an error that no data correct.
    """
    following = np.minimum(np.arange(n_states) + 1, n_states - 1)
    transitions = np.repeat(np.eye(n_states)[following][:, None], 2, axis=1)
    start = np.eye(n_states)[0]
    seen = np.tile([True, False], (n_states, 1))
    return MDP(transitions, np.zeros((n_states, 2)), start, gamma), seen


def _kernel(mdp: MDP, policy: Table) -> Table:
    kernel: Table = np.einsum("sa,sat->st", policy, mdp.transitions)
    return kernel


def _largest_ratio(states: Table, mu: Table) -> float:
    """Return ``max_x states(x) / mu(x)``; a state without data but with visits is infinite."""
    if (states[mu == 0] > 0).any():
        return float("inf")
    return float((states[mu > 0] / mu[mu > 0]).max())
