"""Goals reached against environment steps, per mode, beside the curves of the official code.

    python benchmarks/goal_gail/curves.py RESULTS [RESULTS ...] [--env rlzoo/FourRooms-v0]

Reads the records (``results.jsonl``) that ``rlzoo benchmark goals`` writes, and writes
``<env>.md`` (table) and ``<env>.png`` (figure). A line is the mean over seeds; its band is a
bootstrap interval of 95 %, which needs two seeds at least. Published values are mean and population
deviation of three seeds (paper page, section 5).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlzoo.errors import RefusedError
from rlzoo.report.record_schema import Record
from rlzoo.report.records import latest, read
from rlzoo.report.reference import Reference, load_reference, published_names
from rlzoo.report.statistics import Band, Curve, common_steps, mean, sample_efficiency
from rlzoo.report.tables import markdown_table
from rlzoo.runs.provenance import commit

OUT = Path("benchmarks/results/goal_gail")
PUBLISHED = {"goalgail": "goalgail", "gail": "gail", "her-exact": "her"}
"""Mode of the suite -> name in the file of published numbers."""

METRIC = "reached"
"""Coverage where there is one, else success at any step."""

Curves = Mapping[str, Mapping[int, Curve]]  # mode -> seed -> (step, value) of every evaluation


def curves_of(records: Sequence[Record], env: str) -> dict[str, dict[int, Curve]]:
    """Return the curves of an environment's runs.

    Args:
        records: Of the suite ``goals``; others and failed runs are passed over.
        env: Environment.

    Raises:
        RefusedError: If there is none, or runs of different sizes of the suite.
    """
    chosen = [
        record
        for record in latest(records).values()
        if (record.suite, record.env, record.status) == ("goals", env, "ok")
        and METRIC in record.metric_curves
    ]
    sizes = {record.size for record in chosen}
    if len(sizes) != 1:
        raise RefusedError(
            f"Runs with a curve of {METRIC!r} on {env}: of the sizes {sorted(sizes) or 'none'}.",
            "Allowed: those of one size of the suite goals.",
            "Run `rlzoo benchmark goals --size small --out FOLDER` first.",
        )
    found: dict[str, dict[int, Curve]] = {}
    for record in chosen:
        found.setdefault(record.preset, {})[record.seed] = record.metric_curves[METRIC]
    return found


def published_points(mode: str, env: str) -> list[Reference]:
    """Return what was published for a mode, by steps."""
    points = [
        entry
        for entry in load_reference("goals")
        if (entry.agent, entry.env) == (PUBLISHED.get(mode), env)
        and entry.metric in published_names(METRIC)
        and entry.steps is not None
    ]
    return sorted(points, key=lambda entry: entry.steps or 0)


def band_at(runs: Mapping[int, Curve], steps: Sequence[int]) -> Band:
    """Return mean and interval over seeds; NaN where a run has no value."""
    return sample_efficiency([list(runs.values())], steps, mean)


def table(curves: Curves, env: str) -> str:
    """Return a row for every step, with a column for every mode and for what was published."""
    modes = sorted(curves, key=lambda mode: (mode not in PUBLISHED, list(PUBLISHED).index(mode)
                                             if mode in PUBLISHED else mode))  # fmt: skip
    theirs = {mode: {p.steps: p for p in published_points(mode, env)} for mode in modes}
    last = max(step for runs in curves.values() for curve in runs.values() for step, _ in curve)
    steps = sorted(
        {int(s) for mode in modes for s in common_steps([list(curves[mode].values())])}
        | {s for points in theirs.values() for s in points if s is not None and s <= last}
    )
    columns, cells = ["steps"], [[f"{step:,}" for step in steps]]
    for mode in modes:
        columns.append(f"{mode} ({len(curves[mode])})")
        cells.append(_cells(band_at(curves[mode], steps)))
        if theirs[mode]:
            columns.append(f"{mode}, published")
            cells.append([_published_cell(theirs[mode].get(step)) for step in steps])
    return markdown_table(columns, zip(*cells, strict=True), columns)


def _cells(band: Band) -> list[str]:
    cells = []
    for i, value in enumerate(band.values):
        text = "" if np.isnan(value) else f"{value:.3f}"
        if text and band.low is not None and band.high is not None:
            text += f" [{band.low[i]:.3f}, {band.high[i]:.3f}]"
        cells.append(text)
    return cells


def _published_cell(entry: Reference | None) -> str:
    if entry is None:
        return ""
    return f"{entry.value:.3f}" + ("" if entry.sd is None else f" ± {entry.sd:.3f}")


def draw(curves: Curves, env: str) -> Figure:
    """Return the figure: lines with bands are ours, crosses with bars the published values."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    last = 0
    for index, (mode, runs) in enumerate(sorted(curves.items())):
        color = f"C{index}"
        steps = common_steps([list(runs.values())])
        last = max(last, int(steps[-1]))
        band = band_at(runs, steps.tolist())
        axes.plot(steps, band.values, color=color, label=f"{mode} ({len(runs)})")
        if band.low is not None and band.high is not None:
            axes.fill_between(steps, band.low, band.high, color=color, alpha=0.2, linewidth=0)
        points = published_points(mode, env)
        if points:
            axes.errorbar(
                [p.steps or 0 for p in points], [p.value for p in points],
                [p.sd or 0.0 for p in points], color=color, fmt="x:", capsize=3,
                label=f"{mode}, published",
            )  # fmt: skip
    axes.set(xlim=(0, 1.05 * last), ylim=(0, 1), xlabel="environment steps", ylabel="goals reached")
    axes.set_title(env)
    axes.legend(fontsize="small")
    return figure


def main() -> None:
    """Read records, write a table and a figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--env", default="rlzoo/FourRooms-v0")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    found = read([path / "results.jsonl" if path.is_dir() else path for path in args.results])
    for problem in found.problems:
        print(problem, file=sys.stderr)
    try:
        curves = curves_of(found.records, args.env)
    except RefusedError as error:
        sys.exit(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.env.rpartition("/")[2].replace("@", "_")
    draw(curves, args.env).savefig(args.out / f"{name}.png", metadata={"Software": None})
    lines = [
        f"# {args.env}: share of goals reached",
        "Number of seeds in brackets; mean, and where there are two seeds its interval of 95 %. "
        "Published: three seeds of the official code, mean ± population deviation.",
        table(curves, args.env),
        f"![Goals reached against steps]({name}.png)",
        f"`{' '.join(['python', *sys.argv])}`, commit {commit()}",
    ]
    text = "\n\n".join(lines) + "\n"
    (args.out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
