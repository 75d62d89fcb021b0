"""Four rooms: replay against a wrong model, planned forward or backward, over the model's error.

    python -m benchmarks.replay_vs_model.four_rooms [--seeds 240] [--steps 10000]

The protocol and the numbers of the column "page" are those of the paper page, section 4; why
they are computed there and not taken from the paper stands in the README of this folder.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.output import folder, new_figure, provenance, publish, table
from rlzoo.agents.dyna_dqn.tabular_planning import Planning
from rlzoo.envs.grid import four_rooms

PAGE_SEEDS = 24


class Row(NamedTuple):
    """A row of the table.

    Args:
        label: What is done.
        kwargs: Arguments of :class:`Planning`.
        page: Mean of the page.
        page_se: Its standard error; None where the page has none.
    """

    label: str
    kwargs: dict[str, Any]
    page: float
    page_se: float | None


def _row(label: str, page: float, page_se: float | None, mode: str, **kwargs: Any) -> Row:
    return Row(label, {"mode": mode, **kwargs}, page, page_se)


_ZERO, _SLIP, _PRIOR = {"fictional_value": 0.0}, {"slip": 0.2}, {"pseudo_count": 0.001}
ROWS = [
    _row("Q-learning, no planning", 265, 30, "none"),
    _row("replay", 757, 30, "replay"),
    _row("forward, h=0.02", 2, 1, "forward", error=0.02),
    _row("forward, h=0.1", 2, 1, "forward", error=0.1),
    _row("forward, h=0.3", 1, 0, "forward", error=0.3),
    _row("forward, h=0.6", 1, 1, "forward", error=0.6),
    _row("backward, h=0.02", 796, 27, "backward", error=0.02),
    _row("backward, h=0.1", 809, 26, "backward", error=0.1),
    _row("backward, h=0.3", 790, 27, "backward", error=0.3),
    _row("backward, h=0.6", 751, 35, "backward", error=0.6),
    _row("forward, fictional Q 0, h=0.02", 590, 17, "forward", error=0.02, **_ZERO),
    _row("forward, fictional Q 0, h=0.1", 610, 19, "forward", error=0.1, **_ZERO),
    _row("forward, fictional Q 0, h=0.3", 729, 22, "forward", error=0.3, **_ZERO),
    _row("slip 20 %: replay", 527, 14, "replay", **_SLIP),
    _row("slip 20 %: forward, h=0.1", 2, 1, "forward", error=0.1, **_SLIP),
    _row("slip 20 %: backward, h=0.1", 552, 18, "backward", error=0.1, **_SLIP),
    _row("errors on real states: replay (has no model)", 758, None, "replay"),
    _row("errors on real states: forward", 28, None, "forward", **_PRIOR),
    _row("errors on real states: backward", 12, None, "backward", **_PRIOR),
]


class Outcome(NamedTuple):
    """Episodes of every seed, and the mean number finished so far after every 100 steps."""

    episodes: NDArray[np.int64]
    curve: list[float]

    def part(self, seeds: int) -> tuple[float, float]:
        """Return mean and standard error over the first seeds."""
        first = self.episodes[:seeds]
        error = first.std(ddof=1) / math.sqrt(len(first)) if len(first) > 1 else math.nan
        return float(first.mean()), float(error)


def run(row: Row, steps: int, seeds: int) -> Outcome:
    """Run a row."""
    grid = four_rooms()
    result = Planning(grid.successors, grid.goal, **row.kwargs).run(steps, range(seeds))
    curve = result.finished.cumsum(1)[:, 99::100].mean(0)
    return Outcome(result.episodes, [round(float(value), 3) for value in curve])


def distance(row: Row, outcome: Outcome, seeds: int) -> float:
    """Return the distance from the page's mean in standard errors of the difference.

    The page rounds to whole episodes, so that a printed error of 0 is taken as 0.5. Where it prints
    none, ours for as many seeds as the page has stands in.
    """
    mean, error = outcome.part(seeds)
    theirs = error * math.sqrt(min(seeds, len(outcome.episodes)) / PAGE_SEEDS)
    if row.page_se is not None:
        theirs = row.page_se
    return (mean - row.page) / math.hypot(error, max(theirs, 0.5))


def results_table(outcomes: list[Outcome], seeds: int) -> str:
    """Return the table in Markdown: the page's seeds, and all."""
    some = min(seeds, PAGE_SEEDS)
    columns = ["planning", f"page, {PAGE_SEEDS} seeds"]
    for number in (some, seeds):
        columns += [f"ours, {number} seeds", f"distance, {number} seeds"]
    lines = []
    for row, outcome in zip(ROWS, outcomes, strict=True):
        line = [row.label, f"{row.page:.0f} ± {row.page_se}" if row.page_se is not None else
                f"{row.page:.0f}"]  # fmt: skip
        for number in (some, seeds):
            mean, error = outcome.part(number)
            line += [f"{mean:.0f} ± {error:.1f}", f"{distance(row, outcome, number):+.1f}"]
        lines.append(line)
    return table(columns, lines)


_LINES = {
    "backward": ("backward", "C2"),
    "forward, fictional Q 0": ("forward, wrong values start at 0", "C1"),
    "forward": ("forward, wrong values start in U(0, 1)", "C3"),
}
_CURVES = {
    "replay": "C0", "Q-learning, no planning": "C7", "backward, h=0.3": "C2",
    "forward, fictional Q 0, h=0.1": "C1", "forward, h=0.1": "C3",
}  # fmt: skip


def draw(outcomes: list[Outcome], steps: int) -> Any:
    """Return the figure: episodes over the model's error, and over time."""
    figure, (left, right) = new_figure(2)
    by_label = {row.label: (row, out) for row, out in zip(ROWS, outcomes, strict=True)}
    for label, name in (("replay", "replay"), ("Q-learning, no planning", "no planning")):
        outcome = by_label[label][1]
        mean, error = outcome.part(len(outcome.episodes))
        colour = _CURVES[label]
        left.axhline(mean, color=colour, label=name)
        left.axhspan(mean - 2 * error, mean + 2 * error, color=colour, alpha=0.2, linewidth=0)
    for start, (name, colour) in _LINES.items():
        found = [pair for label, pair in by_label.items() if label.startswith(f"{start}, h=")]
        at = [row.kwargs["error"] for row, _ in found]
        parts = [outcome.part(len(outcome.episodes)) for _, outcome in found]
        means, errors = np.array(parts).T
        left.errorbar(at, means, 2 * errors, color=colour, marker="o", capsize=3, label=name)
        page = [row.page for row, _ in found]
        left.errorbar(at, page, [2 * (row.page_se or 0) for row, _ in found], fmt="s",
                      color="black", markerfacecolor="none", alpha=0.5)  # fmt: skip
    left.plot([], [], "s", color="black", markerfacecolor="none", alpha=0.5, label="page")
    left.set(xlabel="probability h that the model names a wrong state", ylim=(-30, None),
             ylabel=f"episodes finished in {steps:,} steps")  # fmt: skip
    left.legend(fontsize="small", loc="center right")
    for label, colour in _CURVES.items():
        curve = by_label[label][1].curve
        right.plot(100 * np.arange(1, len(curve) + 1), curve, color=colour, label=label)
    right.set(xlabel="real steps", ylabel="episodes finished so far")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    n = len(outcomes[0].episodes)
    figure.suptitle(f"Four rooms: planning with a wrong model, mean ± 2 s.e. of {n} seeds")
    return figure


def main() -> None:
    """Run all rows and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=240, help="runs per row (page: 24)")
    parser.add_argument("--steps", type=int, default=10_000, help="real steps per run")
    parser.add_argument(
        "--out", type=Path, default=folder("replay_vs_model"), help="of the results"
    )
    options = parser.parse_args()
    outcomes, begin = [], time.process_time()
    for row in ROWS:
        outcomes.append(run(row, options.steps, options.seeds))
        mean, error = outcomes[-1].part(options.seeds)
        print(f"{row.label}: {mean:.1f} ± {error:.1f}", flush=True)
    facts = provenance(
        seeds=f"0 to {options.seeds - 1}", n_per_row=options.seeds, steps=options.steps,
        cpu_seconds=round(time.process_time() - begin),
    )  # fmt: skip
    numbers = [
        {"label": row.label, **row.kwargs, "page": row.page, "page_se": row.page_se,
         "episodes": outcome.episodes.tolist(), "curve": outcome.curve}
        for row, outcome in zip(ROWS, outcomes, strict=True)
    ]  # fmt: skip
    text = (
        f"Episodes finished in {options.steps:,} steps, mean ± standard error. Distance: ours "
        "minus the page's, in standard errors of the difference."
    )
    publish(
        options.out, "four_rooms", "Four rooms: replay, forward and backward planning",
        f"{text}\n\n{results_table(outcomes, options.seeds)}", draw(outcomes, options.steps),
        facts, numbers,
    )  # fmt: skip


if __name__ == "__main__":
    main()
