"""Why BEAR exists, in one picture: an error where there are no data, and where a backup takes it.

    python benchmarks/bear/bootstrapping_error.py [--states 20] [--repeats 200]

A chain of states without rewards, so every true value is zero. The data contain one action per
state; the table entry of the other one is frozen at the value that it happened to start with
(B = 10). Ordinary Q-learning maximises over both actions, BEAR's backup over the one in the
support. Left: the error against sweeps. Middle: one unseen action at the end of the chain, whose
error travels to the start. Right: against the size of the data, with noisy rewards. A minute.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rlzoo.agents.bear import tabular
from rlzoo.report.tables import markdown_table
from rlzoo.runs.provenance import commit, machine

FOLDER = Path("benchmarks/results/bear_theory")
NAME = "bootstrapping_error"
START = 10.0  # B, the frozen entry
GAMMA = 0.9
NOISE = 1.0  # standard deviation of one observed reward
SWEEPS = 300
SHOWN = (1, 2, 5, 10, 20, 50, 100, 300)
TRAVEL = (1, 5, 10, 20, 40)
SAMPLES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
BACKUPS = {"all actions": "Q-learning", "actions in the data": "support-constrained"}


@dataclass(frozen=True)
class Point:
    """One number of the figure.

    Args:
        panel: ``"sweeps"``, ``"travel"`` or ``"samples"``.
        backup: Over which actions it maximises.
        at: Sweeps; or the state; or transitions per state.
        error: ``|Q(s, seen)|``, mean over states (``"travel"``: of one) and repeats.
        sd: Standard deviation over repeats.
        misled: Share of states whose greedy action (of those allowed) is the one without data.
        n: Repeats.
        sweeps: How many were made.
    """

    panel: str
    backup: str
    at: int
    error: float
    sd: float
    misled: float
    n: int
    sweeps: int


def supports(mdp: tabular.MDP, seen: tabular.Mask) -> Iterator[tuple[str, tabular.Mask]]:
    """Give each backup with the actions over which it maximises."""
    yield from zip(BACKUPS, (mdp.everything, seen), strict=True)


def misled(q: NDArray[np.float64], mask: tabular.Mask) -> float:
    """Return the share of states in which the unseen action is taken."""
    return float(tabular.greedy(q, mask)[:, 1].mean())


def against_sweeps(mdp: tabular.MDP, seen: tabular.Mask) -> Iterator[Point]:
    """Iterate on exact data: one data set, ever more computation."""
    first = np.where(seen, 0.0, START)
    for name, mask in supports(mdp, seen):
        for sweep, q in enumerate(tabular.sweeps(mdp, first, mask, seen, SWEEPS), start=1):
            if sweep in SHOWN:
                error = float(np.abs(q[:, 0]).mean())
                yield Point("sweeps", name, sweep, error, 0.0, misled(q, mask), 1, sweep)


def along_the_chain(mdp: tabular.MDP) -> Iterator[Point]:
    """Iterate where only the last state has an action without data."""
    seen = mdp.everything.copy()
    seen[-1, 1] = False
    first = np.where(seen, 0.0, START)
    for name, mask in supports(mdp, seen):
        for sweep, q in enumerate(tabular.sweeps(mdp, first, mask, seen, max(TRAVEL)), start=1):
            if sweep in TRAVEL:
                for state, error in enumerate(np.abs(q[:, 0])):
                    share = misled(q[-1:], mask[-1:])
                    yield Point("travel", name, state, float(error), 0.0, share, 1, sweep)


def against_samples(mdp: tabular.MDP, seen: tabular.Mask, repeats: int) -> Iterator[Point]:
    """Iterate to the end on rewards that are means of ``n`` noisy ones: ever more data."""
    first = np.where(seen, 0.0, START)
    for n in SAMPLES:
        # The same draws for both backups.
        noise = np.random.default_rng(n).normal(0, NOISE / np.sqrt(n), (repeats, *seen.shape))
        for name, mask in supports(mdp, seen):
            tables = []
            for drawn in noise:
                *_, last = tabular.sweeps(mdp, first, mask, seen, SWEEPS, drawn)
                tables.append(last)
            errors = np.abs(np.array(tables)[:, :, 0]).mean(1)
            share = float(np.mean([misled(q, mask) for q in tables]))
            mean, sd = float(errors.mean()), float(errors.std(ddof=1))
            yield Point("samples", name, n, mean, sd, share, repeats, SWEEPS)


def draw(points: list[Point], states: int) -> Figure:
    """Return the three panels."""
    figure = Figure(figsize=(15.6, 4.4), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for panel, axes in (("sweeps", left), ("samples", right)):
        for color, (name, label) in enumerate(BACKUPS.items()):
            mine = [p for p in points if (p.panel, p.backup) == (panel, name)]
            at, error, sd = (np.array([getattr(p, k) for p in mine]) for k in ("at", "error", "sd"))
            axes.plot(at, error, f"C{color}o-", label=f"{label} ({name})", markersize=4)
            low = np.maximum(error - sd, 1e-3)
            axes.fill_between(at, low, error + sd, color=f"C{color}", alpha=0.2)
        axes.axhline(GAMMA * START, color="grey", linestyle=":", label="gamma B")
        axes.set(xscale="log", ylabel="mean |error| of Q(s, seen action)")
    left.set(xlabel="sweeps over exact data", title="more computation")
    right.set(xlabel="observed transitions per state", title="more data", yscale="log")
    draw_travel(middle, [p for p in points if p.panel == "travel"])
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(f"Bootstrapping error: chain of {states} states, every true value is 0")
    return figure


def draw_travel(axes: Any, points: list[Point]) -> None:
    """Draw the error along the chain, one line per number of sweeps."""
    plain, constrained = BACKUPS
    for index, sweeps in enumerate(TRAVEL):
        mine = [p for p in points if (p.backup, p.sweeps) == (plain, sweeps)]
        shade = 0.3 + 0.7 * index / (len(TRAVEL) - 1)
        label = f"{BACKUPS[plain]}, {sweeps} sweep{'s' if sweeps > 1 else ''}"
        axes.plot([p.at for p in mine], [p.error for p in mine], "C0", alpha=shade, label=label)
    mine = [p for p in points if (p.backup, p.sweeps) == (constrained, max(TRAVEL))]
    label = f"{BACKUPS[constrained]}, {max(TRAVEL)} sweeps"
    axes.plot([p.at for p in mine], [p.error for p in mine], "C1", label=label)
    axes.set(xlabel="state", ylabel="|error| of Q(s, seen action)")
    axes.set(title="one unseen action, in the last state")


def results_table(points: list[Point]) -> str:
    """Return first and last point of every line."""
    columns = ["backup maximises over", "at", "error", "states that take the unseen", "n"]
    rows = []
    for panel, unit in (("sweeps", "sweep{}"), ("samples", "transition{} per state")):
        for name in BACKUPS:
            mine = [p for p in points if (p.panel, p.backup) == (panel, name)]
            for p in (mine[0], mine[-1]):
                error = f"{p.error:.3f}" if p.n == 1 else f"{p.error:.3f} ± {p.sd:.3f}"
                at = f"{p.at:,} {unit.format('s' if p.at > 1 else '')}"
                rows.append([name, at, error, f"{p.misled:.0%}", str(p.n)])
    return markdown_table(columns, rows, columns[1:])


def provenance(given: argparse.Namespace) -> dict[str, Any]:
    """Return how it was made."""
    import torch

    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "processor": machine(torch.device("cpu"))["processor"],
        "states": given.states,
        "repeats": given.repeats,
        "gamma": GAMMA,
        "start_of_the_unseen": START,
        "reward_noise": NOISE,
    }


def publish(
    folder: Path, text: str, figure: Figure, facts: dict[str, Any], points: list[Point]
) -> None:
    """Write the table, the figure and the numbers, and print the first."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{NAME}.png", metadata={"Software": None})
    lines = "\n".join(f"- {key.replace('_', ' ')}: `{value}`" for key, value in facts.items())
    page = f"# Bootstrapping error\n\n{text}\n\n![Bootstrapping error]({NAME}.png)\n\n{lines}\n"
    (folder / f"{NAME}.md").write_text(page, encoding="utf-8")
    records = [json.dumps(record) for record in (facts, *map(asdict, points))]
    (folder / f"{NAME}.jsonl").write_text("\n".join(records) + "\n", encoding="utf-8")
    print(page)


def main() -> None:
    """Run both panels and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--states", type=int, default=20, help="length of the chain")
    parser.add_argument("--repeats", type=int, default=200, help="data sets per size")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    given = parser.parse_args()
    mdp, seen = tabular.chain(given.states, GAMMA)
    points = [
        *against_sweeps(mdp, seen),
        *along_the_chain(mdp),
        *against_samples(mdp, seen, given.repeats),
    ]
    text = (
        "Every true value is 0; the entry of the action without data is frozen at 10. A backup "
        "over all actions carries gamma times that entry into every state and takes the unseen "
        "action there; neither sweeps nor data change it. Over the actions in the data the error "
        f"is that of sampling, which falls with the data.\n\n{results_table(points)}"
    )
    publish(given.out, text, draw(points, given.states), provenance(given), points)


if __name__ == "__main__":
    main()
