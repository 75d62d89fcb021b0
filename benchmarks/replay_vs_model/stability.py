"""Stability: when linear values learned from a model's outcomes diverge, and replay's do not.

    python -m benchmarks.replay_vs_model.stability

The cases and the numbers of the column "page" are those of the paper page, section 2.2.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.output import folder, new_figure, provenance, publish, table
from rlzoo.agents.dyna_dqn.key_matrix import (
    Statistics,
    buffer_statistics,
    column_sums,
    critical,
    iteration_matrix,
    key_matrix,
    occupancy,
    sample_episodes,
    simulate,
    verdict,
)  # fmt: skip

GAMMA, ALPHA, STEPS, MDPS = 0.99, 0.1, 2000, 300
FEATURE = [1.0, 2.0]
EVEN = [0.5, 0.5]


def model(q: float) -> NDArray[np.float64]:
    """Return s1 -> s2, where it stays with probability q and ends otherwise."""
    return np.array([[0.0, 1.0], [0.0, q]])


class Case(NamedTuple):
    """Two states with values ``w`` and ``2 w``.

    Args:
        label: What generates the updates.
        d: Where they start.
        p: Where they lead.
        page: ``A`` of the page.
        weight: Weight after 2000 steps on the page; None where it has none.
        n_steps: Length of the return.
    """

    label: str
    d: Any
    p: NDArray[np.float64]
    page: float
    weight: float | None = None
    n_steps: int = 1

    def key(self) -> NDArray[np.float64]:
        """Return the key matrix."""
        return key_matrix(self.d, self.p, GAMMA, self.n_steps)

    def a(self) -> float:
        """Return the number that the weight is iterated with."""
        return float(iteration_matrix(FEATURE, self.key())[0, 0])


_STAYS = model(0.9)
CASES = [
    Case("replay of s1, s2, end", *buffer_statistics([0, 1], [1, -1], 2), 1.51, 6.5e-143),
    Case("model, q=0.5", EVEN, model(0.5), 0.52),
    Case("model, q=0.75", EVEN, model(0.75), 0.025),
    Case("model, q=0.8", EVEN, model(0.8), -0.074),
    Case("model, q=0.9", EVEN, _STAYS, -0.272, 2.0e23),
    Case("perfect model, starts 0.8 in s1", [0.8, 0.2], model(0), 0.016),
    Case("perfect model, starts 0.9 in s1", [0.9, 0.1], model(0), -0.482),
    Case("model, q=0.9, starts where it goes", occupancy(_STAYS, [1, 0]), _STAYS, 0.307, 7.8e-28),
    Case("model, q=0.9, 2-step returns", EVEN, _STAYS, 0.030, None, 2),
    Case("model, q=0.9, 5-step returns", EVEN, _STAYS, 0.753, None, 5),
    Case("model, q=0.9, 20-step returns", EVEN, _STAYS, 2.191, None, 20),
]


def thresholds() -> list[tuple[str, float, float, float]]:
    """Return name, ours, closed form and the page's rounded number of both critical values."""

    def start(d1: float) -> float:
        return Case("", [d1, 1 - d1], model(0), 0).a()

    q = critical(lambda q: Case("", EVEN, model(q), 0).a())
    return [
        ("q above which the model diverges", q, (5 - 2 * GAMMA) / (4 * GAMMA), 0.7626),
        ("share of s1 above which a perfect model does", critical(start),
         4 / (3 + 2 * GAMMA), 0.8032),
    ]  # fmt: skip


# --- random processes ----------------------------------------------------------------------------

Change = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64],
                   np.random.Generator], Statistics]  # fmt: skip


def _full(states: Any, after: Any, p: Any, rng: Any) -> Statistics:
    return buffer_statistics(states, after, len(p))


def _tail(states: Any, after: Any, p: Any, rng: Any) -> Statistics:
    cut = max(1, len(states) * 2 // 3)
    return buffer_statistics(states[:cut], after[:cut], len(p))


def _priorities(states: Any, after: Any, p: Any, rng: Any) -> Statistics:
    return buffer_statistics(states, after, len(p), rng.exponential(size=len(states)) ** 3)


def _model(error: float) -> Change:
    def change(states: Any, after: Any, p: Any, rng: Any) -> Statistics:
        weights, _ = buffer_statistics(states, after, len(p))
        wrong = p.sum(1)[:, None] * rng.dirichlet(np.full(len(p), 0.1), len(p))
        return Statistics(weights, (1 - error) * p + error * wrong)

    return change


CHANGES: dict[str, Change] = {
    "full episodes": _full,
    "the first two thirds of them": _tail,
    "full episodes, random priorities": _priorities,
    "their starts, the true process as model": _model(0.0),
    "their starts, a model with 10 % error": _model(0.1),
    "their starts, a model with 30 % error": _model(0.3),
    "their starts, a random model": _model(1.0),
}


class Share(NamedTuple):
    """Of 300 processes: without the bound on column sums, unstable; and the worst case.

    Args:
        unbounded: Share with a column sum below ``(1 - gamma) d``.
        unstable: Share with a feature for which values diverge.
        smallest: Smallest eigenvalue of a symmetric part.
        ratio: Smallest ratio of such an eigenvalue to the smallest start weight.
    """

    unbounded: float
    unstable: float
    smallest: float
    ratio: float


def survey(change: Change, mdps: int) -> Share:
    """Judge random processes of 2 to 12 states; seeds are their numbers."""
    unbounded = unstable = 0
    smallest = ratio = np.inf
    for seed in range(mdps):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 13))
        moves = rng.dirichlet(np.full(n, rng.choice([0.1, 0.5, 2.0])), n)
        going_on = 1 - rng.uniform(0.002, rng.choice([0.01, 0.5]), n)
        p = going_on[:, None] * moves
        episodes = sample_episodes(p, int(rng.integers(1, 21)), rng)
        weights, transitions = change(*episodes, p, rng)
        key = key_matrix(weights, transitions, GAMMA)
        seen = weights > 0
        missing = (1 - GAMMA) * weights - column_sums(key)
        found = verdict(key)
        unbounded += bool((missing[seen] > 1e-12).any())
        unstable += not found.stable
        smallest = min(smallest, found.eigenvalue)
        ratio = min(ratio, found.eigenvalue / weights[seen].min())
    return Share(unbounded / mdps, unstable / mdps, smallest, float(ratio))


# --- results -------------------------------------------------------------------------------------


def two_state_table() -> str:
    """Return the two-state cases as a table."""
    rows = []
    for case in CASES:
        weight = float(simulate(case.a(), 0.0, 1.0, ALPHA, STEPS)[-1, 0])
        page = "" if case.weight is None else f"{case.weight:.1e}"
        worst = verdict(case.key()).eigenvalue
        rows.append([case.label, f"{case.a():.6f}", f"{case.page:g}", f"{weight:.1e}", page,
                     "yes" if worst > 0 else "no"])  # fmt: skip
    columns = ["updates", "A", "A, page", f"w after {STEPS} steps", "w, page", "any feature stable"]
    return table(columns, rows)


def draw() -> Any:
    """Return the figure: weights over time, and A over the model's error."""
    figure, (left, right) = new_figure(2)
    for case in (CASES[0], CASES[2], CASES[4], CASES[7], CASES[8], CASES[9]):
        path = np.abs(simulate(case.a(), 0.0, 1.0, ALPHA, STEPS)[:, 0])
        left.semilogy(np.maximum(path, 1e-30), label=case.label)
    left.set(xlabel="updates", ylabel="|w|", ylim=(1e-30, 1e26))
    left.axhline(1, color="black", linewidth=0.5)
    q = np.linspace(0, 0.99, 100)
    for label, start, n_steps in (
        ("starts half in s1", lambda _: EVEN, 1),
        ("the same, 2-step returns", lambda _: EVEN, 2),
        ("the same, 5-step returns", lambda _: EVEN, 5),
        ("starts where the model goes", lambda q: occupancy(model(q), [1, 0]), 1),
    ):
        line = [Case("", start(x), model(x), 0, None, n_steps).a() for x in q]
        right.plot(q, line, label=label)
    limit = thresholds()[0][1]
    right.axhline(0, color="black", linewidth=0.5)
    right.axvline(limit, color="black", linewidth=1, linestyle="--", label=f"q* = {limit:.4f}")
    right.set(xlabel="probability q that the model stays in s2",
              ylabel="A: the weight diverges below 0")  # fmt: skip
    for axes in (left, right):
        axes.legend(fontsize="x-small")
        axes.grid(alpha=0.3)
    figure.suptitle("Two states with values w and 2 w: replay and a wrong model")
    return figure


def main() -> None:
    """Compute everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mdps", type=int, default=MDPS, help="random processes")
    parser.add_argument(
        "--out", type=Path, default=folder("replay_vs_model"), help="of the results"
    )
    options = parser.parse_args()
    limits = [[name, f"{ours:.12f}", f"{closed:.12f}", f"{page:g}"]
              for name, ours, closed, page in thresholds()]  # fmt: skip
    shares = {name: survey(change, options.mdps) for name, change in CHANGES.items()}
    rows = [[name, f"{share.unbounded:.0%}", f"{share.unstable:.0%}", f"{share.smallest:.5f}"]
            for name, share in shares.items()]  # fmt: skip
    ratio = shares["full episodes"].ratio
    text = "\n\n".join((
        "Expected TD(0) with one weight: values w in s1 and 2 w in s2, discount 0.99, step size "
        "0.1, first weight 1, no rewards, so that the right weight is 0. Updates start half in s1 "
        "unless a line says otherwise; the model stays in s2 with probability q, which is wrong.",
        two_state_table(),
        table(["critical value", "found", "closed form", "page"], limits),
        f"{options.mdps} random processes of 2 to 12 states, 1 to 20 episodes each. Below the "
        "bound: a column sum of the key matrix is less than 0.01 d. Unstable: some feature "
        f"diverges. With full episodes the smallest eigenvalue is at least {ratio:.3f} times the "
        "smallest start weight (bound: 0.01; the page saw 0.017 in processes of its own).",
        table(["updates from", "below the bound", "unstable", "smallest eigenvalue"], rows),
    ))  # fmt: skip
    facts = provenance(seeds=f"0 to {options.mdps - 1}", n=options.mdps)
    numbers = [{"label": case.label, "a": case.a(), "page": case.page} for case in CASES]
    numbers += [{"label": name, **share._asdict()} for name, share in shares.items()]
    title = "Stability of replay and of a wrong model"
    publish(options.out, "stability", title, text, draw(), facts, numbers)


if __name__ == "__main__":
    main()
